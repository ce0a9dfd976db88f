"""Sessions of others that have held locks for longer than any of ours may: what they have locked stands still meanwhile.

A worker passes locked instances by, so nobody waits for such a session, nothing times out, and no count tells it: a statement in somebody's
`psql` that was never committed stops an instance for as long as its window stays open.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection, text

LONG = timedelta(seconds=30)
"""Our own transactions last at the most so long (`common.db.engine.LONGEST_TRANSACTION`)."""
_TOLD = 20

_HOLDERS = text(
    "SELECT a.pid, coalesce(a.application_name, ''), coalesce(a.usename, ''), coalesce(a.state, ''),"
    " extract(epoch FROM now() - a.xact_start),"
    " (SELECT count(*) FROM pg_stat_activity AS w WHERE w.wait_event_type = 'Lock' AND a.pid = ANY (pg_blocking_pids(w.pid)))"
    " FROM pg_stat_activity AS a WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()"
    " AND a.xact_start < now() - CAST(:longer_than AS interval)"
    # A transaction has an id of its own once it has written or locked a row.
    " AND (a.backend_xid IS NOT NULL OR EXISTS (SELECT FROM pg_locks AS l WHERE l.pid = a.pid AND l.granted AND l.locktype = 'relation'"
    " AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')))"
    f" ORDER BY a.xact_start LIMIT {_TOLD}"
)


@dataclass(frozen=True, slots=True)
class Holder:
    """A session of PostgreSQL whose transaction has gone on for `seconds`; `waiting` others wait for one of its locks.

    `application`, `user` and `state` are empty where our login may not see them.
    """

    pid: int
    application: str
    user: str
    state: str
    seconds: float
    waiting: int


def read_holders(tx: Connection, *, longer_than: timedelta) -> list[Holder]:
    """Who holds locks in this database, the oldest first; nobody on SQLite, whose one writer the supervisor looks after.

    A login without `pg_read_all_stats` hears only of sessions of its own.
    """
    if tx.dialect.name != "postgresql":
        return []
    rows = tx.execute(_HOLDERS, {"longer_than": longer_than})
    return [
        Holder(pid, application, user, state, float(age), waiting)
        for pid, application, user, state, age, waiting in rows
    ]
