"""How long it takes until what a blow touched moves again, measured by the database's rows.

**Touched** is what stood there at the blow and somebody had to take up: inbox rows that waited, tasks that were due, tasks
that the victim held. A **watch** asks until each of them has been taken up. Its time is that of the first, which has a bound: work goes on. When
the last was taken up depends on what queued there before. Of what a victim held, all must be taken over in time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Connection, not_, select
from sqlalchemy.exc import DBAPIError

from common.db import Database
from common.db.now import read_now
from common.db.tables import inbox, tasks, workers
from common.db.trouble import is_trouble
from common.lifecycle import TaskStatus

T = TypeVar("T")
Due = tuple[str, int, int]


def ask(database: Database, question: Callable[[Connection], T]) -> T | None:
    """Ask in a reading transaction; None while the database is away."""
    try:
        with database.reading() as tx:
            return question(tx)
    except DBAPIError as error:
        if not is_trouble(error):
            raise
        return None


@dataclass(frozen=True, slots=True)
class Touched:
    """Inbox ids; due tasks as (id, attempt, lost), which a claim changes; held tasks as id → token; tasks that a breaker holds back."""

    events: frozenset[int] = frozenset()
    due: frozenset[Due] = frozenset()
    held: Mapping[str, str] = field(default_factory=dict)
    asleep: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.events or self.due or self.held or self.asleep)

    @classmethod
    def by_lost_wake_ups(cls, tx: Connection) -> Touched:
        """Everything that somebody should look at now: what a bell may have been rung for in vain."""
        return cls(_waiting(tx), _due(tx))

    @classmethod
    def by_orchestrator(cls, tx: Connection) -> Touched:
        """What an orchestrator may have been about to step."""
        return cls(events=_waiting(tx))

    @classmethod
    def by_task_runner(cls, tx: Connection, pid: int) -> Touched:
        """The tasks that the worker of this process holds."""
        held = (
            select(tasks.c.id, tasks.c.lease_token)
            .join(workers, workers.c.id == tasks.c.lease_owner)
            .where(tasks.c.status == TaskStatus.RUNNING, workers.c.pid == pid)
        )
        return cls(held={row[0]: row[1] for row in tx.execute(held)})

    @classmethod
    def by_target(cls, tx: Connection) -> Touched:
        """The tasks that wait for circuit breakers."""
        return cls(asleep=_asleep(tx))

    def left(self, tx: Connection) -> Touched:
        """What of it nobody has taken up yet."""
        held = select(tasks.c.id, tasks.c.lease_token).where(tasks.c.id.in_(list(self.held)))
        return Touched(
            self.events & _waiting(tx) if self.events else frozenset(),
            self.due & _due(tx) if self.due else frozenset(),
            {row[0]: row[1] for row in tx.execute(held) if row[1] == self.held[row[0]]} if self.held else {},
            self.asleep & _asleep(tx) if self.asleep else frozenset(),
        )


def _waiting(tx: Connection) -> frozenset[int]:
    return frozenset(row[0] for row in tx.execute(select(inbox.c.id).where(not_(inbox.c.parked))))


def _asleep(tx: Connection) -> frozenset[str]:
    query = select(tasks.c.id).where(
        tasks.c.status == TaskStatus.PENDING, not_(tasks.c.held), tasks.c.breaker.is_not(None)
    )
    return frozenset(row[0] for row in tx.execute(query))


def _due(tx: Connection) -> frozenset[Due]:
    query = select(tasks.c.id, tasks.c.attempt, tasks.c.lost).where(
        tasks.c.status == TaskStatus.PENDING, not_(tasks.c.held), tasks.c.run_at <= read_now(tx)
    )
    return frozenset((row[0], row[1], row[2]) for row in tx.execute(query))


@dataclass
class Watch:
    """One blow's recovery. `since` is None until the blow has ended, for what nobody can take up before."""

    kind: str
    touched: Touched
    bound: float
    since: float | None
    struck: float = field(default_factory=time.monotonic)
    moved: float | None = None
    ended: float | None = None

    @property
    def seconds(self) -> float:
        """From the blow, or from its end, until something of it was taken up; of what somebody held, until all of it was."""
        return self._after_blow(self.moved or self.ended)

    @property
    def cleared(self) -> float:
        """The same until everything was taken up: what queued before the blow stands in the way as well."""
        return self._after_blow(self.ended)

    def _after_blow(self, instant: float | None) -> float:
        assert instant is not None, f"{self.kind} is still being watched"
        assert self.since is not None, f"{self.kind} is not over"
        return max(instant - self.since, 0.0)

    def look(self, database: Database) -> bool:
        """Ask once; True when everything has been taken up."""
        left = ask(database, self.touched.left)
        if left is None:
            return False
        if self.moved is None and not self.touched.held and left != self.touched and self.since is not None:
            self.moved = time.monotonic()
        self.touched = left
        if left or self.since is None:
            return False
        self.ended = time.monotonic()
        return True


@dataclass(frozen=True, slots=True)
class Recovery:
    """A finished watch: when it began (monotonic), how long it took and might have taken, whether others fell meanwhile."""

    kind: str
    began: float
    seconds: float
    cleared: float
    bound: float
    among_others: bool
    left: str = ""

    @property
    def is_in_time(self) -> bool:
        return not self.left and self.seconds <= self.bound


def slowest(recoveries: Iterable[Recovery]) -> dict[str, dict[str, Any]]:
    """By kind: how many were measured, the slowest with nothing else going on, the slowest of all, and until all was taken up."""
    found: dict[str, list[Recovery]] = {}
    for each in recoveries:
        found.setdefault(each.kind, []).append(each)
    return {
        kind: {
            "measured": len(those),
            "slowest_alone": max((one.seconds for one in those if not one.among_others), default=None),
            "slowest": max(one.seconds for one in those),
            "slowest_cleared": max(one.cleared for one in those),
        }
        for kind, those in sorted(found.items())
    }
