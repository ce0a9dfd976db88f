"""Claims: what is due, whose turn it is, and the leases that are taken of it.

Theory of operation. A task is a leased row. A claim writes an owner, a token and an expiry on the database's clock, and
an attempt row. Rows that somebody else holds are skipped, never waited for, so that claims are disjoint. How a claim is
kept and ends is told in `attempts`, what becomes of those that are not kept in `deadlines`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    Interval,
    Select,
    bindparam,
    distinct,
    exists,
    func,
    insert,
    literal,
    literal_column,
    not_,
    or_,
    select,
    true,
    update,
)

from common.breaker import Guarded
from common.canonical import read
from common.clock import database_now
from common.db.prepared import Prepared
from common.db.rows import Writes, insert_rows, write_rows
from common.db.tables import AttemptOutcome, attempts, tasks
from common.db.types import Id, TextList, UtcDateTime, among
from common.ids import InstanceId, LeaseToken, TaskId, TenantId, WorkerId
from common.lifecycle import TaskStatus
from common.polls import POLL, unwrap
from common.store import turns
from common.store.limits import has_no_key, is_unlimited_type, may_limit_any
from common.store.turns import FROM_THE_FIRST
from statechart.record import record

_t = tasks.c
_a = attempts.c
_BY_ID = (("id", "id"),)


@record
class TaskClaim:
    """A task leased to this process. `input`, `retry`, `options`, `progress`, `state` and `secrets` are stored JSON texts.

    Of a POLL, `state` is that of the inner handler and `polls` what is counted (`common.polls`). `claimed_at` is the database's.
    `is_first`: no attempt was made before, not even one that counts for nothing. `guarded` is added by the runner: the
    circuit breaker that watches the call.
    """

    id: TaskId
    tenant_id: TenantId
    instance_id: InstanceId
    key: str
    type: str
    name: str
    attempt: int
    max_attempts: int
    idempotency_key: str | None
    input: str
    retry: str | None
    timeout_ms: int | None
    heartbeat_ms: int | None
    options: str | None
    progress: str | None
    completion_event: str
    failure_event: str
    joined_keys: str | None
    run_at: datetime
    token: LeaseToken
    asked_as: str | None = None
    secrets: str | None = None
    state: str | None = None
    polls: str | None = None
    claimed_at: datetime | None = None
    parent_task_id: TaskId | None = None
    is_first: bool = False
    guarded: Guarded | None = None

    @property
    def is_once(self) -> bool:
        """Must nobody do it again once its lease is lost (`onLost`)?"""
        return self.options is not None and read(self.options).get("onLost") == "fail"


@record
class Due:
    """Due tasks that the caller has locked, as they are once they are begun. `are_limited`: limits may hold for some other."""

    now: datetime
    are_limited: bool
    claims: list[TaskClaim]


def task_claim(row: Sequence[Any], token: LeaseToken, now: datetime) -> TaskClaim:
    """From the columns `CLAIMED`, the attempt being the one that begins, and whether it is the first."""
    *facts, asked_as, secrets, state, parent_task_id, is_first = row
    inner, polls = (unwrap(state), state) if asked_as == POLL else (state, None)
    return TaskClaim(*(*facts, token, asked_as, secrets, inner, polls, now, parent_task_id, bool(is_first)))


DUE_TYPES_MAX = 8
"""How many types that are due a tenant is expected to have, at most: with more, a claim may reach fewer tenants than it could."""
UNBOUNDED = 1_000_000


def waits(rows: FromClause) -> tuple[ColumnElement[bool], ...]:
    """The predicate of the index of what is due, literally: behind a parameter, or said otherwise, no planner finds it."""
    return (rows.c.status == literal_column("'pending'"), not_(rows.c.held), not_(rows.c.gated))


CLOCK = select(database_now().label("now"), may_limit_any().label("are_limited")).cte("clock")
"""Once, and before anything is compared with it: an expression that reads the clock finds no index."""


def _may_start(rows: FromClause) -> tuple[ColumnElement[bool], ...]:
    return (
        *waits(rows),
        rows.c.run_at <= select(CLOCK.c.now).scalar_subquery(),
        or_(rows.c.type != literal_column("'SYSTEM'"), among(rows.c.name, "functions", "text")),
        has_no_key(rows),
    )


def _due_pairs() -> Select[Any]:
    pairs = turns.pairs(tasks, "type", waits)
    return select(pairs.c.tenant_id, pairs.c.type).where(
        among(pairs.c.type, "types", "text"),
        not_(among(pairs.c.tenant_id, "excluded")),
        is_unlimited_type(pairs.c.tenant_id, pairs.c.type),
        _has_due(pairs.c.tenant_id, pairs.c.type),
    )


def _due_types() -> Select[Any]:
    tenants = turns.tenants(tasks, waits, "type")
    mine = func.json_each(bindparam("types", type_=TextList())).table_valued("value").alias("mine")
    return (
        select(tenants.c.tenant_id, mine.c.value.label("type"))
        .select_from(tenants.join(mine, true()))
        .where(
            not_(among(tenants.c.tenant_id, "excluded")),
            is_unlimited_type(tenants.c.tenant_id, mine.c.value),
            _has_due(tenants.c.tenant_id, mine.c.value),
        )
    )


def _has_due(tenant_id: ColumnElement[Any], type: ColumnElement[Any]) -> ColumnElement[bool]:
    rows = tasks.alias()
    return exists().where(rows.c.tenant_id == tenant_id, rows.c.type == type, *_may_start(rows))


CLAIMED = (
    "id", "tenant_id", "instance_id", "key", "type", "name", "attempt", "max_attempts", "idempotency_key", "input", "retry",
    "timeout_ms", "heartbeat_ms", "options", "progress", "completion_event", "failure_event", "joined_keys", "run_at",
    "asked_as", "secrets", "state", "parent_task_id",
)  # fmt: skip
"""The columns of a claim, in the order of `task_claim`; there the attempt is the one that begins."""


def _in_turn(*, locks: bool) -> CTE:
    """The tasks to claim: those that are due of each tenant by priority and age, and of the tenants one each in turn.

    Their columns come from the very rows that were locked: read by another look at the table they would be as old as the
    statement, and somebody may have written them since. So that little more is locked than is taken, nobody is asked for
    more than `share` rows of a type: with many tenants due that is `generosity` times what each gets if all have enough.
    """
    limit = bindparam("limit", type_=Integer())
    due = (_due_pairs() if locks else _due_types()).limit(limit * DUE_TYPES_MAX).cte("due")
    rows = tasks.alias()
    theirs = (
        select(*(rows.c[name] for name in (*CLAIMED, "priority")))
        .where(
            rows.c.tenant_id == due.c.tenant_id,
            rows.c.type == due.c.type,
            not_(among(rows.c.id, "taken")),
            *_may_start(rows),
        )
        .order_by(rows.c.priority.desc(), rows.c.run_at, rows.c.id)
    )
    share: ColumnElement[int] = limit
    if locks:
        waiting = func.nullif(func.count(distinct(due.c.tenant_id)), 0)
        fair = limit * bindparam("generosity", type_=Integer()) // waiting + 1
        share = select(func.least(limit, fair)).scalar_subquery()
        oldest: FromClause = theirs.limit(share).with_for_update(skip_locked=True).lateral()
        joined = due.join(oldest, true())
    else:  # without LATERAL, and nothing has to be locked
        oldest = tasks.alias()
        ids = theirs.with_only_columns(rows.c.id).limit(limit).correlate(due)
        joined = due.join(oldest, oldest.c.id.in_(ids))
    best = (oldest.c.priority.desc(), oldest.c.run_at, oldest.c.id)
    place = func.row_number().over(partition_by=due.c.tenant_id, order_by=best)
    columns = [oldest.c[name] for name in CLAIMED]
    taken = select(*columns, place.label("place")).select_from(joined).cte("taken")
    first = ~exists().where(_a.task_id == taken.c.id)
    return (
        select(*(taken.c[name] for name in CLAIMED), first.label("is_first"), share.label("share"))
        .order_by(taken.c.place, taken.c.tenant_id)
        .limit(limit)
        .cte("in_turn")
    )


def _told(in_turn: CTE, *, shares: bool) -> Select[Any]:
    """The clock, and the claims of `in_turn`: `task_claim` of all columns from the fourth on; one row of nulls where there are none."""
    facts: list[ColumnElement[Any]] = [in_turn.c[name] for name in CLAIMED]
    facts[CLAIMED.index("attempt")] = in_turn.c.attempt + 1
    share = in_turn.c.share if shares else literal(0)
    columns = (CLOCK.c.now, CLOCK.c.are_limited, share, *facts, in_turn.c.is_first)
    return select(*columns).select_from(CLOCK.outerjoin(in_turn, true()))


_CLAIM = update(tasks).values(
    status=TaskStatus.RUNNING,
    attempt=_t.attempt + 1,
    lease_owner=bindparam("worker", type_=Id()),
    lease_token=bindparam("token", type_=Id()),
    lease_expires_at=bindparam("expires_at", type_=UtcDateTime()),
    start_by_at=None,
)
_in_turn_locked = _in_turn(locks=True)
_LOCK_DUE = {
    "postgresql": Prepared(_told(_in_turn_locked, shares=True)),
    "sqlite": Prepared(_told(_in_turn(locks=False), shares=False)),
}
_now = select(CLOCK.c.now).scalar_subquery()
_begun = (
    update(tasks)
    .where(_t.id == _in_turn_locked.c.id)
    .values(
        status=TaskStatus.RUNNING,
        attempt=_in_turn_locked.c.attempt + 1,
        lease_owner=bindparam("worker", type_=Id()),
        lease_token=bindparam("token", type_=Id()),
        lease_expires_at=_now + bindparam("lease", type_=Interval()),
        start_by_at=None,
    )
    .returning(_t.id)
    .cte("begun")
)
_recorded = (
    insert(attempts)
    .from_select(
        ["task_id", "token", "tenant_id", "attempt", "worker_id", "started_at"],
        select(
            _in_turn_locked.c.id,
            bindparam("token", type_=Id()),
            _in_turn_locked.c.tenant_id,
            _in_turn_locked.c.attempt + 1,
            bindparam("worker", type_=Id()),
            _now,
        ),
    )
    .returning(_a.task_id)
    .cte("recorded")
)
_CLAIM_DUE = Prepared(_told(_in_turn_locked, shares=True).add_cte(_begun, _recorded))
"""The same on PostgreSQL with the claims begun, for who has nothing to do between the two: one round trip less."""
_CLAIMCLAIMED = _CLAIM.where(among(_t.id, "ids"), _t.status == TaskStatus.PENDING).returning(
    *(_t[name] for name in CLAIMED), literal(False)
)


def lock_due(
    tx: Connection,
    *,
    token: LeaseToken,
    types: Sequence[str],
    functions: Sequence[str],
    limit: int,
    turn_after: TenantId = FROM_THE_FIRST,
    excluded: Sequence[TenantId] = (),
    taken: Sequence[TaskId] = (),
) -> Due:
    """Lock up to `limit` due tasks of `types` (SYSTEM: of `functions`), of the tenants that are not `excluded` in turn.

    Of one tenant those of the highest priority first, then the oldest `run_at`. The first turn is that of the tenant behind
    `turn_after` (by id), so that a caller who names the last one he served gets round to everyone: of T tenants with due
    tasks nobody waits for more than T / limit claims. A priority says nothing to other tenants.

    Tasks that a limit holds for are left out; `common.commands.limits` claims those. So are those that the caller has
    `taken` in this transaction already.

    Rows locked by another claim are skipped, so concurrent callers get disjoint ones. One `token` serves the whole claim:
    a task cannot be in it twice, and the token is never used again. Nothing is written: see `begin` and `end_at_once`;
    what is given to neither is free again with the end of the transaction.
    """
    names = {"types": types, "functions": functions, "excluded": excluded}
    look = _LOCK_DUE[tx.dialect.name]
    return _look(tx, look, names, token=token, limit=limit, turn_after=turn_after, taken=taken)


def _look(
    tx: Connection,
    look: Prepared,
    names: dict[str, Any],
    *,
    token: LeaseToken,
    limit: int,
    turn_after: TenantId,
    taken: Sequence[TaskId] = (),
) -> Due:
    due: Due | None = None
    for after, generosity in ((turn_after, 2), (FROM_THE_FIRST, UNBOUNDED)):
        before = [] if due is None else due.claims
        names |= {"limit": limit - len(before), "turn_after": after, "generosity": generosity}
        names["taken"] = [*taken, *(claim.id for claim in before)]
        rows = look.rows(tx, names)
        now, are_limited, share, *_ = rows[0]
        now = now if due is None else due.now
        found = [task_claim(row[3:], token, now) for row in rows if row[3] is not None]
        due = Due(now, bool(are_limited), [*before, *found])
        # Who was given all of his share may have more, and so may those up to `turn_after`.
        is_bounded = share in Counter(claim.tenant_id for claim in found).values()
        if len(due.claims) == limit or (after == FROM_THE_FIRST and not is_bounded):
            break
    assert due is not None, "at least one look"  # noqa: S101
    return due


def begin(
    writes: Writes, claims: Sequence[TaskClaim], *, worker: WorkerId, lease: timedelta, now: datetime
) -> None:
    """Lease locked tasks to a worker, each with the attempt that begins."""
    writes.update(
        tasks,
        [
            {
                "id": claim.id,
                "attempt": claim.attempt,
                "status": TaskStatus.RUNNING.value,
                "lease_owner": worker,
                "lease_token": claim.token,
                "lease_expires_at": now + lease,
            }
            for claim in claims
        ],
        match=_BY_ID,
        only_if="tasks.status = 'pending'",
        cleared=("start_by_at",),
    )
    writes.insert(attempts, _attempt_rows(claims, worker))


def _attempt_rows(claims: Sequence[TaskClaim], worker: WorkerId) -> list[dict[str, Any]]:
    return [
        {
            "task_id": claim.id,
            "token": claim.token,
            "tenant_id": claim.tenant_id,
            "attempt": claim.attempt,
            "worker_id": worker,
            "started_at": claim.claimed_at,
        }
        for claim in claims
    ]


def end_at_once(writes: Writes, rows: Sequence[Mapping[str, Any]], worker: WorkerId) -> None:
    """Write attempts that began and succeeded in this transaction: rows {claim, output, finished_at} of locked tasks."""
    writes.update(
        tasks,
        [
            {
                "id": row["claim"].id,
                "attempt": row["claim"].attempt,
                "status": TaskStatus.SUCCEEDED.value,
                "output": row["output"],
                "error": None,
                "finished_at": row["finished_at"],
            }
            for row in rows
        ],
        match=_BY_ID,
        only_if="tasks.status = 'pending'",
        cleared=("start_by_at",),
    )
    writes.insert(
        attempts,
        [
            {
                **begun,
                "ended_at": row["finished_at"],
                "outcome": AttemptOutcome.SUCCEEDED.value,
            }
            for begun, row in zip(_attempt_rows([row["claim"] for row in rows], worker), rows, strict=True)
        ],
    )


def claim_due(
    tx: Connection,
    *,
    worker: WorkerId,
    token: LeaseToken,
    types: Sequence[str],
    functions: Sequence[str],
    limit: int,
    lease: timedelta,
    turn_after: TenantId = FROM_THE_FIRST,
    excluded: Sequence[TenantId] = (),
) -> Due:
    """Lock due tasks as `lock_due` does, and begin all of them."""
    if tx.dialect.name == "postgresql":
        names = {
            "types": types, "functions": functions, "excluded": excluded, "worker": worker, "token": token,
            "lease": lease,
        }  # fmt: skip
        return _look(tx, _CLAIM_DUE, names, token=token, limit=limit, turn_after=turn_after)
    due = lock_due(
        tx, token=token, types=types, functions=functions, limit=limit, turn_after=turn_after, excluded=excluded,
    )  # fmt: skip
    writes = Writes(tx)
    begin(writes, due.claims, worker=worker, lease=lease, now=due.now)
    writes.run()
    return due


def claim_locked(
    tx: Connection,
    ids: Sequence[TaskId],
    *,
    worker: WorkerId,
    token: LeaseToken,
    lease: timedelta,
    now: datetime,
) -> list[TaskClaim]:
    """Claim pending tasks that the caller has locked by their ids alone, as `begin` does."""
    if not ids:
        return []
    names = {"ids": ids, "worker": worker, "token": token, "expires_at": now + lease}
    rows: Iterable[Any] = tx.execute(_CLAIMCLAIMED, names)
    claims = [task_claim(row, token, now) for row in rows]
    insert_rows(tx, attempts, _attempt_rows(claims, worker))
    return claims


_MAX_ATTEMPTS = (
    update(tasks)
    .where(_t.id == bindparam("b_id"), _t.attempt == 1)
    .values(max_attempts=bindparam("b_max_attempts"))
)


def allow_attempts(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Set how often claimed tasks may be tried, by their handlers' policies: rows {b_id, b_max_attempts}. At the first attempt only."""
    write_rows(tx, _MAX_ATTEMPTS, rows)


IS_ANY_DUE: Mapping[str, ColumnElement[bool]] = {
    dialect: due().limit(1).exists() for dialect, due in (("postgresql", _due_pairs), ("sqlite", _due_types))
}
"""Would a claim find anything? By the dialect; the parameters are `ANY_DUE_NAMES`, `types` and `functions`."""
ANY_DUE_NAMES: Mapping[str, Any] = {"excluded": (), "turn_after": FROM_THE_FIRST}
_IS_DUE = {dialect: Prepared(select(is_any, CLOCK.c.are_limited)) for dialect, is_any in IS_ANY_DUE.items()}


def is_due(tx: Connection, *, types: Sequence[str], functions: Sequence[str]) -> tuple[bool, bool]:
    """Whether a claim would find anything, and `Due.are_limited`: asked on SQLite before taking the writer's turn, and by who found nothing before."""
    names = {**ANY_DUE_NAMES, "types": types, "functions": functions}
    [[is_any, are_limited]] = _IS_DUE[tx.dialect.name].rows(tx, names)
    return bool(is_any), bool(are_limited)
