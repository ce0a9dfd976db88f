"""Schedules by hand: create, change, pause, resume, fire now, remove; and one run of one, which the orchestrator asks for too.

A run that starts is an instance like any other, started by the actor `schedule:NAME`. Its input is the schedule's, a
template over what is known of the run (`RUN_NAMES`); without one, it is these facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from sqlalchemy import Connection

from common.canonical import clean, dumps, read
from common.clock import instant_text
from common.commands.absent import require_definition
from common.commands.send import require_size
from common.commands.start import MAX_KEY, Start, start_instance
from common.config import Limits
from common.db.now import read_now
from common.db.tables import Source
from common.errors import Conflict, Invalid, LimitExceeded, NotFound
from common.ids import InstanceId, TenantId, is_id, new_id
from common.schedule import (
    CatchUp,
    Overlap,
    Recurrence,
    Run,
    ScheduleInvalid,
    ScheduleKind,
    Timing,
    read_recurrence,
    upcoming,
)
from common.store import schedules as store
from common.store.schedules import Schedule
from statechart.durations import parse_duration
from statechart.expressions import ExpressionFailed, ExpressionInvalid, Scope
from statechart.templates import Value, compile_value

MAX_NAME = 200
MAX_JITTER = timedelta(days=1)
MAX_CATCH_UP = 100
CATCH_UP_LIMIT = 10
MAX_SHOWN = 100
RUN_NAMES = ("scheduledAt", "firedAt", "scheduleId")
"""What the input and the business key of a schedule may read, beside `now`."""


@dataclass(frozen=True, slots=True)
class ScheduleRequest:
    """What a schedule is to do. `input` and `business_key` are templates; None stands for none."""

    definition_key: str
    kind: ScheduleKind
    expression: str
    name: str | None = None
    timezone: str = "UTC"
    overlap: Overlap = Overlap.SKIP
    catch_up: CatchUp = CatchUp.LAST
    catch_up_limit: int = CATCH_UP_LIMIT
    jitter: str | int = 0
    input: Any = None
    business_key: str | None = None
    paused: bool = False


def create_schedule(
    tx: Connection, tenant_id: TenantId, request: ScheduleRequest, *, actor: str, limits: Limits
) -> Schedule:
    """Create a schedule; intervals begin now. The caller commits.

    Raises `Invalid` (`schedule.invalid`) with problems, `NotFound` (`definition.not_found`) and `LimitExceeded`.
    """
    now = read_now(tx)
    columns = _columns(request, now, limits)
    require_definition(tx, tenant_id, request.definition_key)
    if store.count(tx, tenant_id) >= limits.max_schedules:
        raise LimitExceeded(
            f"a tenant may have {limits.max_schedules} schedules",
            limit="max_schedules",
            allowed=limits.max_schedules,
        )
    schedule_id = new_id()
    store.create(tx, new_row(tenant_id, schedule_id, columns, Source.API, actor=actor, now=now))
    return found(store.read(tx, tenant_id, schedule_id), schedule_id)


def new_row(
    tenant_id: TenantId,
    schedule_id: str,
    columns: dict[str, Any],
    source: Source,
    *,
    actor: str,
    now: datetime,
) -> dict[str, Any]:
    """A schedule's first row. One whose only instant is past has nothing to wait for."""
    made = {
        "id": schedule_id,
        "tenant_id": tenant_id,
        **columns,
        "source": source.value,
        "anchor_at": now,
        "active": True,
        "created_at": now,
        "created_by": actor,
        "updated_at": now,
        "updated_by": actor,
    }
    return {**made, **waiting_for(_timing_of_columns(schedule_id, made).next_after(now))}


def replace_schedule(
    tx: Connection,
    tenant_id: TenantId,
    schedule_id: str,
    request: ScheduleRequest,
    *,
    actor: str,
    limits: Limits,
) -> Schedule:
    """Give a schedule another form; what it has started and counted stays. It waits for the next instant from now on.

    Intervals begin anew where the interval is another one. Raises as `create_schedule`, and `Conflict`
    (`schedule.of_definition`) for one that is written in a definition.
    """
    now = read_now(tx)
    columns = _columns(request, now, limits)
    schedule = _lock(tx, tenant_id, schedule_id)
    _require_own(schedule, "change")
    require_definition(tx, tenant_id, request.definition_key)
    changes = changed_columns(schedule, columns, now)
    if schedule.paused and not request.paused:  # as a resume: what came during the pause is not caught up
        changes |= waiting_for(_timing_of_columns(schedule_id, changes).next_after(now))
    store.change(
        tx,
        tenant_id,
        schedule_id,
        **changes,
        updated_at=now,
        updated_by=actor,
    )
    return found(store.read(tx, tenant_id, schedule_id), schedule_id)


