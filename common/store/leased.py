"""Tasks that are leased as they are created, and ended by one statement: the short way through a task's life.

Whoever creates a task may know who will run it (`common.queues.offers`), and whoever ran it the only time knows everything that its end
writes. The long way, for all others, are `common.store.claims` and `common.store.attempts`, whose ends read first what they decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Connection,
    SmallInteger,
    Text,
    and_,
    bindparam,
    cast,
    column,
    func,
    insert,
    literal,
    literal_column,
    not_,
    select,
    update,
)

from common.clock import database_now
from common.db.prepared import Prepared, run, sqlite_convert
from common.db.rows import Writes, packed
from common.db.tables import AttemptOutcome, InboxType, attempts, inbox, tasks
from common.db.types import Id, UtcDateTime, among
from common.ids import InstanceId, LeaseToken, TaskId, TenantId, WorkerId
from common.lifecycle import TaskStatus
from common.store import attempts as attempts_store
from common.store.claims import CLAIMED, TaskClaim, task_claim
from common.store.inbox import ORDINARY
from statechart.record import record

_t = tasks.c
_a = attempts.c


@record
class Begun:
    """How a task that is being created begins at once: leased to `worker`, its first attempt on record."""

    worker: WorkerId
    token: LeaseToken
    expires_at: datetime


@record
class CalledHere:
    """How a task that is being created was called by `worker` while the step that creates it waited, and succeeded."""

    worker: WorkerId
    token: LeaseToken
    started_at: datetime
    ended_at: datetime
    output: str | None


def create_called(writes: Writes, rows: Sequence[tuple[Mapping[str, Any], CalledHere]]) -> None:
    """Insert task rows as `create` does, each ended well with its only attempt."""
    writes.insert(
        tasks,
        [
            {
                **row,
                "status": TaskStatus.SUCCEEDED.value,
                "attempt": 1,
                "start_by_at": None,
                "output": called.output,
                "finished_at": called.ended_at,
            }
            for row, called in rows
        ],
    )
    writes.insert(
        attempts,
        [
            {
                "task_id": row["id"],
                "token": called.token,
                "tenant_id": row["tenant_id"],
                "attempt": 1,
                "worker_id": called.worker,
                "started_at": called.started_at,
                "ended_at": called.ended_at,
                "outcome": AttemptOutcome.SUCCEEDED.value,
            }
            for row, called in rows
        ],
    )


def create_begun(writes: Writes, rows: Sequence[tuple[Mapping[str, Any], Begun]]) -> None:
    """Insert task rows as `create` does, each leased to a worker, with its first attempt that begins with the row."""
    writes.insert(
        tasks,
        [
            {
                **row,
                "status": TaskStatus.RUNNING.value,
                "attempt": 1,
                "start_by_at": None,
                "lease_owner": begun.worker,
                "lease_token": begun.token,
                "lease_expires_at": begun.expires_at,
            }
            for row, begun in rows
        ],
    )
    writes.insert(
        attempts,
        [
            {
                "task_id": row["id"],
                "token": begun.token,
                "tenant_id": row["tenant_id"],
                "attempt": 1,
                "worker_id": begun.worker,
                "started_at": row["created_at"],
            }
            for row, begun in rows
        ],
    )


_LEASED_TO_WORKER = (
    _t.status == literal_column("'running'"),
    _t.lease_token.is_not(None),
    _t.lease_owner == bindparam("worker", type_=Id()),
)
IS_ANY_LEASED = select(_t.id).where(*_LEASED_TO_WORKER).limit(literal_column("1")).exists()
"""Is anything leased to the worker of the parameter `worker`?"""
_leased_to = (
    select(
        database_now(),
        _t.lease_token,
        _a.started_at,
        *(_t[name] for name in CLAIMED),
        (_a.started_at == _t.created_at).label("is_first"),  # leased as it was created: a claim comes later
    )
    .join(attempts, and_(_a.task_id == _t.id, _a.token == _t.lease_token))
    .where(*_LEASED_TO_WORKER)
)
_IS_FIRST = _a.started_at == _t.created_at
_HANDED = Prepared(_leased_to.where(among(_t.id, "ids"), _IS_FIRST).order_by(_t.id))
# In the order of the index of leases: by that of the ids SQLite reads every task.
_UNKNOWN = Prepared(
    _leased_to.where(not_(among(_t.id, "held"))).order_by(_t.lease_expires_at, _t.id).limit(500)
)


@record
class Leased:
    """Tasks that are leased to a worker, and the database's time; None where there are none."""

    claims: list[TaskClaim]
    now: datetime | None


def read_handed(tx: Connection, worker: WorkerId, ids: Sequence[TaskId]) -> Leased:
    """Those of `ids` that were leased to a worker as they were created, and are: for who is told of it.

    Not what it has claimed, perhaps this very moment: who claims knows of that himself.
    """
    return _read_leased(_HANDED.rows(tx, {"worker": worker, "ids": ids})) if ids else Leased([], None)


def read_unknown(tx: Connection, worker: WorkerId, held: Sequence[TaskId]) -> Leased:
    """What is leased to a worker beside what it holds: nobody has told it, or its claim's commit was never answered. 500 at most."""
    return _read_leased(_UNKNOWN.rows(tx, {"worker": worker, "held": held}))


def _read_leased(rows: Sequence[Any]) -> Leased:
    return Leased([task_claim(row[3:], row[1], row[2]) for row in rows], rows[0][0] if rows else None)


@record
class KnownEnd:
    """Everything that the end of a task writes which succeeded at its only attempt; `output` and `body`, of its inbox row, are canonical text."""

    task_id: TaskId
    token: LeaseToken
    tenant_id: TenantId
    instance_id: InstanceId
    output: str | None
    ended_at: datetime
    body: str

    @property
    def claim(self) -> tuple[TaskId, LeaseToken]:
        return self.task_id, self.token

    @property
    def source(self) -> str:
        """The source of its inbox row."""
        return f"task:{self.task_id}"


