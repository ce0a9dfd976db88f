"""A thin client of the HTTP API, for programs and for the `signalbox` command.

    with Client("http://127.0.0.1:8000", key) as signalbox:
        instance = signalbox.start("order", input={"order": 7}, wait=5)
        signalbox.send(instance["id"], {"type": "APPROVED"})

Answers are the API's bodies (`shapes.py`). A refusal is the exception that the engine itself would raise
(`common/errors.py`), with the API's code and problems; no answer at all is `Unavailable`. Every POST carries an
`Idempotency-Key`, so that a request whose answer got lost is repeated without doing anything twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self, cast
from urllib.parse import quote

import httpx2

from common.errors import (
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    SignalboxError,
    Unauthorized,
    Unavailable,
)
from common.ids import new_id
from signalbox.shapes import (
    Breaker,
    BulkPage,
    Compensations,
    Config,
    Definition,
    DefinitionDiff,
    DefinitionStatistics,
    DefinitionSummary,
    Entry,
    Handler,
    Incident,
    IncidentDetail,
    Instance,
    Json,
    Limit,
    Metadata,
    Page,
    Problem,
    Reaction,
    Resolved,
    Result,
    Schedule,
    ScheduleRun,
    Secret,
    SignedLink,
    Suggestion,
    Task,
    Trigger,
    Verdict,
)

PAUSES_SECONDS = (0.1, 0.3)
"""Waits before the second and third try of a request that got no answer."""
TIMEOUT_SECONDS = 30.0
PAGE = 200

Availability = Literal["activate", "deactivate", "archive", "restore"]
ControlVerb = Literal["pause", "resume", "retry", "cancel", "compensate"]
Way = Literal["retry", "skip"]
Scope = Literal["tenant", "module", "instance"]
Overlap = Literal["skip", "queue", "cancel", "allow"]
CatchUp = Literal["none", "last", "all"]


class Client:
    """One tenant's view of a Signalbox at `url`, as the owner of `key`. Safe to share between threads; close it."""

    def __init__(self, url: str, key: str | None, *, timeout: float = TIMEOUT_SECONDS) -> None:
        self.url = url.rstrip("/")
        headers = {"Accept": "application/json", "User-Agent": "signalbox-client"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        # No proxy and no .netrc from the environment: the key goes where the caller said, nowhere else.
        self._http = httpx2.Client(
            base_url=self.url,
            headers=headers,
            timeout=timeout,
            trust_env=False,
            follow_redirects=False,
            # Where nothing is encrypted nobody's certificate is asked for, and to load all that are trusted takes 40 ms.
            verify=not self.url.startswith("http://"),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def results(self, instance_id: str, *, limit: int | None = None) -> Iterator[Result]:
        """What the work of an instance has come to: the newest task of each place, newest first."""
        return self._items(_path("instances", instance_id, "results"), limit=limit)

    # --- metadata ---------------------------------------------------------------------------------------------

    def metadata(self, instance_id: str, *, limit: int | None = None) -> Iterator[Metadata]:
        """What the handlers of an instance share, by key."""
        return self._items(_path("instances", instance_id, "metadata"), limit=limit)

    def metadata_value(self, instance_id: str, key: str) -> Metadata:
        """One value, with who set it. Raises `NotFound`."""
        return cast("Metadata", self._get(_path("instances", instance_id, "metadata", key)))

    def set_metadata(self, instance_id: str, key: str, value: Json, **expected: Json) -> Metadata:
        """Set a value; with `expected=` only in the place of that one (None: of none), else `Conflict`."""
        path = _path("instances", instance_id, "metadata", key)
        return cast("Metadata", self._ask("PUT", path, json={"value": value, **expected}).json())

    def remove_metadata(self, instance_id: str, key: str) -> Metadata:
        """Delete a value. Raises `NotFound`."""
        path = _path("instances", instance_id, "metadata", key)
        return cast("Metadata", self._ask("DELETE", path).json())

    # --- configuration ----------------------------------------------------------------------------------------

    def configs(
        self,
        *,
        module: str | None = None,
        key: str | None = None,
        scope: Scope | None = None,
        scope_id: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Config]:
        """Configuration values that match every filter, newest first."""
        params = _given(module=module, key=key, scope=scope, scopeId=scope_id)
        return self._items("/configs", params, limit=limit)

    def set_config(
        self,
        module: str,
        key: str,
        value: Json,
        *,
        scope: Scope = "module",
        scope_id: str | None = None,
        description: str | None = None,
    ) -> Config:
        """Set a value in its scope, or change the one that is there. Never a secret."""
        named: dict[str, Json] = {"module": module, "key": key, "value": value, "scope": scope}
        return cast(
            "Config", self._post("/configs", named | _body(scopeId=scope_id, description=description))
        )

    def remove_config(self, config_id: str) -> Config:
        """Delete a value; what is wider holds from then on."""
        return cast("Config", self._ask("DELETE", _path("configs", config_id)).json())

    def resolve_config(
        self,
        module: str,
        keys: Sequence[str],
        *,
        scope_id: str | None = None,
        definition_key: str | None = None,
    ) -> dict[str, Resolved]:
        """The value that holds for each key, and its source: instance, module, tenant or default."""
        params = _given(module=module, keys=",".join(keys), scopeId=scope_id, definitionKey=definition_key)
        return cast("dict[str, Resolved]", self._get("/configs/resolve", params)["results"])

    # --- definitions ------------------------------------------------------------------------------------------

    def apply(self, document: Mapping[str, Json], *, activate: bool = True) -> Definition:
        """Apply a definition. One with the same content as the newest version gives that version again.

        Raises `Invalid` (`definition.invalid`) with `problems`.
        """
        return cast("Definition", self._post("/definitions", {"document": document, "activate": activate}))

    def check(self, document: Mapping[str, Json]) -> list[Problem]:
        """Every problem of a document, errors and warnings; nothing is stored."""
        return cast("list[Problem]", self._post("/definitions/check", {"document": document})["problems"])

    def definitions(self, *, search: str | None = None) -> Iterator[DefinitionSummary]:
        """The definitions of this tenant, each by the version that starts; with `search` those whose keys have it in them."""
        return self._items("/definitions", _given(search=search))

    def definition(self, key: str, version: int | None = None) -> Definition:
        """One version of a definition; without a number the one that starts by this key."""
        path = (
            _path("definitions", key) if version is None else _path("definitions", key, "versions", version)
        )
        return cast("Definition", self._get(path))

    def versions(self, key: str) -> Iterator[DefinitionSummary]:
        """All versions of a definition."""
        return self._items(_path("definitions", key, "versions"))

    def diff(self, key: str, *, older: int | None = None, newer: int | None = None) -> DefinitionDiff:
        """What differs between two versions of a definition: the one that starts and the one before, unless you say others."""
        wanted = {"from": older, "to": newer}
        params = {name: None if one is None else str(one) for name, one in wanted.items()}
        return cast("DefinitionDiff", self._get(_path("definitions", key, "diff"), _given(**params)))

    def definition_stats(self, key: str, *, since: datetime | None = None) -> DefinitionStatistics:
        """How the instances of a definition have fared that were created from `since` on; else in the last 30 days."""
        params = _given(since=None if since is None else since.isoformat())
        return cast("DefinitionStatistics", self._get(_path("definitions", key, "stats"), params))

    def set_availability(self, key: str, version: int, verb: Availability) -> Definition:
        """Activate, deactivate, archive or restore one version."""
        return cast("Definition", self._post(_path("definitions", key, "versions", version, verb), {}))

    def diagram(
        self, key: str, version: int | None = None, *, form: Literal["mermaid", "svg"] = "mermaid"
    ) -> str:
        """The chart of a definition as Mermaid text or as SVG."""
        path = (
            _path("definitions", key) if version is None else _path("definitions", key, "versions", version)
        )
        return self._ask("GET", f"{path}/diagram", params={"format": form}).text

    # --- instances --------------------------------------------------------------------------------------------

    def start(
        self,
        definition_key: str | None = None,
        *,
        definition_id: str | None = None,
        version: int | None = None,
        business_key: str | None = None,
        input: Json = None,
        context: Mapping[str, Json] | None = None,
        priority: int | None = None,
        start_at: str | None = None,
        labels: Mapping[str, str] | None = None,
        on_conflict: Literal["return", "reject"] | None = None,
        wait: float | None = None,
    ) -> Instance:
        """Start an instance, or get the live one that has this business key.

        With `wait` the answer comes once the instance has settled, after that many seconds at the latest.
        """
        body = {
            "definitionKey": definition_key,
            "definitionId": definition_id,
            "version": version,
            "businessKey": business_key,
            "input": input,
            "context": context,
            "priority": priority,
            "startAt": start_at,
            "labels": labels,
            "onConflict": on_conflict,
        }
        given = {name: value for name, value in body.items() if value is not None}
        return cast("Instance", self._post("/instances", given, wait=wait))

    def instances(
        self,
        *,
        status: Sequence[str] = (),
        definition_key: str | None = None,
        business_key: str | None = None,
        state: str | None = None,
        labels: Mapping[str, str] | None = None,
        parent_id: str | None = None,
        queued: bool | None = None,
        limit: int | None = None,
    ) -> Iterator[Instance]:
        """Instances that match every filter, newest first, page by page; at most `limit`."""
        params = [
            *(("status", one) for one in status),
            *_given(definitionKey=definition_key, businessKey=business_key, state=state, parentId=parent_id),
            *(() if queued is None else (("queued", "true" if queued else "false"),)),
            *(("label", f"{name}:{value}") for name, value in (labels or {}).items()),
        ]
        return self._items("/instances", params, limit=limit)

    def instance(self, instance_id: str) -> Instance:
        return cast("Instance", self._get(_path("instances", instance_id)))

    def send(self, instance_id: str, event: Mapping[str, Json], *, wait: float | None = None) -> Instance:
        """Send an event: one JSON object with `type` and any other members."""
        return cast("Instance", self._post(_path("instances", instance_id, "events"), event, wait=wait))

    def control(self, instance_id: str, verb: ControlVerb, *, reason: str | None = None) -> Instance:
        """Say a control verb; answers with the instance as it stands within two seconds."""
        return cast("Instance", self._post(_path("instances", instance_id, verb), _body(reason=reason)))

    def cancel(self, instance_id: str, *, compensate: bool = True, reason: str | None = None) -> Instance:
        """End an instance; what it has done is undone first where its definition says how, unless `compensate` is false."""
        body = _body(reason=reason) | ({} if compensate else {"compensate": False})
        return cast("Instance", self._post(_path("instances", instance_id, "cancel"), body))

    def compensations(self, instance_id: str) -> Compensations:
        """What an instance has done that can be undone, in the order of its undoing, and how far that is."""
        return cast("Compensations", self._get(_path("instances", instance_id, "compensations")))

    def step(self, instance_id: str) -> Instance:
        """Take a paused instance one event further."""
        return cast("Instance", self._post(_path("instances", instance_id, "step"), {}))

    def restart(
        self,
        instance_id: str,
        *,
        state: str | None = None,
        context: Mapping[str, Json] | None = None,
        reason: str | None = None,
    ) -> Instance:
        """Let an instance go on from a chosen state, the initial one where none is named."""
        body = _body(state=state, context=context, reason=reason)
        return cast("Instance", self._post(_path("instances", instance_id, "restart"), body))

    def control_all(
        self,
        verb: ControlVerb,
        filter: Mapping[str, Json],
        *,
        reason: str | None = None,
        dry_run: bool = False,
    ) -> Iterator[BulkPage]:
        """Say a control verb to every instance that a filter finds; what became of them, page by page."""
        body = _body(verb=verb, filter=filter, reason=reason, dryRun=dry_run)
        return self._bulk("/instances:bulk", body)

    def erase(
        self, instance_id: str, *, reason: str | None = None, cancel: bool = False, children: bool = True
    ) -> None:
        """Ask for the data of an ended instance to be erased; done once the instance shows `erasedAt`."""
        self._post(_path("instances", instance_id, "erase"), _erasing(reason, cancel, children))

    def erase_all(
        self,
        filter: Mapping[str, Json],
        *,
        reason: str | None = None,
        cancel: bool = False,
        children: bool = True,
        dry_run: bool = False,
    ) -> Iterator[BulkPage]:
        """Erase every ended instance that a filter finds; what became of them, page by page."""
        body = _body(filter=filter, dryRun=dry_run, **_erasing(reason, cancel, children))
        return self._bulk("/instances:erase", body)

    def resolve(
        self, incident_id: str, way: Way, *, output: Json = None, reason: str | None = None
    ) -> Instance:
        """Resolve an incident: `retry` what failed, or `skip` it with an output by hand."""
        body = {"output": output, "way": way, **_body(reason=reason)}
        return cast("Instance", self._post(_path("incidents", incident_id, "resolve"), body))

    def resolve_all(
        self,
        way: Way,
        filter: Mapping[str, Json],
        *,
        output: Json = None,
        reason: str | None = None,
        dry_run: bool = False,
    ) -> Iterator[BulkPage]:
        """Resolve every open incident that a filter finds; what became of them, page by page."""
        body = {"output": output, "way": way, **_body(filter=filter, reason=reason, dryRun=dry_run)}
        return self._bulk("/incidents:resolve", body)

    def note(self, instance_id: str, text: str) -> Json:
        """Append a note to an instance's history."""
        return self._post(_path("instances", instance_id, "history"), {"note": text})

    def history_page(self, instance_id: str, cursor: str | None = None) -> Page:
        """One page of an instance's history, oldest first."""
        params = [("limit", str(PAGE)), *_given(cursor=cursor)]
        return cast("Page", self._get(_path("instances", instance_id, "history"), params))

    def history(self, instance_id: str, *, since: int | None = None) -> Iterator[Entry]:
        """An instance's history, oldest first: all of it, or what its rows from the number `since` on tell."""
        params = _given(since=None if since is None else str(since))
        return self._items(_path("instances", instance_id, "history"), params)

    def verify(self, instance_id: str) -> Verdict:
        """Check an instance's hash chain and replay its history."""
        return cast("Verdict", self._get(_path("instances", instance_id, "verify")))

    def explain(self, instance_id: str) -> dict[str, Json]:
        """Why an instance stands where it stands, and what would move it."""
        return cast("dict[str, Json]", self._get(_path("instances", instance_id, "explain")))

    # --- events and triggers ----------------------------------------------------------------------------------

    def publish(
        self,
        event: Mapping[str, Json],
        *,
        definition_key: str | None = None,
        business_key: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> list[Reaction]:
        """Publish an event to triggers, and to the live instances that a business key or labels name."""
        correlation = _body(definitionKey=definition_key, businessKey=business_key, labels=labels)
        body = {**event, "correlation": correlation} if correlation else event
        return cast("list[Reaction]", self._post("/events", body)["items"])

    def triggers(
        self, *, definition_key: str | None = None, event: str | None = None, limit: int | None = None
    ) -> Iterator[Trigger]:
        """Triggers that match every filter, newest first."""
        return self._items("/triggers", _given(definitionKey=definition_key, event=event), limit=limit)

    def trigger(self, trigger_id: str) -> Trigger:
        return cast("Trigger", self._get(_path("triggers", trigger_id)))

    def create_trigger(
        self,
        definition_key: str,
        event: str,
        *,
        condition: Json = None,
        input: Json = None,
        business_key: str | None = None,
        name: str | None = None,
        enabled: bool = True,
        trigger_id: str | None = None,
    ) -> Trigger:
        """Create a trigger; with `trigger_id`, replace that one by it."""
        body = _body(
            definitionKey=definition_key,
            event=event,
            condition=condition,
            input=input,
            businessKey=business_key,
            name=name,
            enabled=enabled,
        )
        if trigger_id is None:
            return cast("Trigger", self._post("/triggers", body))
        return cast("Trigger", self._ask("PUT", _path("triggers", trigger_id), json=body).json())

    def delete_trigger(self, trigger_id: str) -> Trigger:
        """Delete a trigger; what it has started goes on."""
        return cast("Trigger", self._ask("DELETE", _path("triggers", trigger_id)).json())

    # --- circuit breakers -------------------------------------------------------------------------------------

    def breakers(
        self, *, state: str | None = None, type: str | None = None, limit: int | None = None
    ) -> Iterator[Breaker]:
        """Circuit breakers that match every filter, by type and target."""
        return self._items("/breakers", _given(state=state, type=type), limit=limit)

    def open_breaker(self, type: str, target: str) -> Breaker:
        """Let no task of a type call a target, until the breaker is closed or reset."""
        return self._turn_breaker("open", type, target)

    def close_breaker(self, type: str, target: str) -> Breaker:
        """Let every task of a type call a target, however the calls end, until the breaker is reset."""
        return self._turn_breaker("close", type, target)

    def reset_breaker(self, type: str, target: str) -> Breaker:
        """Close a breaker and leave it to itself again."""
        return self._turn_breaker("reset", type, target)

    def _turn_breaker(self, verb: str, type: str, target: str) -> Breaker:
        return cast("Breaker", self._post(f"/breakers:{verb}", {"type": type, "target": target}))

    # --- schedules --------------------------------------------------------------------------------------------

    def schedules(
        self, *, definition_key: str | None = None, paused: bool | None = None, limit: int | None = None
    ) -> Iterator[Schedule]:
        """Schedules that match every filter, newest first."""
        flag = None if paused is None else str(paused).lower()
        return self._items("/schedules", _given(definitionKey=definition_key, paused=flag), limit=limit)

    def schedule(self, schedule_id: str) -> Schedule:
        """One schedule, with its next runs."""
        return cast("Schedule", self._get(_path("schedules", schedule_id)))

    def create_schedule(
        self,
        definition_key: str,
        *,
        cron: str | None = None,
        every: str | int | None = None,
        at: str | None = None,
        timezone: str | None = None,
        name: str | None = None,
        overlap: Overlap | None = None,
        catch_up: CatchUp | None = None,
        catch_up_limit: int | None = None,
        jitter: str | int | None = None,
        input: Json = None,
        business_key: str | None = None,
        paused: bool | None = None,
        schedule_id: str | None = None,
    ) -> Schedule:
        """Create a schedule by exactly one of `cron`, `every` and `at`; with `schedule_id`, replace that one by it."""
        body = _body(
            definitionKey=definition_key,
            cron=cron,
            every=every,
            at=at,
            timezone=timezone,
            name=name,
            overlap=overlap,
            catchUp=catch_up,
            catchUpLimit=catch_up_limit,
            jitter=jitter,
            input=input,
            businessKey=business_key,
            paused=paused,
        )
        if schedule_id is None:
            return cast("Schedule", self._post("/schedules", body))
        return cast("Schedule", self._ask("PUT", _path("schedules", schedule_id), json=body).json())

    def delete_schedule(self, schedule_id: str) -> Schedule:
        """Delete a schedule; what it has started goes on."""
        return cast("Schedule", self._ask("DELETE", _path("schedules", schedule_id)).json())

    def pause_schedule(self, schedule_id: str) -> Schedule:
        """Let a schedule start nothing until it is resumed."""
        return cast("Schedule", self._post(_path("schedules", schedule_id, "pause"), {}))

    def resume_schedule(self, schedule_id: str, *, catch_up: bool = False) -> Schedule:
        """Let a paused schedule go on, with the next instant or with those that came meanwhile."""
        body = {"catchUp": catch_up}
        return cast("Schedule", self._post(_path("schedules", schedule_id, "resume"), body))

    def fire_schedule(self, schedule_id: str, *, wait: float | None = None) -> Instance:
        """Start one run of a schedule now."""
        return cast("Instance", self._post(_path("schedules", schedule_id, "trigger"), {}, wait=wait))

    def next_runs(self, schedule_id: str, count: int = 10) -> list[ScheduleRun]:
        """The next runs of a schedule."""
        params = [("count", str(count))]
        return cast("list[ScheduleRun]", self._get(_path("schedules", schedule_id, "next"), params)["items"])

    # --- tasks, incidents, the whole ---------------------------------------------------------------------------

    def tasks(
        self,
        *,
        instance_id: str | None = None,
        status: Sequence[str] = (),
        type: str | None = None,
        parent: str | None = None,
        assignee: str | None = None,
        candidate: str | None = None,
        overdue: bool = False,
        limit: int | None = None,
    ) -> Iterator[Task]:
        """Tasks that match every filter; at most `limit`.

        `parent`: the items of this MAP. `assignee`: the work of this person, `candidate`: what this person may claim,
        `overdue`: only what has not ended and is past its due time.
        """
        query: list[tuple[str, str]] = [("status", one) for one in status]
        more = _given(
            type=type,
            parentTaskId=parent,
            assignee=assignee,
            candidate=candidate,
            overdue="true" if overdue else None,
        )
        if instance_id is not None and not more:  # which tells of an instance that there is not
            return self._items(_path("instances", instance_id, "tasks"), query, limit=limit)
        path, query = "/tasks", [*query, *more, *_given(instanceId=instance_id)]
        return self._items(path, query, limit=limit)

    def task(self, task_id: str) -> Task:
        return cast("Task", self._get(_path("tasks", task_id)))

    def claim_task(self, task_id: str, *, assignee: str | None = None) -> Task:
        """Make a HUMAN task the work of who asks, or of `assignee`."""
        return self._decide(task_id, "claim", _body(assignee=assignee))

    def unclaim_task(self, task_id: str) -> Task:
        """Give a HUMAN task back."""
        return self._decide(task_id, "unclaim", {})

    def delegate_task(self, task_id: str, assignee: str) -> Task:
        """Let somebody else take a HUMAN task over."""
        return self._decide(task_id, "delegate", {"assignee": assignee})

    def complete_task(self, task_id: str, output: Json = None, *, shown_hash: str | None = None) -> Task:
        """Complete a HUMAN task; `shown_hash` is what the task was shown under, another one by now is refused."""
        return self._decide(task_id, "complete", {"output": output, **_body(shownHash=shown_hash)})

    def reject_task(
        self, task_id: str, reason: str, *, output: Json = None, shown_hash: str | None = None
    ) -> Task:
        """Reject a HUMAN task: it fails for good with the code `human.rejected`."""
        body = {"reason": reason, **_body(output=output, shownHash=shown_hash)}
        return self._decide(task_id, "reject", body)

    def fail_task(self, task_id: str, code: str, message: str, *, data: Json = None) -> Task:
        """Fail a HUMAN task for good with this error."""
        return self._decide(task_id, "fail", {"error": {"code": code, "message": message, "data": data}})

    def _decide(self, task_id: str, verb: str, body: Mapping[str, Json]) -> Task:
        return cast("Task", self._post(_path("tasks", task_id, verb), body))

    def link_task(
        self,
        task_id: str,
        person: str,
        *,
        output: Json = None,
        reject: str | None = None,
        expires_in: str | int | None = None,
    ) -> SignedLink:
        """A link by which `person` completes a HUMAN task with `output`, or rejects it for the reason `reject`; once."""
        decision = {"output": output} if reject is None else {"reject": reject}
        body = {"person": person, **decision, **_body(expiresIn=expires_in)}
        return cast("SignedLink", self._post(_path("tasks", task_id, "links"), body))

    def link_event(
        self, instance_id: str, person: str, event: Mapping[str, Json], *, expires_in: str | int | None = None
    ) -> SignedLink:
        """A link by which `person` sends `event` to an instance; once."""
        body = {"person": person, "event": dict(event), **_body(expiresIn=expires_in)}
        return cast("SignedLink", self._post(_path("instances", instance_id, "links"), body))

    def incidents(
        self,
        *,
        instance_id: str | None = None,
        status: str | None = None,
        code: str | None = None,
        definition_key: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Incident]:
        params = _given(instanceId=instance_id, status=status, code=code, definitionKey=definition_key)
        return self._items("/incidents", params, limit=limit)

    def incident(self, incident_id: str) -> IncidentDetail:
        return cast("IncidentDetail", self._get(_path("incidents", incident_id)))

    def suggestions(
        self, *, instance_id: str | None = None, status: str | None = None, limit: int | None = None
    ) -> Iterator[Suggestion]:
        """What models have suggested, newest first."""
        return self._items("/suggestions", _given(instanceId=instance_id, status=status), limit=limit)

    def suggestion(self, suggestion_id: str) -> Suggestion:
        return cast("Suggestion", self._get(_path("suggestions", suggestion_id)))

    def accept(self, suggestion_id: str, *, comment: str | None = None) -> Instance:
        """Accept a suggestion: its event is sent to the instance, as yours."""
        path = _path("suggestions", suggestion_id, "accept")
        return cast("Instance", self._post(path, _body(comment=comment)))

    def reject(self, suggestion_id: str, *, comment: str | None = None) -> Instance:
        """Reject a suggestion; nothing is sent."""
        path = _path("suggestions", suggestion_id, "reject")
        return cast("Instance", self._post(path, _body(comment=comment)))

    # --- task types -------------------------------------------------------------------------------------------

    def handlers(self, *, category: str | None = None) -> list[Handler]:
        """Task types, the engine's own and those that task runners offer, with their schemas."""
        return cast("list[Handler]", self._get("/handlers", _given(category=category))["items"])

    def handler(self, type: str, *, name: str | None = None) -> Handler:
        """A task type, or a function of type SYSTEM by its `name`. Raises `NotFound`."""
        return cast("Handler", self._get(_path("handlers", type), _given(name=name)))

    # --- limits -----------------------------------------------------------------------------------------------

    def limits(self) -> Iterator[Limit]:
        """The limits of running tasks of this tenant, by key."""
        return self._items("/limits")

    def limit(self, key: str) -> Limit:
        """One limit, and what it does at this instant. Raises `NotFound`."""
        return cast("Limit", self._get(_path("limits", key)))

    def set_limit(
        self,
        key: str,
        *,
        max_running: int | None = None,
        count: int | None = None,
        per: str | int | None = None,
        burst: int | None = None,
    ) -> Limit:
        """Set what holds for `type:TYPE` or `key:TEXT`: tasks that run at once, or `count` that start in the time `per`, or both."""
        rate = None if count is None else {"count": count, "per": per, "burst": burst}
        body = {"maxRunning": max_running, "rate": rate}
        return cast("Limit", self._ask("PUT", _path("limits", key), json=body).json())

    def delete_limit(self, key: str) -> None:
        """Delete a limit. Raises `NotFound`."""
        self._ask("DELETE", _path("limits", key))

    # --- secrets ----------------------------------------------------------------------------------------------

    def secrets(self) -> Iterator[Secret]:
        """The secrets of this tenant, by name; their values are never told."""
        return self._items("/secrets")

    def set_secret(self, name: str, value: str) -> Secret:
        """Set a secret's value, text of 1 to 65,536 bytes. One whose answer got lost is set again: its version counts both."""
        return cast("Secret", self._ask("PUT", _path("secrets", name), json={"value": value}).json())

    def delete_secret(self, name: str) -> None:
        """Delete a secret. Raises `NotFound`."""
        self._ask("DELETE", _path("secrets", name))

    def stats(self) -> dict[str, Json]:
        return cast("dict[str, Json]", self._get("/stats"))

    def is_ready(self) -> bool:
        """Whether the API answers and can reach its database; one question, no second try."""
        try:
            return self._http.get("/health/ready", timeout=2).status_code == 200
        except httpx2.TransportError:
            return False

    # --- how it asks ------------------------------------------------------------------------------------------

    def _items(
        self, path: str, params: Sequence[tuple[str, str]] = (), *, limit: int | None = None
    ) -> Iterator[Any]:
        left, cursor = limit, None
        while left is None or left > 0:
            size = PAGE if left is None else min(left, PAGE)
            page = self._get(path, [*params, ("limit", str(size)), *_given(cursor=cursor)])
            yield from page["items"]
            left = None if left is None else left - len(page["items"])
            cursor = page["nextCursor"]
            if cursor is None:
                return

    def _bulk(self, path: str, body: dict[str, Json]) -> Iterator[BulkPage]:
        cursor = None
        while True:
            page = self._post(path, {**body, **_body(cursor=cursor)})
            yield cast("BulkPage", page)
            cursor = page["nextCursor"]
            if cursor is None:
                return

    def _get(self, path: str, params: Sequence[tuple[str, str]] = ()) -> Any:
        return self._ask("GET", path, params=params).json()

    def _post(self, path: str, body: Mapping[str, Json], *, wait: float | None = None) -> Any:
        headers = {"Idempotency-Key": new_id()}
        if wait is not None:
            headers["Prefer"] = f"wait={wait:g}"
        return self._ask("POST", path, json=body, headers=headers, patience=wait or 0.0).json()

    def _ask(self, method: str, path: str, *, patience: float = 0.0, **request: Any) -> httpx2.Response:
        timeout = httpx2.Timeout(self._http.timeout.read, read=(self._http.timeout.read or 0) + patience)
        response = self._try(method, f"/api/v1{path}", timeout=timeout, **request)
        if response.is_success:
            return response
        raise _refusal(response)

    def _try(self, method: str, path: str, **request: Any) -> httpx2.Response:
        # Repeating is safe: a GET changes nothing, a POST carries the same Idempotency-Key each time, and a PUT or DELETE
        # said twice does what it does once.
        for pause in (*PAUSES_SECONDS, None):
            try:
                return self._http.request(method, path, **request)
            except httpx2.TransportError as error:
                if pause is None:
                    raise _no_answer(self.url, error) from error
                time.sleep(pause)
        raise AssertionError("unreachable: the last try returns or raises")


def _path(*parts: object) -> str:
    """A path of these segments. Whatever an id contains, it stays one segment: it cannot name another route."""
    return "".join(f"/{_segment(str(part))}" for part in parts)


def _segment(text: str) -> str:
    # Quoting leaves dots alone, and "." and ".." would be taken for steps through the path.
    return text.replace(".", "%2E") if set(text) <= {"."} else quote(text, safe="")


def _body(**members: Any) -> dict[str, Json]:
    """The members that were given."""
    return {name: value for name, value in members.items() if value is not None}


def _erasing(reason: str | None, cancel: bool, children: bool) -> dict[str, Json]:
    return _body(reason=reason, cancel=cancel, children=children)


def _given(**params: str | None) -> list[tuple[str, str]]:
    return [(name, value) for name, value in params.items() if value is not None]


def _no_answer(url: str, error: httpx2.TransportError) -> Unavailable:
    if "SSL" in str(error):
        return Unavailable(
            f"{url} answers, and TLS fails: {error}; is it http:// and not https://, and the certificate one that is trusted here?",
            code="client.no_answer",
            url=url,
        )
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return Unavailable(
            f"nothing answers at {url}; start it with `signalbox up`", code="client.unreachable", url=url
        )
    what = str(error) or type(error).__name__
    return Unavailable(f"{url} did not answer in time or broke off: {what}", code="client.no_answer", url=url)


_KINDS: Mapping[int, type[SignalboxError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
}


def _refusal(response: httpx2.Response) -> SignalboxError:
    """The exception behind a problem document; a body that is none of ours gives its status and beginning."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or "code" not in problem:
        return Unavailable(
            f"{response.request.url} answered {response.status_code}, which no Signalbox would: "
            f"{response.text[:200]!r}",
            code="client.unexpected_answer",
            status=response.status_code,
        )
    message = str(problem.get("detail") or problem.get("title") or problem["code"])
    code = str(problem["code"])
    if response.status_code >= 500:
        return Unavailable(message, code=code, status=response.status_code)
    kind = _KINDS.get(response.status_code)
    if kind is not None:
        return kind(message, code=code, status=response.status_code)
    return Invalid(message, code=code, problems=problem.get("problems") or (), status=response.status_code)
