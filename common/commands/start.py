"""Starting an instance: the row and its start in the inbox, in the caller's transaction.

`signalbox.start(connection, …)` is this use case in public: inside the caller's own SQL transaction, the workflow starts
if and only if the order, the payment, the user is committed too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection

from common.canonical import clean, dumps, read
from common.clock import read_now
from common.commands.admission import Asking, place_wanted, require_room
from common.commands.contracts import CONTRACTS
from common.commands.send import require_size
from common.config import Limits
from common.db import ORCHESTRATOR_QUEUE, note_bell
from common.db.tables import DefinitionStatus, InboxType, TimerStatus
from common.decide import START_TIMER
from common.errors import Conflict, Invalid, NotFound
from common.ids import InstanceId, TenantId, is_id, new_id
from common.store import definitions, inbox, instances, places, timers
from common.store.definitions import DefinitionFacts
from statechart.concurrency import Concurrency

MAX_KEY = 500
MAX_LABELS = 50
PRIORITIES = range(-100, 101)


@dataclass(frozen=True, slots=True)
class Start:
    """What to start. `context` is laid over the definition's, key by key at the top; `input` is never merged into it.

    `schedule_id` and `scheduled_at`: the run of a schedule that it is, of which there is one. `depth`: how many instances
    led to it, one by the other.
    """

    definition_key: str | None = None
    definition_id: str | None = None
    version: int | None = None
    business_key: str | None = None
    input: Any = None
    context: Mapping[str, Any] | None = None
    priority: int = 0
    start_at: datetime | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    on_conflict: Literal["return", "reject"] = "return"
    schedule_id: str | None = None
    scheduled_at: datetime | None = None
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Started:
    """The instance; `created` is False when a live one already held the business key."""

    instance_id: InstanceId
    created: bool


def start_instance(
    tx: Connection, tenant_id: TenantId, request: Start, *, actor: str, limits: Limits
) -> Started:
    """Create a pending instance and its start. The caller commits; bells ring afterwards.

    Raises `NotFound` (`definition.not_found`), `Conflict` (`definition.not_active`, `instance.business_key_held`,
    `concurrency.full`), `Invalid` (`start.invalid`, `input.invalid`, `concurrency.key`) and `LimitExceeded`, before anything
    is written.
    """
    _check(request)
    body = dumps({"context": clean(request.context), "input": clean(request.input)})
    require_size(body, "input and context are", limits)
    definition = _definition(tx, tenant_id, request)
    contract = CONTRACTS.of(tx, definition.id)
    contract.check_input(clean(request.input))
    if request.business_key is not None:
        held = instances.find_live(tx, tenant_id, definition.key, request.business_key)
        if held is not None:
            return _held(request, held)
    concurrency = contract.concurrency
    asking = None if concurrency is None else _ask_for_place(tx, tenant_id, request, definition, concurrency)
    return _insert(tx, tenant_id, request, definition, body, actor, asking)


def _ask_for_place(
    tx: Connection,
    tenant_id: TenantId,
    request: Start,
    definition: DefinitionFacts,
    concurrency: Concurrency,
) -> Asking:
    """The place that a start wants, or has: where it may not wait, its key stays locked until `tx` ends."""
    asking = place_wanted(
        concurrency,
        tenant_id,
        definition,
        input=clean(request.input),
        business_key=request.business_key,
        labels=request.labels,
    )
    # One that lies in the future can be refused by nobody when its time has come: it waits then.
    if request.start_at is None and asking.is_refusable:
        places.lock(tx, [asking.place])
        require_room(tx, asking)
        return replace(asking, has_place=True)
    return asking


def _insert(
    tx: Connection,
    tenant_id: TenantId,
    request: Start,
    definition: DefinitionFacts,
    body: str,
    actor: str,
    asking: Asking | None,
) -> Started:
    now = read_now(tx)
    instance_id = InstanceId(new_id())
    row = {
        "id": instance_id,
        "tenant_id": tenant_id,
        "definition_id": definition.id,
        "definition_key": definition.key,
        "definition_version": definition.version,
        "business_key": request.business_key,
        "input": dumps(clean(request.input)),
        "priority": request.priority,
        "labels": dict(request.labels),
        "created_at": now,
        "schedule_id": request.schedule_id,
        "scheduled_at": request.scheduled_at,
        "depth": request.depth,
    }
    if asking is not None:
        row |= asking.columns()
    if not instances.insert_pending(tx, row):
        # Somebody started it between our look and our insert; under READ COMMITTED theirs is visible now.
        held = instances.find_live(tx, tenant_id, definition.key, request.business_key or "")
        if held is not None:
            return _held(request, held)
        raise Conflict(
            f'business key "{request.business_key}" was held a moment ago; start again',
            code="instance.business_key_held",
        )
    if request.start_at is not None and request.start_at > now:
        later = dumps({**read(body), "by": actor})  # the row that starts it will come from its timer
        _start_later(tx, tenant_id, instance_id, request.start_at, later, now)
        return Started(instance_id, created=True)
    inbox.put(tx, [inbox.new_row(tenant_id, instance_id, InboxType.START, body, actor, now)])
    note_bell(tx, ORCHESTRATOR_QUEUE, instance_id)
    return Started(instance_id, created=True)


def _start_later(
    tx: Connection, tenant_id: TenantId, instance_id: InstanceId, start_at: datetime, body: str, now: datetime
) -> None:
    timers.arm(
        tx,
        [
            {
                "id": new_id(),
                "tenant_id": tenant_id,
                "instance_id": instance_id,
                "key": START_TIMER,
                "due_at": start_at,
                "status": TimerStatus.ARMED.value,
                "inbox_type": InboxType.START.value,
                "body": body,
                "created_at": now,
                "finished_at": None,
            }
        ],
    )


def _held(request: Start, instance_id: InstanceId) -> Started:
    if request.on_conflict == "reject":
        raise Conflict(
            f'business key "{request.business_key}" is held by live instance {instance_id}',
            code="instance.business_key_held",
            instanceId=instance_id,
        )
    return Started(instance_id, created=False)


def _check(request: Start) -> None:
    if (request.definition_key is None) == (request.definition_id is None):
        raise Invalid("expected either definitionKey or definitionId", code="start.invalid")
    if request.definition_id is not None and request.version is not None:
        raise Invalid(
            "version belongs to definitionKey; definitionId already names one version", code="start.invalid"
        )
    if request.business_key is not None and not 0 < len(request.business_key) <= MAX_KEY:
        raise Invalid(f"businessKey: expected 1 to {MAX_KEY} characters", code="start.invalid")
    if request.start_at is not None and request.start_at.tzinfo is None:
        raise Invalid("startAt: expected an instant with an offset", code="start.invalid")
    if request.priority not in PRIORITIES:
        raise Invalid(f"priority: expected -100 to 100, found {request.priority}", code="start.invalid")
    if len(request.labels) > MAX_LABELS or any(
        not isinstance(value, str) or len(key) > MAX_KEY or len(value) > MAX_KEY
        for key, value in request.labels.items()
    ):
        raise Invalid(
            f"labels: expected at most {MAX_LABELS} texts of at most {MAX_KEY} characters",
            code="start.invalid",
        )
    clean(request.labels)
    clean(request.business_key)


def _definition(tx: Connection, tenant_id: TenantId, request: Start) -> DefinitionFacts:
    found = _find(tx, tenant_id, request)
    if found is None:
        wanted = request.definition_id or request.definition_key
        if request.version is not None:
            wanted = f"{wanted} version {request.version}"
        raise NotFound(f'no definition "{wanted}"; apply it first', code="definition.not_found")
    if found.status is not DefinitionStatus.ACTIVE:
        raise Conflict(
            f'definition "{found.key}" version {found.version} is {found.status.value}; activate it to start instances',
            code="definition.not_active",
        )
    return found


def _find(tx: Connection, tenant_id: TenantId, request: Start) -> DefinitionFacts | None:
    if request.definition_id is not None:
        known = is_id(request.definition_id)
        return definitions.find_facts_by_id(tx, tenant_id, request.definition_id) if known else None
    key = request.definition_key or ""
    found = definitions.find_facts(tx, tenant_id, key, version=request.version)
    if (
        found is None and request.version is None
    ):  # none is active: name the newest, so that the error can say so
        newest = definitions.find_newest(tx, tenant_id, key)
        return newest.facts if newest else None
    return found
