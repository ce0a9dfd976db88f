"""What falls due next, of everything that an orchestrator looks after: one statement, because it is asked each second with nothing to do.

Each part is a small index of its own that tells its first row; the parts stand with what they are about.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Label, Select, select

from common.clock import database_now
from common.db.prepared import Prepared
from common.store import breakers, deadlines, inbox, joins, places, schedules, timers, triggers


@dataclass(frozen=True, slots=True)
class Coming:
    """`now` is the database's time. Of each: when the next falls due, possibly in the past; None where there is none.

    `timer_at` of armed timers; `lease_at` of leases that nobody extends; `unstarted_at` and `unfinished_at` of tasks that run out of
    time to start or to end; `item_at` of items whose children are to be started; `run_at` of schedules. `is_freed`: a run that waited for
    another may start now; `has_published`: an emitted event waits for a trigger; `are_places_wanted`: an instance waits for one;
    `has_breakers`: tasks may wait for a circuit breaker (`breakers.next_look_at`); `is_any_ready`: something waits to be stepped.
    """

    now: datetime
    timer_at: datetime | None
    lease_at: datetime | None
    unstarted_at: datetime | None
    unfinished_at: datetime | None
    item_at: datetime | None
    run_at: datetime | None
    is_freed: bool
    has_published: bool
    are_places_wanted: bool
    has_breakers: bool
    is_any_ready: bool

    @property
    def overdue_at(self) -> datetime | None:
        """When the next task runs out of time to start or to end, or already did."""
        return min((at for at in (self.unstarted_at, self.unfinished_at) if at is not None), default=None)

    @property
    def is_schedule_due(self) -> bool:
        return self.is_freed or (self.run_at is not None and self.run_at <= self.now)


def _first(of: Select[tuple[datetime]], name: str) -> Label[Any]:
    return of.scalar_subquery().label(name)


_COMING = Prepared(
    select(
        database_now(),
        _first(timers.NEXT, "timer_at"),
        _first(deadlines.NEXT_EXPIRY, "lease_at"),
        _first(deadlines.NEXT_UNSTARTED, "unstarted_at"),
        _first(deadlines.NEXT_UNFINISHED, "unfinished_at"),
        _first(joins.NEXT_START, "item_at"),
        _first(schedules.NEXT_RUN, "run_at"),
        schedules.IS_FREED,
        triggers.HAS_WAITING,
        places.ARE_WANTED,
        breakers.ARE_ANY,
        inbox.IS_ANY_READY,
    ),
    is_literal=True,
)


def read_coming(tx: Connection) -> Coming:
    """What falls due next. Safe outside of a transaction."""
    row = _COMING.rows(tx)[0]
    instants, (is_freed, has_published, are_places_wanted, has_breakers, is_any_ready) = row[:7], row[7:]
    now, timer_at, lease_at, unstarted_at, unfinished_at, item_at, run_at = instants
    return Coming(
        now,
        timer_at,
        lease_at,
        unstarted_at,
        unfinished_at,
        item_at,
        run_at,
        bool(is_freed),
        bool(has_published),
        bool(are_places_wanted),
        bool(has_breakers),
        bool(is_any_ready),
    )
