"""What the chaos suite does not keep: instances that expire a second after their end, and some that are cancelled or erased.

A guest is started by the `Host`, who may cancel or erase it at any moment, also while it is being deleted. Completed ones go,
with their child; cancelled ones stay. `judge_keeping` looks that each is wholly there or gone with its tombstone, and that
nothing went that was to be kept.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Connection, exists, func, select

from common.db.tables import attempts, instances, metadata, tasks, tombstones
from common.lifecycle import FINAL, InstanceStatus
from tests.support.chaos_callers import Resident
from tests.support.chaos_chart import Document
from tests.support.chaos_report import Fault
from tests.support.cluster import Cluster

KEY = "chaos-guest"
CHILD_KEY = "chaos-guest-child"
KEPT = timedelta(seconds=1)
RETENTION: Document = {"completed": "1s", "cancelled": "forever"}
_WORK: Document = {"type": "brief.work", "input": {"ms": 20}}
"""Of a type that keeps no ledger: what is deleted could not be compared with it."""

CHILD: Document = {
    "id": CHILD_KEY,
    "retention": RETENTION,
    "initial": "working",
    "states": {
        "working": {"invoke": {"src": _WORK["type"], "input": _WORK["input"], "onDone": "done"}},
        "done": {"type": "final"},
    },
}
CHART: Document = {
    "id": KEY,
    "retention": RETENTION,
    "initial": "map",
    "states": {
        "map": {"invoke": {"src": "MAP", "input": {"items": [1, 2], "task": _WORK}, "onDone": "child"}},
        "child": {"invoke": {"src": "WORKFLOW", "input": {"definitionKey": CHILD_KEY}, "onDone": "resting"}},
        "resting": {"after": {"50ms": "done"}},
        "done": {"type": "final"},
    },
}

Deed = Literal["nothing", "cancel", "erase"]
SHARES: Sequence[tuple[Deed, int]] = (("nothing", 5), ("cancel", 2), ("erase", 3))
LONGEST_WAIT_SECONDS = 4.0
"""From the start of a guest to what is done to it: before its end, before its deletion, or too late."""


@dataclass
class Guest:
    """One instance that may expire, what is done to it, and how the API answered that (0: it was not asked)."""

    number: int
    deed: Deed
    wait: float
    instance_id: str = ""
    answer: int = 0


class Host(Resident):
    """Starts guests evenly over `seconds` and does to each what it is to suffer."""

    pause = 0.1
    EXPECTED = (200, 202, 409, 410)
    """409: it has ended before it could be cancelled. 410: it is deleted."""

    def __init__(self, url: str, key: str, *, guests: int, seconds: float, seed: int) -> None:
        super().__init__(url, key)
        chance = random.Random(seed)
        deeds = [deed for deed, share in SHARES for _ in range(share)]
        self.guests = [
            Guest(number, deeds[number % len(deeds)], chance.uniform(0, LONGEST_WAIT_SECONDS))
            for number in range(guests)
        ]
        began = time.monotonic()
        self._due = [(began + seconds * guest.number / guests, guest.number) for guest in self.guests]
        heapq.heapify(self._due)

    @property
    def is_done(self) -> bool:
        """Whether everything is said. Raises what this thread ended with."""
        if self.errors:
            raise self.errors[0]
        return not self._due

    def look(self) -> None:
        while self._due and self._due[0][0] <= time.monotonic():
            _, number = self._due[0]
            guest = self.guests[number]
            if not guest.instance_id:
                self._start(guest)
                if guest.deed != "nothing":
                    heapq.heapreplace(self._due, (time.monotonic() + guest.wait, number))
                    continue
            else:
                self._do(guest)
            heapq.heappop(self._due)

    def _start(self, guest: Guest) -> None:
        response = self.caller.ask("/instances", {"definitionKey": KEY}, f"guest-{guest.number}")
        assert response.is_success, f"{guest} was answered {response.status_code}: {response.text[:300]}"
        guest.instance_id = response.json()["id"]

    def _do(self, guest: Guest) -> None:
        body: dict[str, Any] = {"reason": "chaos"}
        if guest.deed == "erase":
            body["cancel"] = True
        path = f"/instances/{guest.instance_id}/{guest.deed}"
        response = self.caller.ask(path, body, f"guest-{guest.number}/{guest.deed}")
        guest.answer = response.status_code
        assert guest.answer in self.EXPECTED, f"{guest} was answered {guest.answer}: {response.text[:300]}"


def count_due(tx: Connection) -> int:
    """How many instances are still there although they are to go."""
    i = instances.c
    is_due = i.definition_key.in_((KEY, CHILD_KEY)) & (i.status == InstanceStatus.COMPLETED)
    return tx.execute(select(func.count()).select_from(instances).where(is_due)).scalar_one()


def tally(cluster: Cluster) -> dict[str, int]:
    """How many have expired and how many were erased, deleted since or not."""
    return {
        "deleted": cluster.count("SELECT count(*) FROM tombstones"),
        "erased": cluster.count("SELECT count(*) FROM instances WHERE erased_at IS NOT NULL"),
        "erased_and_deleted": cluster.count("SELECT count(*) FROM tombstones WHERE erased_at IS NOT NULL"),
    }


@dataclass(frozen=True, slots=True)
class _Found:
    """A guest or its child as its row tells it, or (deleted) as its tombstone does."""

    id: str
    status: str
    parent_id: str | None
    finished_at: datetime | None
    is_erased: bool
    deleted_at: datetime | None = None


def judge_keeping(cluster: Cluster, guests: Sequence[Guest]) -> Iterator[tuple[Fault, str]]:
    """What is wrong with who has gone and who has stayed, when nothing moves any more."""
    with cluster.database.reading() as tx:
        there = {one.id: one for one in _read(tx, is_deleted=False)}
        gone = {one.id: one for one in _read(tx, is_deleted=True)}
        orphans = dict(_orphans(tx))
    yield from (("wrong", f"{number} rows of {name} belong to nobody") for name, number in orphans.items())
    yield from (("doubled", f"{there[one]} is there and is buried") for one in there.keys() & gone.keys())
    children: dict[str, list[_Found]] = defaultdict(list)
    for one in (*there.values(), *gone.values()):
        if one.parent_id is not None:
            children[one.parent_id].append(one)
    invited = {guest.instance_id: guest for guest in guests}
    for one in gone.values():
        if one.id not in invited and one.parent_id not in invited:
            yield "wrong", f"{one} was nobody's to delete"
    for instance_id, guest in invited.items():
        found = gone.get(instance_id) or there.get(instance_id)
        if found is None:
            yield "lost", f"{guest} is neither there nor buried"
            continue
        yield from _judge_family(found, children[instance_id])
        if guest.deed == "erase" and guest.answer == 202 and not found.is_erased:
            yield "lost", f"the erasure of {found}, which was acknowledged"


def _judge_family(guest: _Found, children: Sequence[_Found]) -> Iterator[tuple[Fault, str]]:
    for one in (guest, *children):
        if one.status not in FINAL:
            yield "stuck", f"{one}"
        elif one.deleted_at is None:
            if one.status == InstanceStatus.COMPLETED:
                yield "stuck", f"{one} is over and was not deleted"
        elif one.status != InstanceStatus.COMPLETED:
            yield "wrong", f"{one} was to be kept"
        elif one.finished_at is None or one.deleted_at < one.finished_at + KEPT:
            yield "wrong", f"{one} was deleted before its time"
    if guest.status == InstanceStatus.COMPLETED and len(children) != 1:
        fault: Fault = "doubled" if children else "lost"
        yield fault, f"{guest} has {len(children)} children"
    for child in children:
        if child.deleted_at is not None and (
            guest.finished_at is None or child.deleted_at < guest.finished_at
        ):
            yield "wrong", f"{child} was deleted before its parent had ended: {guest}"
        if guest.deleted_at is not None and (child.deleted_at is None or guest.deleted_at < child.deleted_at):
            yield "wrong", f"{guest} was deleted before its child: {child}"


def _read(tx: Connection, *, is_deleted: bool) -> Iterator[_Found]:
    table = tombstones if is_deleted else instances
    c = table.c
    query = select(c.instance_id if is_deleted else c.id, c.status, c.parent_id, c.finished_at, c.erased_at)
    if is_deleted:
        query = query.add_columns(c.deleted_at)  # whosever it was: nobody else's may be there
    else:
        query = query.where(c.definition_key.in_((KEY, CHILD_KEY)))
    for row in tx.execute(query):
        id_, status, parent_id, finished_at, erased_at = row[:5]
        parent = None if parent_id is None else str(parent_id)
        yield _Found(str(id_), status, parent, finished_at, erased_at is not None, *row[5:])


def _orphans(tx: Connection) -> Iterator[tuple[str, int]]:
    """How many rows are left, by table, of instances and tasks that are not there."""
    for table in metadata.sorted_tables:
        if "instance_id" not in table.c or table.name in ("tombstones", "idempotency"):
            continue  # an answer is kept for its 24 hours, whatever it was about
        orphan = ~exists().where(instances.c.id == table.c.instance_id)
        number = tx.execute(select(func.count()).select_from(table).where(orphan)).scalar_one()
        if number:
            yield table.name, number
    orphan = ~exists().where(tasks.c.id == attempts.c.task_id)
    number = tx.execute(select(func.count()).select_from(attempts).where(orphan)).scalar_one()
    if number:
        yield attempts.name, number
