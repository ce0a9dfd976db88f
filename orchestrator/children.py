"""Children: instances that other instances start, and that tell them how they ended.

Parent and child are rows of their own, and speak by rows in each other's inbox: no step reads or locks another instance.
What a parent's step starts is inserted in that step's transaction, `pending` and with its `start`; what a child's step ends
is told in that step's transaction. Between the two lies nothing but inboxes, whatever dies when.

A child that cannot be started (no such definition, its business key held, too deep) is no error of the batch: it is the
answer `refused` to the obligation that asked, in the parent's own inbox. `common.decide_children` reads these answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Connection

from common import decide_compensation
from common.canonical import clean, dumps, read, size
from common.commands.admission import Asking, place_wanted, require_room
from common.commands.contracts import CONTRACTS, Contract
from common.commands.outcome import WorkflowEnd
from common.commands.start import MAX_KEY
from common.config import Limits
from common.db.tables import DefinitionStatus, InboxType, TimerStatus
from common.decide_children import COMPLETED, FAILED, REFUSED
from common.decision import START_TIMER, Decision
from common.errors import Conflict, Invalid, LimitExceeded, NotFound, SignalboxError
from common.ids import InstanceId, TenantId, new_id
from common.lifecycle import FINAL, InstanceStatus, TaskStatus
from common.store import definitions, inbox, instances, places, tasks, timers
from common.store.definitions import DefinitionFacts
from common.store.instances import LockedInstance
from common.store.places import Place
from statechart.effects import StartWorkflow
from statechart.maps import map_key

LARGEST_VERSION = 2**31 - 1  # of the column: a version beyond it exists nowhere

_Wanted = tuple[TenantId, str, int | None]


class Parent(Protocol):
    """What a child takes from who asks for it."""

    @property
    def id(self) -> InstanceId: ...
    @property
    def tenant_id(self) -> TenantId: ...
    @property
    def priority(self) -> int: ...
    @property
    def depth(self) -> int: ...


@dataclass
class _Asked:
    """A child that a step asked for. `input` is canonical text: what cannot be one fails the step, not the batch."""

    parent: Parent
    effect: StartWorkflow
    input: str
    is_withdrawn: bool = False
    tells: bool = False

    def fields(self, definition: DefinitionFacts, now: datetime) -> dict[str, Any]:
        """Its row."""
        effect, parent = self.effect, self.parent
        return {
            "id": effect.instance_id,
            "tenant_id": parent.tenant_id,
            "definition_id": definition.id,
            "definition_key": definition.key,
            "definition_version": definition.version,
            "business_key": effect.business_key,
            "input": self.input,
            "priority": parent.priority if effect.priority is None else effect.priority,
            "parent_id": parent.id,
            "parent_key": effect.key if effect.wait else None,  # nobody waits: nobody is told
            "cancel_with_parent": effect.cancel_with_parent,
            "depth": parent.depth + 1,
            "created_at": now,
        }


@dataclass(frozen=True, slots=True)
class _Ended:
    """A child whose parent is to be told, as `Children.tell` found it; `request` says whether it may be asked for again."""

    child: LockedInstance
    parent_id: InstanceId
    answer: dict[str, Any]
    has_request: bool


@dataclass
class Children:
    """What the steps of a batch ask of children and tell parents, collected first and saved once."""

    _asked: dict[tuple[str, str], _Asked] = field(default_factory=dict)
    _cancelled: set[tuple[str, str]] = field(default_factory=set)
    _telling: set[tuple[str, str]] = field(default_factory=set)
    _ended: list[_Ended] = field(default_factory=list)
    _ended_tasks: list[dict[str, Any]] = field(default_factory=list)
    ended_items: list[WorkflowEnd] = field(default_factory=list)
    refused_items: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    """Items of MAPs whose children could not be started, once saved: (instance, key, error)."""

    # -- collecting ----------------------------------------------------------------------------------------------

    def ask(self, parent: Parent, effect: StartWorkflow) -> None:
        """Collect a child to start. Raises `Invalid` for an input or keys that cannot be stored: they fail the step."""
        clean([effect.definition_key, effect.business_key])
        self._asked[parent.id, effect.key] = _Asked(parent, effect, dumps(clean(effect.input)))

    def cancel(self, parent: LockedInstance, key: str, *, tells: bool = False) -> None:
        """Collect a child that is not wanted any more, if only asked for in this very batch: it ends by its own step.

        With `tells` its parent wants to know when it has ended, and how.
        """
        asked = self._asked.get((parent.id, key))
        if asked is None:
            self._cancelled.add((parent.id, key))
        else:
            asked.is_withdrawn = True
            asked.tells = tells
        if tells:
            self._telling.add((parent.id, key))

    def take(
        self, held: LockedInstance, type: InboxType, body: str, actor: str, before: Decision, after: Decision
    ) -> None:
        """Notice what one decided row means for the parent, and for the WORKFLOW task that it answers."""
        if type is InboxType.CHILD:
            self._end_task(held, read(body), before, after)
        if held.parent_id is None or held.parent_key is None:
            return
        # Who was retried together with its MAP and fails in that very step has not changed its status, and is waited for.
        fails_again = (
            type is InboxType.RETRY
            and after.status is InstanceStatus.FAILED
            and map_key(held.parent_key) is not None
        )
        if after.status is before.status and not fails_again:
            return
        # A parent that has cancelled its child does not wait for the answer, unless it says so.
        is_known = (
            type is InboxType.CANCEL
            and actor == name_of(held.parent_id)
            and not read(body).get("tells", False)
        )
        if after.status in (InstanceStatus.FAILED, *FINAL) and not is_known:
            told = _told(held, held.parent_id, after)
            if map_key(held.parent_key) is None:
                self._ended.append(told)
            else:  # its MAP counts it; what stopped it stays its own incident
                self.ended_items.append(_item_end(told))

    def cancel_items(self, keys: Iterable[tuple[str, str]]) -> None:
        """Collect the children of items that nobody waits for any more, (instance, key) each."""
        self._cancelled.update(keys)

    def _end_task(
        self, held: LockedInstance, body: Mapping[str, Any], before: Decision, after: Decision
    ) -> None:
        """The row of a WORKFLOW task ends with its child; it fails too where nobody catches that, as any other."""
        key, status = body["key"], body["child"]["status"]
        was_open = before.snapshot is not None and key in before.snapshot["tasks"]
        is_open = after.snapshot is not None and key in after.snapshot["tasks"]
        if not was_open or (is_open and status == FAILED):
            return
        has_succeeded = status == COMPLETED
        self._ended_tasks.append(
            {
                "instance_id": held.id,
                "key": key,
                "status": (TaskStatus.SUCCEEDED if has_succeeded else TaskStatus.FAILED).value,
                "output": dumps({**body["child"], "output": body["output"]}) if has_succeeded else None,
                "error": None if has_succeeded else dumps(body["error"]),
            }
        )

    def merge(self, other: Children) -> None:
        self._asked.update(other._asked)
        self._cancelled |= other._cancelled
        self._telling |= other._telling
        self._ended += other._ended
        self._ended_tasks += other._ended_tasks
        self.ended_items += other.ended_items
        self.refused_items += other.refused_items

    # -- saving --------------------------------------------------------------------------------------------------

    @property
    def are_asked_for(self) -> bool:
        """Are there children to start?"""
        return bool(self._asked)

    def end_tasks(self, tx: Connection, *, now: datetime) -> None:
        """End the WORKFLOW tasks whose children have ended; before others of their instances are cancelled.

        Who else waits for such a row holds its instance, as we do: its order among tasks does not matter.
        """
        tasks.end_workflows(tx, [{**row, "finished_at": now} for row in self._ended_tasks])

    def save(self, tx: Connection, *, limits: Limits, now: datetime) -> list[dict[str, Any]]:
        """Insert the children; return inbox rows for them and for parents. To be called when no other lock is waited for."""
        rows = self._start(tx, limits, now) if self._asked else []
        if self._cancelled:
            for keys, tells in ((self._cancelled - self._telling, False), (self._telling, True)):
                found = instances.find_children(tx, sorted(keys)) if keys else []
                rows += [
                    _cancel_row(tenant, child, parent, now, tells=tells) for child, tenant, parent in found
                ]
        return rows + self._answers(tx, now)

    def _start(self, tx: Connection, limits: Limits, now: datetime) -> list[dict[str, Any]]:
        known: dict[_Wanted, DefinitionFacts | SignalboxError] = {}
        refused: list[tuple[_Asked, SignalboxError]] = []
        startable: dict[str, tuple[_Asked, dict[str, Any]]] = {}
        wanting: dict[str, Asking] = {}
        for asked in self._asked.values():
            found = _definition(tx, asked, known)
            contract = None if isinstance(found, SignalboxError) else CONTRACTS.of(tx, found.id)
            problem = found if contract is None else _problem(asked, limits, contract)
            if problem is None and not isinstance(found, SignalboxError) and contract is not None:
                wanted = _place_wanted(asked, found, contract)
                if isinstance(wanted, Asking):
                    wanting[asked.effect.instance_id] = wanted
                problem = wanted if isinstance(wanted, Invalid) else None
            if isinstance(problem, SignalboxError):
                refused.append((asked, problem))
            elif not isinstance(found, SignalboxError):
                startable[asked.effect.instance_id] = (asked, asked.fields(found, now))
        refused += self._take_places(tx, startable, wanting, now)
        inserted = instances.insert_children(tx, [fields for _, fields in startable.values()])
        started = [asked for id_, (asked, _) in startable.items() if id_ in inserted]
        refused += [(asked, _held(tx, asked)) for id_, (asked, _) in startable.items() if id_ not in inserted]
        self.refused_items += [
            (asked.parent.id, asked.effect.key, error_of(problem))
            for asked, problem in refused
            if map_key(asked.effect.key) is not None
        ]
        refused = [(asked, problem) for asked, problem in refused if map_key(asked.effect.key) is None]
        timers.arm(tx, [_start_timer(asked, now) for asked in started if _is_later(asked, now)])
        return [
            *(_first_row(asked, now) for asked in started if asked.is_withdrawn or not _is_later(asked, now)),
            *(_refusal(asked, problem, now) for asked, problem in refused),
        ]

    @staticmethod
    def _take_places(
        tx: Connection,
        startable: dict[str, tuple[_Asked, dict[str, Any]]],
        wanting: Mapping[str, Asking],
        now: datetime,
    ) -> list[tuple[_Asked, SignalboxError]]:
        """Say of each child whether it waits for a place; those that may not wait and find none are taken out and returned."""
        refused: list[tuple[_Asked, SignalboxError]] = []
        at_once = {
            id_: asking
            for id_, asking in wanting.items()
            if asking.is_refusable and id_ in startable and not _is_later(startable[id_][0], now)
        }
        places.lock(tx, {asking.place for asking in at_once.values()})
        taken: Counter[Place] = Counter()
        for id_, asking in at_once.items():
            try:
                require_room(tx, asking, besides=taken[asking.place])
            except Conflict as problem:
                refused.append((startable.pop(id_)[0], problem))
            else:
                taken[asking.place] += 1
        for id_, (_, fields) in startable.items():
            wanted = wanting.get(id_)
            fields.update(
                {"concurrency_key": None, "queued": False}
                if wanted is None
                else replace(wanted, has_place=id_ in at_once).columns()
            )
        return refused

    def _answers(self, tx: Connection, now: datetime) -> list[dict[str, Any]]:
        """The rows that tell parents of their children's ends. Who may be asked for again says what it was asked for."""
        lacking = [ended.child.id for ended in self._ended if ended.has_request]
        inputs = instances.read_inputs(tx, lacking) if lacking else {}
        rows = []
        for ended in self._ended:
            child, answer = ended.child, ended.answer
            if ended.has_request:
                answer["request"] = {"businessKey": child.business_key, "input": read(inputs[child.id])}
            rows.append(
                inbox.new_row(
                    child.tenant_id, ended.parent_id, InboxType.CHILD, dumps(answer), name_of(child.id), now
                )
            )
        return rows


