"""Giving places to instances that wait for one (`concurrency` of their definition), between the batches of steps.

Theory of operation. A batch notices who asks for a place (a queued instance whose start has come) and who gives one back
(it has ended, or failed). After its commit, `give` locks those keys, counts who runs and lets the next ones go on, in a
transaction of its own: no step waits for a key's lock. Whoever dies between the two is made good by the look, which asks
each second for keys that somebody waits for; a database where nobody waits answers that from an empty index.

A failed instance has given its place back. Its retry takes one, in the step that lets it go on: the key is locked and
counted before the step is decided (`find_full`), and where it is full, the retry is rejected, on record.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import Protocol

from sqlalchemy import Connection

from common import faults
from common.commands.admission import Admitted, admit
from common.db import Database
from common.decide import THAWING
from common.ids import InstanceId
from common.lifecycle import LIVE, InstanceStatus
from common.store import places
from common.store.inbox import InboxRow
from common.store.instances import LockedInstance
from common.store.places import Place
from orchestrator.charts import CompiledChart

BATCH = 50
"""Keys in one transaction."""
LOOKED_AT = 100
LOOK_SECONDS = 1.0


class Seen(Protocol):
    """What a batch has noticed, told once it is committed."""

    @property
    def asking(self) -> Mapping[Place, set[InstanceId]]: ...
    @property
    def vacated(self) -> Set[Place]: ...


class Vacancies:
    """Keys to look at, as this process has noticed them: who asks there for the first time, if anybody.

    Noted by whichever thread has committed the steps, taken by the one drain that runs at a time.
    """

    def __init__(self) -> None:
        self._keys: dict[Place, set[InstanceId]] = {}
        self._turn = threading.Lock()

    def note(self, batch: Seen) -> None:
        with self._turn:
            for place in batch.vacated:
                self._keys.setdefault(place, set())
            for place, asking in batch.asking.items():
                self._keys.setdefault(place, set()).update(asking)

    def take(self) -> dict[Place, set[InstanceId]]:
        with self._turn:
            taken, self._keys = self._keys, {}
        return taken


def give(database: Database, asked: Mapping[Place, set[InstanceId]]) -> bool:
    """Give the free places of these keys, 50 keys a transaction; True where somebody may go on, or has to end, by it."""
    keys = sorted(asked)
    has_changed = False
    for at in range(0, len(keys), BATCH):
        some = {place: asked[place] for place in keys[at : at + BATCH]}
        done = _give(database, some)
        has_changed |= bool(done.started or done.cancelled)
        while done.more:
            done = _give(database, {place: set() for place in some})
    return has_changed


def _give(database: Database, asked: Mapping[Place, set[InstanceId]]) -> Admitted:
    def work(tx: Connection) -> Admitted:
        done = admit(tx, asked)
        faults.hit("before_admission_commit")
        return done

    return database.run(work)


class PlaceLook:
    """The look at keys that somebody waits for: 100 of them a second, each in its turn."""

    def __init__(self) -> None:
        self._after: Place | None = None
        self._looked_at = 0.0

    def look(self, database: Database) -> bool:
        """Give what is free; at most once a second. True where somebody may go on by it."""
        if time.monotonic() - self._looked_at < LOOK_SECONDS:
            return False
        self._looked_at = time.monotonic()
        with database.looking() as tx:
            wanted = places.find_wanted(tx, after=self._after, limit=LOOKED_AT)
        self._after = wanted[-1] if len(wanted) == LOOKED_AT else None
        return bool(wanted) and give(database, {place: set() for place in wanted})


def place_of(held: LockedInstance) -> Place | None:
    """The key that an instance shares its place by; None where its definition says nothing of it."""
    if held.concurrency_key is None:
        return None
    return Place(held.tenant_id, held.definition_key, held.concurrency_key)


def has_place(held: LockedInstance, status: InstanceStatus) -> bool:
    """Does an instance have a place, in a status?"""
    return held.concurrency_key is not None and not held.is_queued and status in LIVE


def find_full(
    tx: Connection,
    locked: Sequence[LockedInstance],
    rows: Mapping[InstanceId, Sequence[InboxRow]],
    charts: Mapping[str, CompiledChart],
) -> set[InstanceId]:
    """Failed instances that somebody wants to go on, and for which there is no place. Asks nothing where there are none.

    Their keys stay locked: those that are not named have their place when this transaction commits.
    """
    thawing = [
        (held, place)
        for held in locked
        if held.status is InstanceStatus.FAILED
        and not held.is_queued
        and (place := place_of(held)) is not None
        and any(row.type in THAWING for row in rows[held.id])
    ]
    if not thawing:
        return set()
    places.lock(tx, {place for _, place in thawing})
    taken = Counter({place: places.count_taken(tx, place) for place in {place for _, place in thawing}})
    full = set()
    for held, place in thawing:
        chart = charts[held.definition_id].chart
        allowed = chart.concurrency.max if chart is not None and chart.concurrency is not None else None
        if allowed is not None and taken[place] >= allowed:
            full.add(held.id)
        else:
            taken[place] += 1
    return full
