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
from common.commands.admission import Asking, place_wanted, require_room
from common.commands.contracts import CONTRACTS
from common.commands.send import require_size
from common.config import Limits
from common.db import ARRIVALS, ORCHESTRATOR_QUEUE, note_bell
from common.db.tables import DefinitionStatus, InboxType, TimerStatus
from common.decide import START_TIMER
from common.errors import Conflict, Invalid, NotFound
from common.ids import DefinitionId, InstanceId, TenantId, is_id, new_id
from common.kept import KNOWN, Kept
from common.lifecycle import InstanceStatus
from common.store import definitions, instances, places, starts, timers
from common.store.definitions import DefinitionFacts
from common.store.listing import InstanceRecord
from common.store.starts import Accepted, NewStart
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
    """The instance; `created` is False when a live one already held the business key.

    `record`: how whoever reads it would see it, where it was created just now.
    """

    instance_id: InstanceId
    created: bool
    record: InstanceRecord | None = field(default=None, repr=False, compare=False)


def start_instance(
    tx: Connection, tenant_id: TenantId, request: Start, *, actor: str, limits: Limits
) -> Started:
    """Create a pending instance and its start. The caller commits; bells ring afterwards.

    Raises `NotFound` (`definition.not_found`), `Conflict` (`definition.not_active`, `instance.business_key_held`,
    `concurrency.full`), `Invalid` (`start.invalid`, `input.invalid`, `concurrency.key`) and `LimitExceeded`, before anything
    is written.
    """
    asked = _Asked.read(tenant_id, request, actor, limits)
    return _start_remembered(tx, asked) or _start_afresh(tx, asked)


def start_alone(
    tx: Connection, tenant_id: TenantId, request: Start, *, actor: str, limits: Limits
) -> Started | None:
    """Do as `start_instance` what one statement can do, which commits it (`Database.each_alone`); None, with nothing done, for
    all that takes more.

    That is: of a definition that this process has started before and whose instances wait for no place, at once, and
    under no business key that is held. Raises what `start_instance` raises, where asking the database cannot change it.
    """
    asked = _Asked.read(tenant_id, request, actor, limits)
    return _start_remembered(tx, asked) if request.start_at is None else None


@dataclass(frozen=True, slots=True)
class _Asked:
    """A checked request: `input` cleaned, and the texts that are stored of it."""

    tenant_id: TenantId
    request: Start
    actor: str
    input: Any
    input_text: str
    body: str

    @classmethod
    def read(cls, tenant_id: TenantId, request: Start, actor: str, limits: Limits) -> _Asked:
        _check(request)
        input = clean(request.input)
        input_text = dumps(input)
        body = f'{{"context":{dumps(clean(request.context))},"input":{input_text}}}'
        require_size(body, "input and context are", limits)
        return cls(tenant_id, request, actor, input, input_text, body)

    @property
    def definition(self) -> _Named:
        request = self.request
        return self.tenant_id, request.definition_key, request.version, request.definition_id


_Named = tuple[TenantId, str | None, int | None, str | None]
"""How a start names its definition: tenant, key, version, id."""


@dataclass(frozen=True, slots=True)
class _Version:
    """What a start keeps in mind of a version: no more, since twenty thousand of them may be kept."""

    id: DefinitionId
    key: str
    version: int

    @classmethod
    def of(cls, facts: DefinitionFacts) -> _Version:
        return cls(facts.id, facts.key, facts.version)


_REMEMBERED: Kept[_Named, _Version] = Kept(most=KNOWN, characters=KNOWN)
"""The versions that were started last, by how they were named; `CONTRACTS` keeps what they say of a start.

Only a hint: a version may have been activated or archived since, by anybody. So nothing is refused for what is
remembered, and the statement that writes asks again whether the version is active.
"""


def _start_remembered(tx: Connection, asked: _Asked) -> Started | None:
    """Start what was started before, by one statement; None, with nothing written, where more has to be asked."""
    version = _REMEMBERED.find(asked.definition)
    contract = None if version is None else CONTRACTS.known(version.id)
    if version is None or contract is None or contract.concurrency is not None:
        return None
    try:
        contract.check_input(asked.input)
    except Invalid:
        return None  # perhaps for a version that is not the active one any more
    accepted, new = _insert(tx, asked, version, None)
    if accepted is None:
        _REMEMBERED.forget(asked.definition)
    return _started(tx, asked, version, new, accepted.at) if accepted and accepted.is_inserted else None