def name_of(instance_id: InstanceId | None) -> str:
    """How an instance is named as the actor of what it does to another."""
    return f"instance:{instance_id}"


def child_of(asked: _Asked) -> InstanceId:
    return InstanceId(asked.effect.instance_id)


# -- starting -----------------------------------------------------------------------------------------------------


def _definition(
    tx: Connection, asked: _Asked, known: dict[_Wanted, DefinitionFacts | SignalboxError]
) -> DefinitionFacts | SignalboxError:
    """The active version of the key, or the one that was asked for, as this transaction sees it; looked up once a batch."""
    wanted = (asked.parent.tenant_id, asked.effect.definition_key, asked.effect.version)
    if wanted not in known:
        try:
            known[wanted] = _find_definition(tx, *wanted)
        except SignalboxError as problem:
            known[wanted] = problem
    return known[wanted]


def _find_definition(tx: Connection, tenant_id: TenantId, key: str, version: int | None) -> DefinitionFacts:
    exists = version is None or 0 < version <= LARGEST_VERSION
    found = definitions.find_facts(tx, tenant_id, key, version=version) if exists else None
    if found is None and version is None:  # none is active: say which one there is
        newest = definitions.find_newest(tx, tenant_id, key)
        found = newest.facts if newest else None
    if found is None:
        wanted = f'"{key}"' if version is None else f'"{key}" version {version}'
        raise NotFound(f"no definition {wanted}; apply it, then retry", code="definition.not_found")
    if found.status is not DefinitionStatus.ACTIVE:
        raise Conflict(
            f'definition "{key}" version {found.version} is {found.status.value}; activate it, then retry',
            code="definition.not_active",
        )
    return found


