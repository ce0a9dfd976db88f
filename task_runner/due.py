"""When delayed tasks and retries fall due: nobody rings for them, their instant does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from common.db.now import read_now
from common.store import claims

LATE_COMMIT = timedelta(seconds=1)
"""How long after its instant a row may become visible: a short delay is over before its transaction commits."""


@dataclass
class DueTasks:
    """Looks at the next `run_at` of `types`, and tells of each task that fell due since the look before."""

    types: Sequence[str]
    _seen_until: datetime | None = None
    _told_of: datetime | None = None

    def look(self, tx: Connection) -> tuple[bool, float | None]:
        """Return (a task fell due that was not told of, seconds until the next one or None).

        Each instant is told once. A task that finds no free slot then must not be rung for again and again: whoever
        gets a slot free looks by himself.
        """
        since = (self._seen_until or read_now(tx)) - LATE_COMMIT
        now, oldest, coming = claims.next_due_at(tx, types=self.types, since=since)
        self._seen_until = now
        fell_due = oldest is not None and oldest <= now and oldest != self._told_of
        if fell_due:
            self._told_of = oldest
        return fell_due, None if coming is None else (coming - now).total_seconds()
