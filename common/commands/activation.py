"""What a version starts by itself: its triggers and schedules become rows when it is activated, and follow the active version.

A row is known by its name, or its place, in the document: what was counted, and whether a person has paused it, outlives
versions. What another version does not name any more is removed. Where no version is active, rows stay and do nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from common.canonical import clean, dumps
from common.commands.schedules import (
    ScheduleRequest,
    changed_columns,
    columns_of,
    new_row,
    problems_of,
    waiting_for,
)
from common.config import Limits
from common.db.tables import Source
from common.errors import LimitExceeded
from common.ids import DefinitionId, TenantId, new_id
from common.schedule import CatchUp, Overlap, ScheduleKind
from common.store import schedules, triggers
from common.store.schedules import Schedule
from statechart import Problem
from statechart.document import Timetable, Trigger
from statechart.reading import read_definition
from statechart.triggers import without_states


@dataclass(frozen=True, slots=True)
class Activation:
    """A version that begins to start instances by itself."""

    definition_id: DefinitionId
    key: str
    document: Mapping[str, Any]


def trigger_problems(document: Mapping[str, Any]) -> Iterator[Problem]:
    """What can be said against the schedules of a document that compiles, beside its templates, which the kernel judges."""
    for index, trigger in enumerate(_written(document)):
        request = _request("", trigger, index)
        if request is None:
            continue
        for found in problems_of(request):
            member = found["path"]
            at = f"triggers[{index}]" if member == "name" else f"triggers[{index}].schedule"
            if member not in ("input", "businessKey"):
                yield Problem("error", found["code"], f"{at}.{member}", found["message"], found["suggestion"])
        if len(_given(trigger.schedule)) != 1:
            yield Problem(
                "error",
                "schedule.invalid",
                f"triggers[{index}].schedule",
                "expected exactly one of cron, every and at",
            )


def activate_starts(
    tx: Connection,
    tenant_id: TenantId,
    activation: Activation,
    *,
    actor: str,
    now: datetime,
    limits: Limits,
) -> None:
    """Let triggers and schedules be those of this version. The caller holds the key's lock, and commits."""
    written = list(enumerate(_written(activation.document)))
    _sync_schedules(tx, tenant_id, activation, written, actor=actor, now=now, limits=limits)
    _sync_triggers(tx, tenant_id, activation, written, actor=actor, now=now, limits=limits)


def _written(document: Mapping[str, Any]) -> Sequence[Trigger]:
    """The triggers of a document that compiles, read without its states: these may be thousands, and the transaction holds locks."""
    definition, _ = read_definition(without_states(document))
    return definition.triggers if definition is not None else ()


def deactivate_starts(tx: Connection, tenant_id: TenantId, key: str, *, actor: str, now: datetime) -> None:
    """Let nothing of a definition start by itself, because no version of it is active."""
    by = {"updated_at": now, "updated_by": actor}
    for schedule in schedules.lock_of_definition(tx, tenant_id, key):
        schedules.change(tx, tenant_id, schedule.id, active=False, queued="[]", **waiting_for(None), **by)
    for trigger in triggers.read_of_definition(tx, tenant_id, key):
        triggers.change(tx, tenant_id, trigger.id, active=False, **by)


# -- schedules ----------------------------------------------------------------------------------------------------


def _sync_schedules(
    tx: Connection,
    tenant_id: TenantId,
    activation: Activation,
    written: list[tuple[int, Trigger]],
    *,
    actor: str,
    now: datetime,
    limits: Limits,
) -> None:
    wanted = {
        str(request.name): request
        for index, trigger in written
        if (request := _request(activation.key, trigger, index)) is not None
    }
    known = {str(row.name): row for row in schedules.lock_of_definition(tx, tenant_id, activation.key)}
    for name in sorted(known.keys() - wanted.keys()):
        schedules.remove(tx, tenant_id, known[name].id)
    added = wanted.keys() - known.keys()
    if added and schedules.count(tx, tenant_id) + len(added) > limits.max_schedules:
        raise LimitExceeded(
            f"a tenant may have {limits.max_schedules} schedules",
            limit="max_schedules",
            allowed=limits.max_schedules,
        )
    for name, request in wanted.items():
        columns = columns_of(request, limits)
        if name in known:
            _change_schedule(tx, known[name], columns, actor=actor, now=now)
        else:
            schedules.create(
                tx, new_row(tenant_id, new_id(), columns, Source.DEFINITION, actor=actor, now=now)
            )