def _problem(asked: _Asked, limits: Limits, contract: Contract) -> SignalboxError | None:
    """Why a child may not be started although its definition may."""
    depth, key = asked.parent.depth + 1, asked.effect.business_key
    if depth > limits.max_child_depth:
        return LimitExceeded(
            f"a workflow may have {limits.max_child_depth} parents above it, this one would have {depth}",
            limit="max_child_depth",
            allowed=limits.max_child_depth,
        )
    if size(asked.input) > limits.max_event_bytes:
        return LimitExceeded(
            f"the input is {size(asked.input)} bytes, at most {limits.max_event_bytes} are allowed",
            limit="max_event_bytes",
            allowed=limits.max_event_bytes,
        )
    if key is not None and len(key) > MAX_KEY:
        return Invalid(
            f"businessKey: expected 1 to {MAX_KEY} characters, found {len(key)}", code="start.invalid"
        )
    try:
        contract.check_input(read(asked.input))
    except Invalid as problem:
        return problem
    return None


def _place_wanted(asked: _Asked, definition: DefinitionFacts, contract: Contract) -> Asking | Invalid | None:
    """The place that a child wants, None where its definition says nothing of it; or why it has no key for one."""
    if contract.concurrency is None:
        return None
    try:
        return place_wanted(
            contract.concurrency,
            asked.parent.tenant_id,
            definition,
            input=read(asked.input),
            business_key=asked.effect.business_key,
            labels={},
        )
    except Invalid as problem:
        return problem