def changed_columns(schedule: Schedule, columns: dict[str, Any], now: datetime) -> dict[str, Any]:
    """What another form of a schedule changes in its row."""
    is_same = (schedule.kind, schedule.expression) == (columns["kind"], columns["expression"])
    anchor_at = schedule.anchor_at if is_same else now
    is_retimed = not (
        is_same and (schedule.timezone, schedule.jitter_ms) == (columns["timezone"], columns["jitter_ms"])
    )
    changes = {**columns, "anchor_at": anchor_at, "active": True}
    if is_retimed or not schedule.active:
        changes |= waiting_for(_timing_of_columns(schedule.id, changes).next_after(now))
    if columns["overlap"] not in (Overlap.QUEUE, Overlap.CANCEL):
        changes["queued"] = "[]"
    return changes


def delete_schedule(tx: Connection, tenant_id: TenantId, schedule_id: str) -> Schedule:
    """Remove a schedule; what it has started goes on. Raises `NotFound`, `Conflict` (`schedule.of_definition`)."""
    schedule = _lock(tx, tenant_id, schedule_id)
    _require_own(schedule, "delete")
    store.remove(tx, tenant_id, schedule_id)
    return schedule


def pause_schedule(tx: Connection, tenant_id: TenantId, schedule_id: str, *, actor: str) -> Schedule:
    """Let a schedule start nothing until it is resumed. Said twice, it does the same."""
    schedule = _lock(tx, tenant_id, schedule_id)
    if not schedule.paused:
        store.change(tx, tenant_id, schedule_id, paused=True, updated_at=read_now(tx), updated_by=actor)
    return found(store.read(tx, tenant_id, schedule_id), schedule_id)


def resume_schedule(
    tx: Connection, tenant_id: TenantId, schedule_id: str, *, catch_up: bool = False, actor: str
) -> Schedule:
    """Let a paused schedule go on, with the next instant from now on.

    With `catch_up`, what came meanwhile counts as missed, and its catch-up policy decides.
    """
    schedule = _lock(tx, tenant_id, schedule_id)
    if schedule.paused:
        now = read_now(tx)
        following = {}
        if schedule.active and not catch_up:
            following = waiting_for(_known_timing(schedule).next_after(now))
        store.change(tx, tenant_id, schedule_id, paused=False, updated_at=now, updated_by=actor, **following)
    return found(store.read(tx, tenant_id, schedule_id), schedule_id)


def fire_schedule(
    tx: Connection, tenant_id: TenantId, schedule_id: str, *, actor: str, limits: Limits
) -> InstanceId:
    """Start one run now, by hand: whatever lives, also of a paused schedule. What it waits for stays as it is.

    Raises what a start raises, and `Invalid` (`schedule.template`) for a template that has no value.
    """
    schedule = _lock(tx, tenant_id, schedule_id)
    now = read_now(tx)
    instance_id = start_run(tx, schedule, None, now=now, actor=actor, limits=limits)
    store.change(
        tx,
        tenant_id,
        schedule_id,
        fired=schedule.fired + 1,
        last_fired_at=now,
        last_instance_id=instance_id,
        last_error=None,
    )
    return instance_id


def next_runs(schedule: Schedule, count: int) -> list[Run]:
    """The next runs as they stand, at most `count`: none of a schedule that is paused or inactive."""
    if schedule.paused or schedule.scheduled_at is None:
        return []
    try:
        timing = timing_of(schedule)
    except ScheduleInvalid:  # a zone that this machine does not know: firing says so on the row
        return []
    instants = [schedule.scheduled_at, *islice(upcoming(timing.recurrence, schedule.scheduled_at), count - 1)]
    return [Run(instant, timing.due_at(instant)) for instant in instants[:count]]


