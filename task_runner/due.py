"""What a runner sees when it looks by itself: delayed tasks and retries that fell due, for which nobody rings, and what nobody rang for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from common.db.now import read_now
from common.ids import WorkerId
from common.store.coming_tasks import read_coming_tasks

LATE_COMMIT = timedelta(seconds=1)
"""How long after its instant a row may become visible: a short delay is over before its transaction commits."""


@dataclass(frozen=True, slots=True)
class Seen:
    """`fell_due`: a task fell due that was not told of before. `next_in`: seconds until the next one, or None.

    `is_any`: there is something to claim, or to take up; also where a limit may hold, which only a claim can tell.
    """

    fell_due: bool
    next_in: float | None
    is_any: bool


@dataclass
class DueTasks:
    """Looks for what a worker may run, and tells of each task that fell due since the look before."""

    worker: WorkerId
    types: Sequence[str]
    functions: Sequence[str]
    _seen_until: datetime | None = None
    _told_of: datetime | None = None

    def look(self, tx: Connection) -> Seen:
        """Look once.

        Each instant is told once. A task that finds no free slot then must not be rung for again and again: whoever
        gets a slot free looks by himself.
        """
        since = (self._seen_until or read_now(tx)) - LATE_COMMIT
        coming = read_coming_tasks(
            tx, worker=self.worker, types=self.types, functions=self.functions, since=since
        )
        now, oldest, next_at = coming.now, coming.fell_due_at, coming.next_at
        self._seen_until = now
        fell_due = oldest is not None and oldest <= now and oldest != self._told_of
        if fell_due:
            self._told_of = oldest
        return Seen(
            fell_due,
            None if next_at is None else (next_at - now).total_seconds(),
            coming.is_any_due or coming.are_limited or coming.is_any_leased,
        )