def _held(tx: Connection, asked: _Asked) -> Conflict:
    """Its business key is taken: by whom, if that one is still there to be named."""
    effect = asked.effect
    holder = instances.find_live(tx, asked.parent.tenant_id, effect.definition_key, effect.business_key or "")
    message = (
        f'business key "{effect.business_key}" of "{effect.definition_key}" is held by another live instance'
    )
    return Conflict(message, code="instance.business_key_held", instanceId=holder)


def _is_later(asked: _Asked, now: datetime) -> bool:
    return asked.effect.start_at is not None and asked.effect.start_at > now


def _start_body(asked: _Asked) -> str:
    return f'{{"context":null,"input":{asked.input}}}'


def _first_row(asked: _Asked, now: datetime) -> dict[str, Any]:
    """Its start; or its cancel, where it was withdrawn by the batch that asked for it."""
    parent = asked.parent
    if asked.is_withdrawn:
        return _cancel_row(parent.tenant_id, child_of(asked), parent.id, now, tells=asked.tells)
    return inbox.new_row(
        parent.tenant_id, child_of(asked), InboxType.START, _start_body(asked), name_of(parent.id), now
    )


def _start_timer(asked: _Asked, now: datetime) -> dict[str, Any]:
    return {
        "id": new_id(),
        "tenant_id": asked.parent.tenant_id,
        "instance_id": child_of(asked),
        "key": START_TIMER,
        "due_at": asked.effect.start_at,
        "status": TimerStatus.ARMED.value,
        "inbox_type": InboxType.START.value,
        "body": _start_body(asked),
        "created_at": now,
        "finished_at": None,
    }