# -- one run ------------------------------------------------------------------------------------------------------


def start_run(
    tx: Connection,
    schedule: Schedule,
    scheduled_at: datetime | None,
    *,
    now: datetime,
    actor: str,
    limits: Limits,
) -> InstanceId:
    """Start the instance of one instant, or one by hand where `scheduled_at` is None.

    The instance's row names schedule and instant, which are unique together: whatever happens, it is started once.
    Raises what a start raises, before anything is written, and `Invalid` (`schedule.template`).
    """
    facts = {
        "scheduledAt": instant_text(scheduled_at or now),
        "firedAt": instant_text(now),
        "scheduleId": schedule.id,
    }
    request = Start(
        definition_key=schedule.definition_key,
        business_key=_business_key(schedule, facts, now),
        input=facts if schedule.input is None else _evaluate("input", read(schedule.input), facts, now),
        labels={"schedule": schedule.name or schedule.id},
        on_conflict="reject",
        schedule_id=schedule.id,
        scheduled_at=scheduled_at,
    )
    return start_instance(tx, schedule.tenant_id, request, actor=actor, limits=limits).instance_id


def actor_of(schedule: Schedule) -> str:
    """How a schedule is named in the history of what it starts."""
    return f"schedule:{schedule.name or schedule.id}"


def timing_of(schedule: Schedule) -> Timing:
    """When a schedule fires. Raises `ScheduleInvalid` where this machine does not know its zone."""
    recurrence = read_recurrence(schedule.kind, schedule.expression, schedule.timezone, schedule.anchor_at)
    return Timing(schedule.id, recurrence, schedule.jitter_ms)


def _known_timing(schedule: Schedule) -> Timing:
    try:
        return timing_of(schedule)
    except ScheduleInvalid as invalid:
        raise Conflict(
            f"cannot resume schedule {schedule.id}: {invalid.message}", code="schedule.invalid"
        ) from None


def waiting_for(run: Run | None) -> dict[str, Any]:
    """The columns that say what a schedule waits for."""
    return {
        "scheduled_at": None if run is None else run.scheduled_at,
        "next_at": None if run is None else run.due_at,
    }


def _timing_of_columns(schedule_id: str, columns: dict[str, Any]) -> Timing:
    recurrence = read_recurrence(
        ScheduleKind(columns["kind"]), columns["expression"], columns["timezone"], columns["anchor_at"]
    )
    return Timing(schedule_id, recurrence, columns["jitter_ms"])


def _business_key(schedule: Schedule, facts: dict[str, Any], now: datetime) -> str | None:
    if schedule.business_key is None:
        return None
    key = _evaluate("businessKey", schedule.business_key, facts, now)
    if not isinstance(key, str):
        raise Invalid(
            f"businessKey: expected text, found {dumps(clean(key))[:100]}", code="schedule.template"
        )
    return key


def _evaluate(member: str, template: Any, facts: dict[str, Any], now: datetime) -> Any:
    try:
        return compile_value(template, extra_names=RUN_NAMES).evaluate(Scope(now=now, extra=facts))
    except (ExpressionFailed, ExpressionInvalid) as error:
        raise Invalid(f"{member}: {error}", code="schedule.template") from error


# -- checking -----------------------------------------------------------------------------------------------------


def problems_of(request: ScheduleRequest) -> list[dict[str, Any]]:
    """Everything that can be said against a schedule's members, but for the definition that it names."""
    problems = []
    try:
        recurrence_of(request)
    except ScheduleInvalid as invalid:
        problems.append(problem(invalid.member, invalid.message, invalid.suggestion))
    try:
        jitter_ms(request.jitter)
    except ValueError as error:
        problems.append(problem("jitter", str(error)))
    if not 1 <= request.catch_up_limit <= MAX_CATCH_UP:
        problems.append(
            problem("catchUpLimit", f"expected 1 to {MAX_CATCH_UP}, found {request.catch_up_limit}")
        )
    if request.name is not None and not (
        0 < len(request.name) <= MAX_NAME
        and request.name.isprintable()
        and request.name == request.name.strip()
    ):
        problems.append(problem("name", f"expected 1 to {MAX_NAME} printable characters"))
    if request.business_key is not None and not 0 < len(request.business_key) <= MAX_KEY:
        problems.append(problem("businessKey", f"expected 1 to {MAX_KEY} characters"))
    for member, template in (("input", request.input), ("businessKey", request.business_key)):
        problems += _template_problems(member, template)
    return problems


