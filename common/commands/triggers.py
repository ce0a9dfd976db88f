"""Triggers by hand: create, change, remove. Those that are written in definitions are kept by `activation.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from common.canonical import clean, dumps, read
from common.commands.absent import require_definition
from common.commands.send import require_size
from common.config import Limits
from common.db.now import read_now
from common.db.tables import Source
from common.errors import Conflict, Invalid, LimitExceeded, NotFound
from common.ids import TenantId, is_id, new_id
from common.kept import Kept
from common.store import triggers as store
from common.store.triggers import Trigger
from statechart import Chart, DefinitionInvalid, load

MAX_NAME = 200
_AT = "triggers[0]"
_CHARTS: Kept[tuple[str | None, ...], Chart] = Kept(most=1_000, characters=32_000_000)
"""By what was written of each. A chart takes up to fifteen times as many bytes as that has characters."""


@dataclass(frozen=True, slots=True)
class TriggerRequest:
    """Which event starts what. `event` is a type, `foo.*` or `*`; `business_key` and `input` are templates over it."""

    definition_key: str
    event: str
    name: str | None = None
    condition: Any = None
    business_key: str | None = None
    input: Any = None
    enabled: bool = True


def create_trigger(
    tx: Connection, tenant_id: TenantId, request: TriggerRequest, *, actor: str, limits: Limits
) -> Trigger:
    """Create a trigger. The caller commits.

    Raises `Invalid` (`trigger.invalid`) with problems, `NotFound` (`definition.not_found`) and `LimitExceeded`.
    """
    columns = _columns(request, limits)
    require_definition(tx, tenant_id, request.definition_key)
    if store.count(tx, tenant_id) >= limits.max_triggers:
        raise LimitExceeded(
            f"a tenant may have {limits.max_triggers} triggers",
            limit="max_triggers",
            allowed=limits.max_triggers,
        )
    now, trigger_id = read_now(tx), new_id()
    store.create(
        tx,
        {
            "id": trigger_id,
            "tenant_id": tenant_id,
            **columns,
            "source": Source.API.value,
            "definition_id": None,
            "active": True,
            "created_at": now,
            "created_by": actor,
            "updated_at": now,
            "updated_by": actor,
        },
    )
    return found(store.read(tx, tenant_id, trigger_id), trigger_id)


def replace_trigger(
    tx: Connection,
    tenant_id: TenantId,
    trigger_id: str,
    request: TriggerRequest,
    *,
    actor: str,
    limits: Limits,
) -> Trigger:
    """Give a trigger another form. Raises as `create_trigger`, and `Conflict` (`trigger.of_definition`)."""
    columns = _columns(request, limits)
    _require_own(_find(tx, tenant_id, trigger_id), "change")
    require_definition(tx, tenant_id, request.definition_key)
    store.change(tx, tenant_id, trigger_id, **columns, updated_at=read_now(tx), updated_by=actor)
    return found(store.read(tx, tenant_id, trigger_id), trigger_id)


def delete_trigger(tx: Connection, tenant_id: TenantId, trigger_id: str) -> Trigger:
    """Remove a trigger; what it has started goes on. Raises `NotFound`, `Conflict` (`trigger.of_definition`)."""
    trigger = _find(tx, tenant_id, trigger_id)
    _require_own(trigger, "delete")
    store.remove(tx, tenant_id, trigger_id)
    return trigger


def chart_of_trigger(trigger: Trigger) -> Chart:
    """The chart whose only trigger is this one, which was made by hand. Raises `DefinitionInvalid`."""
    return _chart(trigger.event, trigger.condition, trigger.business_key, trigger.input)


def _chart(event: str, condition: str | None, business_key: str | None, input: str | None) -> Chart:
    written = (event, condition, business_key, input)
    chart = _CHARTS.find(written)
    if chart is None:
        chart = _compiled(event, condition, business_key, input)
        _CHARTS.keep(written, chart, sum(len(text) for text in written if text is not None))
    return chart


def _compiled(event: str, condition: str | None, business_key: str | None, input: str | None) -> Chart:
    texts = {"condition": condition, "input": input}
    written = {name: read(text) for name, text in texts.items() if text is not None}
    trigger = {"event": event, "businessKey": business_key, **written}
    document = {
        "id": "trigger",
        "initial": "asked",
        "states": {"asked": {"type": "final"}},
        "triggers": [trigger],
    }
    return load(document)


def _columns(request: TriggerRequest, limits: Limits) -> dict[str, Any]:
    clean([request.name, request.definition_key, request.event, request.business_key])
    depth = limits.max_json_depth
    condition = None if request.condition is None else dumps(clean(request.condition, max_depth=depth))
    input = None if request.input is None else dumps(clean(request.input, max_depth=depth))
    for text in (condition, input):
        if text is not None:
            require_size(text, "the trigger is", limits)
    try:
        _chart(request.event, condition, request.business_key, input)
    except DefinitionInvalid as invalid:
        problems = [problem.to_json() for problem in invalid.problems]
        for problem in problems:
            problem["path"] = problem["path"].removeprefix(_AT).removeprefix(".")
        message = "; ".join(f"{one['path']}: {one['message']}" for one in problems[:5])
        raise Invalid(message, code="trigger.invalid", problems=problems) from None
    return {
        "name": request.name,
        "definition_key": request.definition_key,
        "event": request.event,
        "condition": condition,
        "business_key": request.business_key,
        "input": input,
        "enabled": request.enabled,
    }


def _require_own(trigger: Trigger, verb: str) -> None:
    if trigger.source is Source.DEFINITION:
        raise Conflict(
            f'cannot {verb} trigger "{trigger.name}": it is written in definition "{trigger.definition_key}"; '
            "apply another version",
            code="trigger.of_definition",
        )


def _find(tx: Connection, tenant_id: TenantId, trigger_id: str) -> Trigger:
    return found(store.read(tx, tenant_id, trigger_id) if is_id(trigger_id) else None, trigger_id)


def found(trigger: Trigger | None, trigger_id: str) -> Trigger:
    """The trigger that is there. Raises `NotFound`."""
    if trigger is None:
        raise NotFound(f'no trigger "{trigger_id[:100]}"', code="trigger.not_found")
    return trigger