def _refusal(asked: _Asked, problem: SignalboxError, now: datetime) -> dict[str, Any]:
    """The answer to an obligation whose child could not be started, in the asker's own inbox."""
    effect, parent = asked.effect, asked.parent
    request = {
        "businessKey": effect.business_key,
        "cancelWithParent": effect.cancel_with_parent,
        "completionEvent": effect.completion_event,
        "definitionKey": effect.definition_key,
        "failureEvent": effect.failure_event,
        "input": read(asked.input),
        "version": effect.version,
        "wait": effect.wait,
    }
    error = error_of(problem)
    answer = _answer(effect.key, effect.definition_key, effect.instance_id, REFUSED)
    body = dumps({**answer, "error": error, "request": request})
    return inbox.new_row(parent.tenant_id, parent.id, InboxType.CHILD, body, "engine", now)


def error_of(problem: SignalboxError) -> dict[str, Any]:
    """A refusal as the error of what was to be started."""
    return {"code": problem.code, "data": problem.fields, "message": problem.message}


# -- ending -------------------------------------------------------------------------------------------------------


def _told(child: LockedInstance, parent_id: InstanceId, after: Decision) -> _Ended:
    """What a parent is told of a child that has just ended or failed."""
    answer = _answer(child.parent_key or "", child.definition_key, child.id, after.status.value)
    if after.status is InstanceStatus.COMPLETED:
        return _Ended(
            child, parent_id, {**answer, "output": (after.snapshot or {}).get("output")}, has_request=False
        )
    data: dict[str, Any] = {"instanceId": child.id, "status": after.status.value}
    if decide_compensation.has_ended(after):
        answer["child"]["compensated"] = True  # it does not go on any more, whatever its status says
    if after.incident is not None:
        data["error"] = {"code": after.incident.code, "message": after.incident.message}
        why = f": {after.incident.message}"
    else:
        reason = next((change["reason"] for change in after.changes if change.get("reason")), None)
        data["reason"] = reason
        why = f": {reason}" if reason else ""
    error = {
        "code": f"child.{after.status.value}",
        "data": data,
        "message": f'"{child.definition_key}" instance {child.id} {_ENDINGS[after.status]}{why}',
    }
    return _Ended(child, parent_id, {**answer, "error": error}, has_request=after.status in FINAL)


def _item_end(told: _Ended) -> WorkflowEnd:
    """What a MAP counts of a child: its output as a WORKFLOW has it, or its error."""
    answer, child = told.answer, told.child.id
    output = None if "error" in answer else item_output(child, answer["output"])
    error = dumps(answer["error"]) if "error" in answer else None
    return WorkflowEnd(told.parent_id, answer["key"], output, error)


def item_output(child_id: InstanceId, output: Any) -> str:
    """The output of an item whose child has completed, canonical text."""
    return dumps({"instanceId": child_id, "output": output, "status": COMPLETED})


_ENDINGS: Mapping[InstanceStatus, str] = {
    InstanceStatus.FAILED: "failed",
    InstanceStatus.CANCELLED: "was cancelled",
    InstanceStatus.TIMED_OUT: "timed out",
}


def _answer(key: str, definition_key: str, instance_id: str, status: str) -> dict[str, Any]:
    child = {"definitionKey": definition_key, "instanceId": instance_id, "status": status}
    return {"child": child, "key": key}


def _cancel_row(
    tenant_id: TenantId, child_id: InstanceId, parent_id: InstanceId, now: datetime, *, tells: bool = False
) -> dict[str, Any]:
    """The command of a parent; with `tells` it wants to know when the child has ended."""
    asked = {"tells": True} if tells else {}
    body = dumps({"reason": "its parent does not wait for it any more", **asked})
    source = name_of(parent_id)
    return inbox.new_row(tenant_id, child_id, InboxType.CANCEL, body, source, now, lane=inbox.CONTROL)
