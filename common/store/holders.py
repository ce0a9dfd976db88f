"""Sessions of others that have held locks for longer than any of ours may: what they have locked stands still meanwhile.

A worker passes locked instances by, so nobody waits for such a session, nothing times out, and no count tells it: a statement in somebody's
`psql` that was never committed stops an instance for as long as its window stays open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection, text

from common.ids import InstanceId, TaskId, TenantId

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


# -- of one instance ----------------------------------------------------------------------------------------------

OURS = "signalbox"
"""How the names of all our sessions begin."""

# `xmax` is the transaction that has locked or changed the row last, and every transaction that writes or locks holds the lock of its
# own number until it ends: for all logins to see, where `xact_start` is not. So a lock is found without taking one.
_LOCKERS = text(
    "SELECT DISTINCT r.task_id, a.pid"
    " FROM (SELECT CAST(NULL AS uuid) AS task_id, xmax AS by FROM instances WHERE tenant_id = :tenant_id AND id = :instance_id"
    " UNION ALL SELECT id, xmax FROM tasks WHERE tenant_id = :tenant_id AND id = ANY (:task_ids)) AS r"
    " JOIN pg_locks AS l ON l.locktype = 'transactionid' AND l.granted AND l.transactionid = r.by"
    " JOIN pg_stat_activity AS a ON a.pid = l.pid"
    " WHERE NOT starts_with(coalesce(a.application_name, ''), :ours) ORDER BY r.task_id NULLS FIRST, a.pid"
)


@dataclass(frozen=True, slots=True)
class Locker:
    """A session of PostgreSQL, none of ours, that has locked a task's row, or (None) the instance's.

    What it calls itself is for the installation's owner (`read_holders`), not for whoever may read an instance.
    """

    task_id: TaskId | None
    pid: int


def find_lockers(
    tx: Connection, tenant_id: TenantId, instance_id: InstanceId, task_ids: Sequence[TaskId]
) -> list[Locker]:
    """Who of others has locked an instance's row or those of some of its tasks, right now; nobody on SQLite.

    Our own sessions lock what they work on, and lose their locks when they freeze. A row that several have locked together
    names none of them.
    """
    if tx.dialect.name != "postgresql":
        return []
    names = {
        "tenant_id": tenant_id,
        "instance_id": instance_id,
        "task_ids": list(task_ids),
        "ours": OURS,
    }
    return [Locker(*row) for row in tx.execute(_LOCKERS, names)]