def end_stepped(writes: Writes, ends: Sequence[KnownEnd]) -> None:
    """End tasks whose instances take their answers in this very transaction. One that does not run under its token any more is `Unmatched`."""
    attempts_store.finish(
        writes,
        [
            {
                "id": end.task_id,
                "held_token": end.token,
                "status": TaskStatus.SUCCEEDED.value,
                "output": end.output,
                "error": None,
                "finished_at": end.ended_at,
            }
            for end in sorted(ends, key=lambda end: end.task_id)
        ],
    )
    attempts_store.end_attempts(
        writes,
        [
            {
                "task_id": end.task_id,
                "token": end.token,
                "ended_at": end.ended_at,
                "outcome": AttemptOutcome.SUCCEEDED.value,
                "error": None,
            }
            for end in ends
        ],
    )


_told = (
    func.json_to_recordset(cast(bindparam("rows", type_=Text()), JSON()))
    .table_valued(
        column("id", Id()), column("held_token", Id()), column("output", Text()), column("finished_at", UtcDateTime()),
        column("tenant_id", Id()), column("instance_id", Id()), column("body", Text()), column("source", Text()),
    )
    .render_derived(name="r", with_types=True)
)  # fmt: skip
_ends = select(_told).cte("ends").prefix_with("MATERIALIZED")
_holds = and_(
    _t.id == _ends.c.id,
    _t.lease_token == _ends.c.held_token,
    _t.status == literal_column("'running'"),
)
_won = (
    select(_t.id)
    .join(_ends, _holds)
    .where(among(_t.id, "ids"))  # see `common.db.rows`: not to be joined with a whole table
    .order_by(_t.id)
    .with_for_update(of=tasks)
    .cte("won")
    .prefix_with("MATERIALIZED")
)
_done = (
    update(tasks)
    .where(_won.c.id == _ends.c.id, _holds, among(_t.id, "ids"))
    .values(
        status=TaskStatus.SUCCEEDED, output=_ends.c.output, error=None, finished_at=_ends.c.finished_at,
        lease_owner=None, lease_token=None, lease_expires_at=None,
    )
    .returning(_t.id, _ends.c.held_token)
    .cte("done")
)  # fmt: skip
_theirs = and_(_done.c.id == _ends.c.id, _done.c.held_token == _ends.c.held_token)
_tried = (
    update(attempts)
    .where(
        _theirs,
        _a.task_id == _ends.c.id,
        _a.token == _ends.c.held_token,
        _a.ended_at.is_(None),
        among(_a.task_id, "ids"),
    )
    .values(ended_at=_ends.c.finished_at, outcome=AttemptOutcome.SUCCEEDED.value, error=None)
    .returning(_a.task_id)
    .cte("tried")
)
_put = (
    insert(inbox)
    .from_select(
        ["tenant_id", "instance_id", "lane", "type", "body", "source", "accepted_at"],
        select(
            _ends.c.tenant_id, _ends.c.instance_id, literal(ORDINARY, SmallInteger()), literal(InboxType.TASK.value), _ends.c.body,
            _ends.c.source, _ends.c.finished_at,
        )
        .join(_done, _theirs)
        .order_by(_ends.c.id),
    )
    .returning(inbox.c.id)
    .cte("put")
)  # fmt: skip
_END_KNOWN = Prepared(select(_done.c.id, _done.c.held_token).add_cte(_tried, _put))
_KNOWN_SQLITE = (
    "UPDATE tasks SET status = 'succeeded', output = ?, error = NULL, finished_at = ?, lease_owner = NULL, lease_token = NULL,"
    " lease_expires_at = NULL WHERE id = ? AND lease_token = ? AND status = 'running'",
    "UPDATE attempts SET ended_at = ?, outcome = 'succeeded', error = NULL WHERE task_id = ? AND token = ? AND ended_at IS NULL",
    "INSERT INTO inbox (tenant_id, instance_id, lane, type, body, source, accepted_at, parked) VALUES (?, ?, 1, 'task', ?, ?, ?, 0)",
)
_sqlite_instant = sqlite_convert(UtcDateTime())


def end_known(tx: Connection, ends: Sequence[KnownEnd]) -> set[tuple[TaskId, LeaseToken]]:
    """End tasks well that still run under their tokens, with their attempts, and tell their instances; returns which did.

    On PostgreSQL one statement, which locks the tasks in the order of their ids before it writes, and may stand alone.
    """
    rows = [
        {
            "id": end.task_id,
            "held_token": end.token,
            "output": end.output,
            "finished_at": end.ended_at,
            "tenant_id": end.tenant_id,
            "instance_id": end.instance_id,
            "body": end.body,
            "source": end.source,
        }
        for end in ends
    ]
    if tx.dialect.name == "postgresql":
        names = {"rows": packed(rows), "ids": [row["id"] for row in rows]}
        return {(row[0], row[1]) for row in _END_KNOWN.rows(tx, names)}
    return {end.claim for end, row in zip(ends, rows, strict=True) if _end_on_sqlite(tx, row)}


def _end_on_sqlite(tx: Connection, row: Mapping[str, Any]) -> bool:
    ends, tries, tells = _KNOWN_SQLITE
    at = row["finished_at"] if _sqlite_instant is None else _sqlite_instant(row["finished_at"])
    if run(tx, ends, [row["output"], at, row["id"], row["held_token"]]).rowcount != 1:
        return False
    run(tx, tries, [at, row["id"], row["held_token"]])
    run(tx, tells, [row["tenant_id"], row["instance_id"], row["body"], row["source"], at])
    return True
