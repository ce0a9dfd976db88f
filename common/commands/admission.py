"""Admission: who of a definition's instances may run, where it says how many do so at once.

A start is accepted in three ways. Where it may wait (`queue`, `cancelOldest`) nothing is decided: its instance is `queued`, and
what comes to it is set aside. Where it may not (`reject`), the key is locked and counted, and the start takes its place or is
refused. Places are given by `admit` alone, in transactions of their own, by whoever has seen an instance ask, end or fail,
and once a second by whoever looks: what dies between an end and the next start costs that second.

`cancelOldest` means that the youngest `max` run: older ones are cancelled, also those that still wait, and the place is
given when its holder has gone, not before.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from common.canonical import dumps, read
from common.commands.contracts import CONTRACTS
from common.db import ORCHESTRATOR_QUEUE, note_bell
from common.db.now import read_now
from common.db.tables import InboxType
from common.decide_compensation import is_running
from common.errors import Conflict, Invalid
from common.ids import InstanceId, TenantId
from common.store import inbox, instances, places
from common.store.definitions import DefinitionFacts
from common.store.instances import StoredInstance
from common.store.places import Place
from common.ways_out import WayOut, needs_place
from statechart.concurrency import Concurrency, KeyFailed

AT_ONCE = 1_000
"""Instances of one key that a transaction lets go on, or cancels; the next look goes on with the others."""


@dataclass(frozen=True, slots=True)
class Asking:
    """A start that wants a place, by the version that starts; `has_place` when it has found one under the key's lock."""

    place: Place
    concurrency: Concurrency
    has_place: bool = False

    def columns(self) -> dict[str, Any]:
        """What its row says of it."""
        return {"concurrency_key": self.place.key, "queued": not self.has_place}

    @property
    def is_refusable(self) -> bool:
        return self.concurrency.on_full == "reject"


def place_wanted(
    concurrency: Concurrency,
    tenant_id: TenantId,
    definition: DefinitionFacts,
    *,
    input: Any,
    business_key: str | None,
    labels: Mapping[str, str],
) -> Asking:
    """Work out the key of a start. Raises `Invalid` (`concurrency.key`) where it has none."""
    facts = {
        "businessKey": business_key,
        "definitionKey": definition.key,
        "definitionVersion": definition.version,
        "labels": dict(labels),
    }
    try:
        key = concurrency.key_of(input, facts)
    except KeyFailed as error:
        raise Invalid(
            f'concurrency.key of "{definition.key}" has no value for this start: {error}',
            code="concurrency.key",
        ) from error
    return Asking(Place(tenant_id, definition.key, key), concurrency)


def require_room(tx: Connection, asking: Asking, *, besides: int = 0) -> None:
    """Raise `Conflict` (`concurrency.full`) where as many live as may run, who waits included; the key must be locked.

    `besides`: how many of the key this transaction starts as well, and has not written yet.
    """
    taken = places.count_taken(tx, asking.place) + places.count_wanted(tx, asking.place) + besides
    if taken >= asking.concurrency.max:
        raise full(asking.place, asking.concurrency, taken)


def full(place: Place, concurrency: Concurrency, taken: int) -> Conflict:
    """The error of a start, or a retry, that finds no place."""
    of_key = f' for the key "{place.key}"' if concurrency.key is not None else ""
    return Conflict(
        f'definition "{place.definition_key}" has reached its concurrency limit of {concurrency.max}{of_key}: '
        f"{taken} are live; start it again when one has ended",
        code="concurrency.full",
        definitionKey=place.definition_key,
        key=place.key,
        max=concurrency.max,
        live=taken,
    )


def refuse_without_room(tx: Connection, stored: StoredInstance, way: WayOut) -> None:
    """Raise `Conflict` (`concurrency.full`) where a failed instance has to have a place for this way out, and there is none.

    Read without a lock; one that loses the race is refused by its step, on record.
    """
    if stored.concurrency_key is None:
        return
    found = find_shut_out(tx, stored.tenant_id, [stored.id]).get(stored.id)
    if found is not None and needs_place(way, is_undoing=found.is_undoing):
        raise full(found.place, found.concurrency, found.taken)


@dataclass(frozen=True, slots=True)
class ShutOut:
    """A failed instance, which gave its place back, and there is none now. `is_undoing`: it failed while it was undone."""

    place: Place
    concurrency: Concurrency
    taken: int
    is_undoing: bool


