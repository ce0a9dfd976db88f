"""Events that instances of a batch send: to a parent, to an instance by id, or to the living one of a business key.

Each becomes a row in the inbox of whoever it finds; one that finds nobody, or that nobody may send, comes back to its sender as
`error.communication`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from common.canonical import dumps
from common.db.tables import InboxType
from common.event_names import MAX_TYPE, is_reserved, is_well_formed
from common.ids import InstanceId, TenantId, is_id
from common.store import inbox, instances
from common.store.instances import LockedInstance


@dataclass(frozen=True, slots=True)
class Send:
    """An event on its way, and how its definition names whom it is for."""

    sender: LockedInstance
    to: Mapping[str, Any]
    event: dict[str, Any]


@dataclass
class Sends:
    """The events that a batch sends, in order."""

    _sends: list[Send] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self._sends)

    def __iter__(self) -> Iterator[Send]:
        return iter(self._sends)

    def add(self, sender: LockedInstance, to: Mapping[str, Any], event: dict[str, Any]) -> None:
        self._sends.append(Send(sender, to, event))

    def merge(self, other: Sends) -> None:
        self._sends += other._sends

    def deliveries(self, tx: Connection, *, now: datetime) -> list[dict[str, Any]]:
        """Inbox rows for all of them."""
        found = self._existing_targets(tx)
        return [delivery(send, _resolve(tx, send, found), now=now) for send in self._sends]

    def _existing_targets(self, tx: Connection) -> set[tuple[str, str]]:
        wanted: dict[TenantId, set[str]] = {}
        for send in self._sends:
            target = send.to.get("instanceId")
            if isinstance(target, str) and is_id(target):
                wanted.setdefault(send.sender.tenant_id, set()).add(target)
        return {
            (tenant, id_) for tenant, ids in wanted.items() for id_ in instances.existing(tx, tenant, ids)
        }


def delivery(send: Send, target: InstanceId | None, *, now: datetime) -> dict[str, Any]:
    """The inbox row of an event that was sent to `target`; of its sender, where that is nobody or the event none to be sent."""
    sender = send.sender
    error = _why_not(send.event["type"], target)
    if target is not None and error is None:
        body, source = dumps(send.event), f"instance:{sender.id}"
        return inbox.new_row(sender.tenant_id, target, InboxType.EVENT, body, source, now)
    event = {
        "type": "error.communication",
        "error": error,
        "target": dict(send.to),
        "event": send.event,
    }
    return inbox.new_row(sender.tenant_id, sender.id, InboxType.UNDELIVERED, dumps(event), "engine", now)


def _why_not(name: str, target: InstanceId | None) -> dict[str, str] | None:
    """Why an event is not delivered. Every door asks the same of its type: who could send what the engine sends could say that another's
    task is done, and a type that is none would fail whoever takes it.
    """
    if is_reserved(name):
        return {"code": "event.reserved", "message": f'event type "{name:.100}" belongs to the engine'}
    if not is_well_formed(name):
        expected = f"expected an event type of 1 to {MAX_TYPE} characters without * or outer spaces"
        return {"code": "event.invalid", "message": f'{expected}, found "{name:.100}"'}
    if target is None:
        return {"code": "send.undelivered", "message": "no such instance"}
    return None


def _resolve(tx: Connection, send: Send, found: set[tuple[str, str]]) -> InstanceId | None:
    if send.to.get("parent"):
        return send.sender.parent_id
    target = send.to.get("instanceId")
    if target is not None:
        return InstanceId(target) if (send.sender.tenant_id, target) in found else None
    key, business_key = send.to.get("definitionKey"), send.to.get("businessKey")
    if isinstance(key, str) and isinstance(business_key, str):
        return instances.find_live(tx, send.sender.tenant_id, key, business_key)
    return None