def _start_afresh(tx: Connection, asked: _Asked) -> Started:
    tenant_id, request = asked.tenant_id, asked.request
    facts = _definition(tx, tenant_id, request)
    contract = CONTRACTS.of(tx, facts.id)
    contract.check_input(asked.input)
    if request.business_key is not None:
        held = instances.find_live(tx, tenant_id, facts.key, request.business_key)
        if held is not None:
            return _held(request, held)
    concurrency = contract.concurrency
    asking = None if concurrency is None else _ask_for_place(tx, asked, facts, concurrency)
    version = _Version.of(facts)
    accepted, new = _insert(tx, asked, version, asking)
    if accepted is None:  # until a moment ago it was
        raise _not_active(_definition(tx, tenant_id, request))
    _REMEMBERED.keep(asked.definition, version, 1)
    if accepted.is_inserted:
        return _started(tx, asked, version, new, accepted.at)
    # Somebody started it between our look and our insert; under READ COMMITTED theirs is visible now.
    held = instances.find_live(tx, tenant_id, facts.key, request.business_key or "")
    if held is not None:
        return _held(request, held)
    raise Conflict(
        f'business key "{request.business_key}" was held a moment ago; start again',
        code="instance.business_key_held",
    )


def _ask_for_place(
    tx: Connection, asked: _Asked, definition: DefinitionFacts, concurrency: Concurrency
) -> Asking:
    """The place that a start wants, or has: where it may not wait, its key stays locked until `tx` ends."""
    request = asked.request
    asking = place_wanted(
        concurrency,
        asked.tenant_id,
        definition,
        input=asked.input,
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
    tx: Connection, asked: _Asked, version: _Version, asking: Asking | None
) -> tuple[Accepted | None, NewStart]:
    request = asked.request
    new = NewStart(
        instance_id=InstanceId(new_id()),
        tenant_id=asked.tenant_id,
        definition_id=version.id,
        business_key=request.business_key,
        input=asked.input_text,
        body=asked.body,
        actor=asked.actor,
        priority=request.priority,
        labels=request.labels,
        depth=request.depth,
        start_at=request.start_at,
        schedule_id=request.schedule_id,
        scheduled_at=request.scheduled_at,
        concurrency_key=None if asking is None else asking.place.key,
        is_queued=asking is not None and not asking.has_place,
    )
    return starts.insert_started(tx, new), new


def _started(tx: Connection, asked: _Asked, version: _Version, new: NewStart, now: datetime) -> Started:
    """Ring for what was accepted, or set the timer that will bring it; how it stands now."""
    start_at = asked.request.start_at
    if start_at is not None and start_at > now:
        # The row that starts it will come from its timer.
        later = dumps({**read(asked.body), "by": asked.actor})
        _start_later(tx, asked.tenant_id, new.instance_id, start_at, later, now)
    else:
        note_bell(tx, ORCHESTRATOR_QUEUE, new.instance_id)
        note_bell(tx, ARRIVALS, asked.tenant_id)
    return Started(new.instance_id, created=True, record=_pending(version, new, now))


def _pending(version: _Version, new: NewStart, now: datetime) -> InstanceRecord:
    return InstanceRecord(
        id=new.instance_id,
        definition_id=version.id,
        definition_key=version.key,
        definition_version=version.version,
        business_key=new.business_key,
        status=InstanceStatus.PENDING,
        configuration="[]",
        snapshot=None,
        input=new.input,
        output=None,
        error=None,
        labels=dict(new.labels),
        priority=new.priority,
        sequence=0,
        parent_id=None,
        depth=new.depth,
        created_at=now,
        started_at=None,
        finished_at=None,
        deadline_at=None,
        erased_at=None,
        concurrency_key=new.concurrency_key,
        is_queued=new.is_queued,
    )


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
        raise _not_active(found)
    return found


def _not_active(found: DefinitionFacts) -> Conflict:
    return Conflict(
        f'definition "{found.key}" version {found.version} is {found.status.value}; activate it to start instances',
        code="definition.not_active",
    )


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