def find_shut_out(
    tx: Connection, tenant_id: TenantId, instance_ids: Collection[str]
) -> dict[InstanceId, ShutOut]:
    """Those of some instances that are shut out, as the rows say now."""
    found: dict[InstanceId, ShutOut] = {}
    counted: dict[Place, int] = {}
    for one in places.read_failed(tx, tenant_id, instance_ids):
        concurrency = CONTRACTS.of(tx, one.definition_id).concurrency
        if concurrency is None:
            continue
        if one.place not in counted:
            counted[one.place] = places.count_taken(tx, one.place)
        if (taken := counted[one.place]) >= concurrency.max:
            found[one.id] = ShutOut(one.place, concurrency, taken, _is_undoing(tx, tenant_id, one.id))
    return found


def _is_undoing(tx: Connection, tenant_id: TenantId, instance_id: InstanceId) -> bool:
    stored = instances.read_stored(tx, tenant_id, instance_id)
    return stored is not None and is_running(None if stored.snapshot is None else read(stored.snapshot))


# -- giving places ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Admitted:
    """What one transaction did; `more`: not all who may go on, or have to end, were reached."""

    started: int = 0
    cancelled: int = 0
    more: bool = False


def admit(tx: Connection, asked: Mapping[Place, Collection[InstanceId]]) -> Admitted:
    """Give the free places of these keys to who is next. The caller commits.

    `asked` names for each key the instances that have asked for the first time: who of them has to wait is told so. Where
    versions differ, the youngest start that waits says for its key how many run and what happens beyond.
    """
    places.lock(tx, asked.keys())
    now = read_now(tx)
    admitting = _Admitting(tx, now)
    for place in sorted(asked):
        admitting.take(place, asked[place])
    return admitting.save()


class _Admitting:
    """One transaction's admissions, collected first and written once."""

    def __init__(self, tx: Connection, now: datetime) -> None:
        self.tx = tx
        self.now = now
        self.started: list[InstanceId] = []
        self.cancelled: list[InstanceId] = []
        self.rows: list[dict[str, Any]] = []
        self.more = False

    def take(self, place: Place, asked: Collection[InstanceId]) -> None:
        newest = places.find_newest_version(self.tx, place)
        if newest is None:
            return  # nobody waits
        concurrency = CONTRACTS.of(self.tx, newest).concurrency
        ending: list[InstanceId] = []
        if concurrency is not None and concurrency.on_full == "cancelOldest":
            ending = places.find_superseded(self.tx, place, keeping=concurrency.max, limit=AT_ONCE)
            self.cancelled += ending
            self.rows += [_cancel(place, one, self.now) for one in ending]
        taken = places.count_taken(self.tx, place)
        # Of a version that does not compile any more nobody runs: its step says so, as of any other.
        free = AT_ONCE if concurrency is None else concurrency.max - taken
        limit = min(free, AT_ONCE)
        # Who is to be cancelled still stands there as waiting: so many more are looked at, and passed over.
        found = places.lock_next(self.tx, place, limit + len(ending)) if limit > 0 else []
        chosen = [one for one in found if one not in ending][:limit]
        self.started += chosen
        self.more |= AT_ONCE in (len(chosen), len(ending))
        if concurrency is not None:
            waiting = sorted({*asked} - {*chosen} - {*ending})
            self.rows += [
                _told(place, one, concurrency.max, taken + len(chosen), self.now) for one in waiting
            ]

    def save(self) -> Admitted:
        if self.started:
            places.admit(self.tx, sorted(self.started))
            inbox.unpark(self.tx, sorted(self.started))
        inbox.put(self.tx, self.rows)
        if self.started or self.rows:
            note_bell(self.tx, ORCHESTRATOR_QUEUE, *self.started[:20])
        return Admitted(len(self.started), len(self.cancelled), self.more)


def _cancel(place: Place, instance_id: InstanceId, now: datetime) -> dict[str, Any]:
    body = dumps({"reason": "a younger instance takes its place (concurrency.onFull: cancelOldest)"})
    return inbox.new_row(
        place.tenant_id, instance_id, InboxType.CANCEL, body, "engine", now, lane=inbox.CONTROL
    )


def _told(place: Place, instance_id: InstanceId, allowed: int, taken: int, now: datetime) -> dict[str, Any]:
    """A record for the history of who has to wait."""
    entry = {"type": "instance.queued", "key": place.key, "max": allowed, "taken": taken}
    body = dumps({"entry": entry})
    return inbox.new_row(
        place.tenant_id, instance_id, InboxType.RECORD, body, "engine", now, lane=inbox.CONTROL
    )