def _change_schedule(
    tx: Connection, schedule: Schedule, columns: dict[str, Any], *, actor: str, now: datetime
) -> None:
    changes = changed_columns(schedule, columns, now)
    # A person who has paused it has said so since; a document that says "paused" is a new word.
    changes["paused"] = schedule.paused or columns["paused"]
    schedules.change(tx, schedule.tenant_id, schedule.id, **changes, updated_at=now, updated_by=actor)


def _request(key: str, trigger: Trigger, index: int) -> ScheduleRequest | None:
    """The schedule that a trigger asks for, None for one by event."""
    table = trigger.schedule
    if table is None:
        return None
    (kind, text), *_ = _given(table) or [(ScheduleKind.CRON, "")]
    return ScheduleRequest(
        definition_key=key,
        kind=kind,
        expression=text,
        name=trigger.name or str(index + 1),
        timezone=table.timezone,
        overlap=Overlap(table.overlap),
        catch_up=CatchUp(table.catch_up),
        catch_up_limit=table.catch_up_limit,
        jitter=_duration(table.jitter),
        input=trigger.input,
        business_key=trigger.business_key,
        paused=table.paused,
    )


def _given(table: Timetable | None) -> list[tuple[ScheduleKind, str]]:
    if table is None:
        return []
    texts = {ScheduleKind.CRON: table.cron, ScheduleKind.EVERY: table.every, ScheduleKind.AT: table.at}
    return [(kind, str(_duration(text))) for kind, text in texts.items() if text is not None]


def _duration(text: str | float) -> str | int:
    return (
        int(text)
        if isinstance(text, float) and text.is_integer()
        else text
        if isinstance(text, int)
        else str(text)
    )


# -- triggers by event --------------------------------------------------------------------------------------------


def _sync_triggers(
    tx: Connection,
    tenant_id: TenantId,
    activation: Activation,
    written: list[tuple[int, Trigger]],
    *,
    actor: str,
    now: datetime,
    limits: Limits,
) -> None:
    wanted = {
        trigger.name or str(index + 1): (index, trigger)
        for index, trigger in written
        if trigger.event is not None
    }
    known = {str(row.name): row for row in triggers.read_of_definition(tx, tenant_id, activation.key)}
    for name in sorted(known.keys() - wanted.keys()):
        triggers.remove(tx, tenant_id, known[name].id)
    added = wanted.keys() - known.keys()
    if added and triggers.count(tx, tenant_id) + len(added) > limits.max_triggers:
        raise LimitExceeded(
            f"a tenant may have {limits.max_triggers} triggers",
            limit="max_triggers",
            allowed=limits.max_triggers,
        )
    for name, (index, trigger) in wanted.items():
        columns = {**_trigger_columns(activation, index, trigger), "updated_at": now, "updated_by": actor}
        if name in known:
            triggers.change(tx, tenant_id, known[name].id, **columns)
            continue
        made = {"created_at": now, "created_by": actor, "source": Source.DEFINITION.value, "enabled": True}
        row = {"id": new_id(), "tenant_id": tenant_id, "name": name, "definition_key": activation.key}
        triggers.create(tx, {**row, **made, **columns})


def _trigger_columns(activation: Activation, index: int, trigger: Trigger) -> dict[str, Any]:
    # As written: the model has read shorthands, and what is shown should be what the author wrote.
    asked = _as_written(activation.document, index)
    condition, input = asked.get("condition"), trigger.input
    return {
        "event": trigger.event,
        "condition": None if condition is None else dumps(clean(condition)),
        "business_key": trigger.business_key,
        "input": None if input is None else dumps(clean(input)),
        "definition_id": activation.definition_id,
        "active": True,
    }


def _as_written(document: Mapping[str, Any], index: int) -> Mapping[str, Any]:
    written = document["triggers"]
    one = written[index] if isinstance(written, list) else written
    return one if isinstance(one, Mapping) else {}