def recurrence_of(request: ScheduleRequest, anchor_at: datetime | None = None) -> Recurrence:
    """Read the timing of a request. Raises `ScheduleInvalid`."""
    anchor = anchor_at or datetime.fromisoformat("2000-01-01T00:00:00+00:00")
    return read_recurrence(request.kind, request.expression, request.timezone, anchor)


def jitter_ms(jitter: str | int) -> int:
    """The jitter in milliseconds. Raises `ValueError`."""
    milliseconds = parse_duration(jitter)
    if timedelta(milliseconds=milliseconds) > MAX_JITTER:
        raise ValueError(f"expected at most a day, found {jitter!r}")
    return milliseconds


def problem(path: str, message: str, suggestion: str | None = None) -> dict[str, Any]:
    return {
        "severity": "error",
        "code": "schedule.invalid",
        "path": path,
        "message": message,
        "suggestion": suggestion,
    }


def _template_problems(member: str, template: Any) -> list[dict[str, Any]]:
    try:
        value = compile_value(template, extra_names=RUN_NAMES)
    except ExpressionInvalid as invalid:
        return [problem(member, str(invalid))]
    return [
        problem(
            member, f'"{path}" is not known when a schedule fires; known are {", ".join(RUN_NAMES)} and now'
        )
        for path in sorted(value.paths)
        if path.partition(".")[0] not in (*RUN_NAMES, "now")
    ] + _secret_problems(member, value)


def _secret_problems(member: str, value: Value) -> list[dict[str, Any]]:
    if not value.secrets:
        return []
    return [problem(member, "secrets are resolved where a task runs; name them in its input")]


def _columns(request: ScheduleRequest, now: datetime, limits: Limits) -> dict[str, Any]:
    """The columns that say what a schedule does. Raises `Invalid` and `LimitExceeded`."""
    clean([request.name, request.definition_key, request.expression, request.timezone, request.business_key])
    problems = problems_of(request)
    if not problems and request.kind is ScheduleKind.AT and recurrence_of(request).after(now) is None:
        problems.append(problem("at", f"expected an instant to come, found {request.expression!r}"))
    if problems:
        message = "; ".join(f"{one['path']}: {one['message']}" for one in problems[:5])
        raise Invalid(message, code="schedule.invalid", problems=problems)
    return columns_of(request, limits)


def columns_of(request: ScheduleRequest, limits: Limits) -> dict[str, Any]:
    """The columns of a request that has been checked. Raises `LimitExceeded` for too large an input."""
    text = None if request.input is None else dumps(clean(request.input, max_depth=limits.max_json_depth))
    if text is not None:
        require_size(text, "the input is", limits)
    return {
        "name": request.name,
        "definition_key": request.definition_key,
        "kind": request.kind.value,
        "expression": request.expression,
        "timezone": request.timezone,
        "overlap": request.overlap.value,
        "catch_up": request.catch_up.value,
        "catch_up_limit": request.catch_up_limit,
        "jitter_ms": jitter_ms(request.jitter),
        "input": text,
        "business_key": request.business_key,
        "paused": request.paused,
    }


def _require_own(schedule: Schedule, verb: str) -> None:
    if schedule.source is Source.DEFINITION:
        raise Conflict(
            f'cannot {verb} schedule "{schedule.name}": it is written in definition "{schedule.definition_key}"; '
            "apply another version, or pause it",
            code="schedule.of_definition",
        )


def _lock(tx: Connection, tenant_id: TenantId, schedule_id: str) -> Schedule:
    known = is_id(schedule_id)
    return found(store.lock(tx, tenant_id, schedule_id) if known else None, schedule_id)


def found(schedule: Schedule | None, schedule_id: str) -> Schedule:
    """The schedule that is there. Raises `NotFound`."""
    if schedule is None:
        raise NotFound(f'no schedule "{schedule_id[:100]}"', code="schedule.not_found")
    return schedule
