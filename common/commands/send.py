"""Sending an event, or a note, to an instance: accepted means stored; the orchestrator consumes it once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection

from common.canonical import clean, dumps, read, size
from common.clock import instant_text
from common.commands.absent import absent_instance
from common.commands.contracts import CONTRACTS
from common.config import Limits
from common.db import ARRIVALS, ORCHESTRATOR_QUEUE, note_bell
from common.db.tables import InboxType
from common.errors import Conflict, Invalid, LimitExceeded
from common.event_names import MAX_TYPE, RESERVED, is_reserved, is_well_formed
from common.ids import DefinitionId, InstanceId, TenantId, is_id
from common.lifecycle import InstanceStatus, instance_can
from common.store import inbox
from common.store.accepting import Standing, put_alone, read_standing
from common.store.listing import InstanceRecord, read_instance_now

MAX_NOTE = 10_000
MAX_REASON = 2_000


def send_event(
    tx: Connection,
    tenant_id: TenantId,
    instance_id: str,
    event: Any,
    *,
    actor: str,
    limits: Limits,
    source: Mapping[str, Any] | None = None,
) -> None:
    """Put an event into an instance's inbox. The caller commits; bells ring afterwards.

    `source`, where the engine knows more of it than its actor, becomes a member of the event.

    Raises `Invalid` (`event.invalid`, also where a schema of its definition refuses it; `event.reserved`), `LimitExceeded`, `NotFound` (`instance.not_found`) and
    `Conflict` (`instance.finished`) for a finished instance. Paused and failed ones accept it, and it waits.
    """
    text = event_text(event, limits=limits)
    body = text if source is None else dumps({**read(text), "source": dict(source)})

    def check(definition_id: DefinitionId) -> None:
        contract = CONTRACTS.of(tx, definition_id)
        if contract.events:
            contract.check_event(read(text))

    accept(
        tx, tenant_id, instance_id, "send", InboxType.EVENT, body, lane=inbox.ORDINARY, actor=actor, check=check
    )  # fmt: skip


def send_alone(
    tx: Connection, tenant_id: TenantId, instance_id: str, event: Any, *, actor: str, limits: Limits
) -> InstanceRecord | None:
    """Do as `send_event` with one look and one write that commits by itself (`Database.each_alone`); the instance as it stood when it was looked at.

    None, with nothing done, for all that takes more: an instance that is not there, or whose definition has schemas for
    events. Raises what `send_event` raises otherwise.
    """
    text = event_text(event, limits=limits)
    found = read_instance_now(tx, tenant_id, instance_id) if is_id(instance_id) else None
    if found is None:
        return None
    record, now = found
    if not instance_can("send", record.status):
        raise illegal("send", instance_id, record.status, record.finished_at)
    contract = CONTRACTS.known(record.definition_id)
    if contract is None or contract.events:
        return None
    put_alone(tx, inbox.new_row(tenant_id, record.id, InboxType.EVENT, text, actor, now))
    note_bell(tx, ORCHESTRATOR_QUEUE, record.id)
    note_bell(tx, ARRIVALS, tenant_id)
    return record


def add_note(tx: Connection, tenant_id: TenantId, instance_id: str, note: str, *, actor: str) -> None:
    """Append a note to an instance's history; legal in every status. Notes do not wait behind events."""
    if not isinstance(note, str) or not 0 < len(note) <= MAX_NOTE:
        raise Invalid(f"note: expected text of 1 to {MAX_NOTE} characters", code="note.invalid")
    body = dumps({"note": clean(note)})
    accept(tx, tenant_id, instance_id, "note", InboxType.NOTE, body, lane=inbox.CONTROL, actor=actor)


def event_text(event: Any, *, limits: Limits) -> str:
    """Check an event from outside and return its canonical text."""
    if not isinstance(event, Mapping) or not isinstance(event.get("type"), str):
        raise Invalid(
            'expected an event object with a text "type", such as {"type": "APPROVED"}', code="event.invalid"
        )
    name = event["type"]
    if not is_well_formed(name):
        raise Invalid(
            f"event type: expected 1 to {MAX_TYPE} characters without * or outer spaces", code="event.invalid"
        )
    if is_reserved(name):
        raise Invalid(
            f'event type "{name}" belongs to the engine; names must not begin with {", ".join(RESERVED)}',
            code="event.reserved",
        )
    text = dumps(clean(event, max_depth=limits.max_json_depth))
    require_size(text, "the event is", limits)
    return text


def require_size(
    text: str,
    subject: str,
    limits: Limits,
    limit: Literal["max_event_bytes", "max_output_bytes"] = "max_event_bytes",
) -> None:
    """Refuse data from outside that is larger than its limit. `subject` begins the sentence: "the event is"."""
    allowed = limits.max_event_bytes if limit == "max_event_bytes" else limits.max_output_bytes
    if size(text) > allowed:
        message = f"{subject} {size(text)} bytes, at most {allowed} are allowed"
        raise LimitExceeded(message, limit=limit, allowed=allowed)


def accept(
    tx: Connection,
    tenant_id: TenantId,
    instance_id: str,
    verb: str,
    type: InboxType,
    body: str,
    *,
    lane: int,
    actor: str,
    check: Callable[[DefinitionId], None] | None = None,
) -> None:
    """Check a verb against an instance's status, read without a lock, and put the row into its inbox.

    `check` may refuse it for what the definition of the instance says. One that loses the race with the instance's end is recorded there as `event.rejected`.
    """
    standing = _require_legal(tx, tenant_id, instance_id, verb)
    if check is not None:
        check(standing.definition_id)
    row = inbox.new_row(tenant_id, InstanceId(instance_id), type, body, actor, standing.now, lane=lane)
    inbox.put(tx, [row])
    note_bell(tx, ORCHESTRATOR_QUEUE, instance_id)
    note_bell(tx, ARRIVALS, tenant_id)


def reason_text(reason: str | None) -> str | None:
    """The reason that a command gives for itself, as it is stored. Raises `Invalid` (`reason.invalid`)."""
    if reason is None:
        return None
    if not isinstance(reason, str) or len(reason) > MAX_REASON:
        raise Invalid(f"reason: expected text of at most {MAX_REASON} characters", code="reason.invalid")
    return str(clean(reason))


def require_legal(tx: Connection, tenant_id: TenantId, instance_id: str, verb: str) -> DefinitionId:
    """Raise `NotFound` or `Conflict` where `verb` may not be said of the instance now; else its definition."""
    return _require_legal(tx, tenant_id, instance_id, verb).definition_id


def _require_legal(tx: Connection, tenant_id: TenantId, instance_id: str, verb: str) -> Standing:
    found = read_standing(tx, tenant_id, instance_id) if is_id(instance_id) else None
    if found is None:
        raise absent_instance(tx, tenant_id, instance_id)
    if not instance_can(verb, found.status):
        raise illegal(verb, instance_id, found.status, found.finished_at)
    return found


def illegal(verb: str, instance_id: str, status: InstanceStatus, finished_at: datetime | None) -> Conflict:
    """The sentence for a verb that the lifecycle does not allow: `cannot pause instance 0192…: completed at …`."""
    when = f" at {instant_text(finished_at)}" if finished_at else ""
    doing = "send an event to" if verb == "send" else verb
    return Conflict(
        f"cannot {doing} instance {instance_id}: {status.value}{when}",
        code="instance.finished" if finished_at else "instance.illegal_verb",
        status=status.value,
    )
