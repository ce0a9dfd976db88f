"""Tasks and their attempts: creating, claiming, beating, ending, expiring.

Theory of operation. A task is a leased row. A claim writes an owner, a token and an expiry on the database's clock, and
an attempt row. Whoever reports names the token: it wins if the row is still `running` under it, whatever the clock
says (expiry alone voids nothing; only another claim, an expiry sweep or a cancel does). Waiting for task locks happens
after instance locks and in id order, everywhere; sweeps skip locked rows instead of waiting.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
    and_,
    bindparam,
    case,
    delete,
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
    tuple_,
    update,
)

from common.breaker import Guarded
from common.canonical import read
from common.clock import database_now, read_now
from common.db.prepared import Prepared
from common.db.rows import Writes, insert_rows, update_rows, write_rows
from common.db.tables import AttemptOutcome, attempts, handlers, tasks
from common.db.types import Id, TextList, UtcDateTime, among, unset
from common.decide import NOT_RUN_BY_A_RUNNER
from common.ids import InstanceId, LeaseToken, TaskId, TenantId, WorkerId
from common.lifecycle import OPEN, TASK_MOVES, TaskStatus, sources
from common.polls import POLL, begin_anew, unwrap
from common.retry import RetryPolicy
from common.store import turns
from common.store.limits import has_no_key, is_unlimited_type, key_or_empty, may_limit_any
from common.store.turns import FROM_THE_FIRST

_t = tasks.c
_a = attempts.c
_ASKED = func.coalesce(_t.asked_as, _t.type)  # what the definition wrote, and its events say
_BY_ID = (("id", "id"),)
_IN_TURN = (_t.type == "MAP", _t.id)
"""The order in which task rows are waited for: who holds a MAP waits for nothing that may be an item of it."""


def create(tx: Connection | Writes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert task rows, all with the same members. The caller holds the locks of their instances."""
    insert_rows(tx, tasks, rows)


_IN_ORDER = (
    select(_t.id)
    .where(
        or_(
            among(_t.instance_id, "withdrawing") & _t.status.in_(OPEN),
            among(_t.instance_id, "asking") & among(_t.idempotency_key, "idempotency_keys", "text"),
            among(_t.parent_task_id, "retried"),
            among(_t.id, "retried"),
            among(_t.instance_id, "counting") & among(_t.key, "counted", "text"),
        )
    )
    .order_by(*_IN_TURN)
    .with_for_update()
)


def lock_in_order(
    tx: Connection,
    *,
    withdrawing: Sequence[str],
    asking: Sequence[str],
    idempotency_keys: Sequence[str],
    retried: Sequence[str],
    counted: Sequence[tuple[str, str]],
) -> None:
    """Lock, in order, the open tasks of some instances, those that answer one of the keys for others, those to be retried
    with their items, and those of an instance and a key each.

    Who locks a few of them first and others later does not lock in id order, and deadlocks with a runner that
    reports both. What is asked for afterwards is held already.
    """
    names = {
        "withdrawing": withdrawing, "asking": asking, "idempotency_keys": idempotency_keys, "retried": retried,
        "counting": sorted({one for one, _ in counted}), "counted": sorted({key for _, key in counted}),
    }  # fmt: skip
    tx.execute(_IN_ORDER, names).all()


# -- asked again ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SameWork:
    """A task that already answers an idempotency key of its instance."""

    id: TaskId
    status: TaskStatus
    key: str
    joined_keys: str | None
    name: str
    type: str
    attempt: int
    output: str | None
    error: str | None


_SAME = (
    select(_t.id, _t.status, _t.key, _t.joined_keys, _t.name, _ASKED, _t.attempt, _t.output, _t.error)
    .where(_t.instance_id == bindparam("instance_id"), _t.idempotency_key == bindparam("idempotency_key"))
    .with_for_update()
)
_GIVE_UP_KEY = update(tasks).where(_t.id == bindparam("b_id")).values(idempotency_key=None)
_JOIN = update(tasks).where(_t.id == bindparam("b_id")).values(joined_keys=bindparam("b_keys"))


def lock_same_work(tx: Connection, instance_id: InstanceId, idempotency_key: str) -> SameWork | None:
    """Lock the task that an instance already created under this idempotency key, if it did."""
    row = tx.execute(_SAME, {"instance_id": instance_id, "idempotency_key": idempotency_key}).one_or_none()
    return None if row is None else SameWork(row[0], TaskStatus(row[1]), *row[2:])


def join(tx: Connection, task_id: TaskId, joined_keys: str) -> None:
    """Let a locked task answer further obligations of its instance."""
    tx.execute(_JOIN, {"b_id": task_id, "b_keys": joined_keys})


def give_up_key(tx: Connection, task_id: TaskId) -> None:
    """Free the idempotency key of a cancelled task, so that the same work can be asked for again."""
    tx.execute(_GIVE_UP_KEY, {"b_id": task_id})


# -- cancelling -------------------------------------------------------------------------------------------------

_OPEN_OF = (
    select(_t.id, _t.instance_id, _t.key, _t.joined_keys, _t.type, _t.lease_token.is_not(None))
    .where(among(_t.instance_id, "instance_ids"), _t.status.in_(OPEN))
    .order_by(*_IN_TURN)
    .with_for_update()
)
_CANCEL = (
    update(tasks)
    .where(among(_t.id, "ids"), _t.status.in_(OPEN))
    .values(
        status=TaskStatus.CANCELLED, finished_at=bindparam("now", type_=UtcDateTime()), lease_owner=None,
        lease_token=None, lease_expires_at=None,
    )
)  # fmt: skip
_END_ATTEMPTS = (
    update(attempts)
    .where(among(_a.task_id, "ids"), _a.ended_at.is_(None))
    .values(ended_at=bindparam("now", type_=UtcDateTime()), outcome=AttemptOutcome.CANCELLED.value)
)


@dataclass(frozen=True, slots=True)
class OpenTask:
    """A locked task that is open, and what it answers."""

    id: TaskId
    instance_id: InstanceId
    key: str
    joined_keys: str | None
    type: str
    is_leased: bool


def lock_open(tx: Connection, instance_ids: Sequence[str]) -> list[OpenTask]:
    """Lock the open tasks of locked instances in order. May wait for a runner's commit."""
    return [OpenTask(*row) for row in tx.execute(_OPEN_OF, {"instance_ids": instance_ids})]


@dataclass(frozen=True, slots=True)
class AnsweringTask:
    """How a task stands that answers obligations of its instance."""

    id: TaskId
    instance_id: InstanceId
    key: str
    joined_keys: str | None
    type: str
    name: str
    status: TaskStatus
    attempt: int
    output: str | None
    error_text: str | None

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.key, *(read(self.joined_keys) if self.joined_keys else ()))


_ANSWERING = select(
    _t.id, _t.instance_id, _t.key, _t.joined_keys, _ASKED, _t.name, _t.status, _t.attempt, _t.output, _t.error
).where(among(_t.instance_id, "ids"), _t.parent_task_id.is_(None))


def read_answering(tx: Connection, instance_ids: Sequence[str]) -> list[AnsweringTask]:
    """Every task of instances that answers an obligation, ended or not; items of MAPs answer none."""
    rows = tx.execute(_ANSWERING, {"ids": list(instance_ids)})
    return [
        AnsweringTask(
            row[0], row[1], row[2], row[3], row[4], row[5], TaskStatus(row[6]), row[7], row[8], row[9]
        )
        for row in rows
    ]


def cancel(tx: Connection, ids: Sequence[TaskId], *, now: datetime) -> None:
    """Cancel locked open tasks. A running handler learns it by its next beat; its result will be late."""
    if ids:
        tx.execute(_CANCEL, {"ids": ids, "now": now})
        tx.execute(_END_ATTEMPTS, {"ids": ids, "now": now})


# -- claiming ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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


def _waits(rows: FromClause) -> tuple[ColumnElement[bool], ...]:
    """The predicate of the index of what is due, literally: behind a parameter, or said otherwise, no planner finds it."""
    return (rows.c.status == literal_column("'pending'"), unset(rows.c.held), unset(rows.c.gated))


_clock = select(database_now().label("now"), may_limit_any().label("are_limited")).cte("clock")
"""Once, and before anything is compared with it: an expression that reads the clock finds no index."""


def _may_start(rows: FromClause) -> tuple[ColumnElement[bool], ...]:
    return (
        *_waits(rows),
        rows.c.run_at <= select(_clock.c.now).scalar_subquery(),
        or_(rows.c.type != literal_column("'SYSTEM'"), among(rows.c.name, "functions", "text")),
        has_no_key(rows),
    )


def _due_pairs() -> Select[Any]:
    pairs = turns.pairs(tasks, "type", _waits)
    return select(pairs.c.tenant_id, pairs.c.type).where(
        among(pairs.c.type, "types", "text"),
        not_(among(pairs.c.tenant_id, "excluded")),
        is_unlimited_type(pairs.c.tenant_id, pairs.c.type),
        _has_due(pairs.c.tenant_id, pairs.c.type),
    )


def _due_types() -> Select[Any]:
    tenants = turns.tenants(tasks, _waits)
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
    columns = (_clock.c.now, _clock.c.are_limited, share, *facts, in_turn.c.is_first)
    return select(*columns).select_from(_clock.outerjoin(in_turn, true()))


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
_now = select(_clock.c.now).scalar_subquery()
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


GROUPS_MAX = 500
"""How many groups of what is due a look goes through; what is behind them, the next claim finds without it."""


def _group(rows: FromClause) -> tuple[ColumnElement[Any], ...]:
    """What the entries of the index of what is due stand by, before `run_at`: rows with the same are in its order."""
    return rows.c.tenant_id, rows.c.type, key_or_empty(rows), rows.c.priority


def _next_group(here: FromClause) -> ColumnElement[Any]:
    """The first task of the group behind that of a task: one to four probes of the index, however many each group has."""
    one = tasks.alias()
    mine, theirs = _group(here), _group(one)
    directions = (*theirs[:3], theirs[3].desc())
    probes = []
    for differs in (3, 2, 1, 0):
        same = [theirs[n] == mine[n] for n in range(differs)]
        behind = theirs[differs] < mine[differs] if differs == 3 else theirs[differs] > mine[differs]
        found = select(one.c.id).where(*_waits(one), *same, behind).order_by(*directions[differs:])
        probes.append(found.limit(literal_column("1")).correlate(here).scalar_subquery())
    return func.coalesce(*probes)


def _next_due() -> Select[Any]:
    """Of each group of what is due the first `run_at` behind an instant, by a loose index scan, and of those the first."""
    here, one = tasks.alias(), tasks.alias()
    first = select(_t.id).where(*_waits(tasks)).order_by(*_group(tasks)[:3], _t.priority.desc())
    start = select(
        first.limit(literal_column("1")).scalar_subquery().label("id"), literal(1, Integer).label("hop")
    )
    hops = start.cte("hops", recursive=True)
    onward = select(_next_group(here), hops.c.hop + 1).select_from(hops.join(here, here.c.id == hops.c.id))
    hops = hops.union_all(onward.where(hops.c.hop < literal_column(str(GROUPS_MAX))))

    def after(instant: str) -> ColumnElement[Any]:
        behind = select(one.c.run_at).where(
            *_waits(one), one.c.run_at > bindparam(instant, type_=UtcDateTime())
        )
        same = (theirs == mine for theirs, mine in zip(_group(one), _group(here), strict=True))
        found = behind.where(*same).order_by(one.c.run_at).limit(literal_column("1")).correlate(here)
        return func.min(found.scalar_subquery())

    return (
        select(after("since"), after("now"))
        .select_from(hops.join(here, here.c.id == hops.c.id))
        .where(among(here.c.type, "types", "text"))
    )


_NEXT = Prepared(_next_due())


def next_due_at(
    tx: Connection, *, types: Sequence[str], since: datetime, now: datetime
) -> tuple[datetime | None, datetime | None]:
    """The earliest `run_at` of pending tasks of `types` after `since`, and the earliest after `now`.

    Goes through the groups of tenant, type, limit and priority that wait, however many tasks each has, and no further than
    `GROUPS_MAX` of them.
    """
    [[oldest, coming]] = _NEXT.rows(tx, {"types": types, "since": since, "now": now})
    return oldest, coming


# -- beating ----------------------------------------------------------------------------------------------------

_beaten = (
    select(_t.id)
    .where(among(_t.id, "ids"), among(_t.lease_token, "tokens"), _t.status == TaskStatus.RUNNING)
    .with_for_update(skip_locked=True)
)
_BEAT = (
    update(tasks)
    .where(_t.id.in_(_beaten.scalar_subquery()))
    .values(lease_expires_at=bindparam("expires_at", type_=UtcDateTime()))
)
_HELD = select(_t.id).where(
    among(_t.id, "ids"), among(_t.lease_token, "tokens"), _t.status == TaskStatus.RUNNING
)


def extend_leases(
    tx: Connection, ids: Sequence[TaskId], tokens: Sequence[LeaseToken], *, lease: timedelta, now: datetime
) -> set[TaskId]:
    """Extend the leases that `tokens` hold on `ids`; return the ids still held. A missing id: cancelled, or lease lost.

    Rows in flight elsewhere are skipped rather than waited for, and still count as held.
    """
    names = {"ids": ids, "tokens": tokens}
    tx.execute(_BEAT, {**names, "expires_at": now + lease})
    return set(tx.execute(_HELD, names).scalars())


def save_progress(tx: Connection, rows: Sequence[tuple[TaskId, LeaseToken, str]]) -> None:
    """Keep what handlers reported of their progress: with the task for the next attempt, and with this attempt for people."""
    told = [{"id": task, "token": token, "progress": text} for task, token, text in rows]
    update_rows(
        tx, tasks, told, match=(("id", "id"), ("lease_token", "token")), only_if="tasks.status = 'running'"
    )
    update_rows(
        tx, attempts, told, match=(("task_id", "id"), ("token", "token")), only_if="attempts.ended_at IS NULL"
    )


def save_states(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep what the next attempt goes on from: rows {id, held_token, state}."""
    update_rows(
        tx,
        tasks,
        rows,
        match=(("id", "id"), ("lease_token", "held_token")),
        only_if="tasks.status = 'running'",
    )


_FORGET = update(tasks).where(among(_t.id, "ids"), _t.state.is_not(None)).values(state=None)


def forget_states(tx: Connection, ids: Sequence[TaskId]) -> None:
    """Drop what ended tasks went on from: a conversation with a model is kept redacted, in their outputs."""
    if ids:
        tx.execute(_FORGET, {"ids": ids})


# -- ending -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WonTask:
    """A locked task whose claim still holds, with what decides about another attempt, and the MAP that it is an item of."""

    joined_keys: str | None
    max_attempts: int
    start_within_ms: int | None
    finish_by_at: datetime | None
    parent_task_id: TaskId | None


_WON = Prepared(
    select(
        _t.id, _t.lease_token, _t.joined_keys, _t.max_attempts, _t.start_within_ms, _t.finish_by_at, _t.parent_task_id,
        database_now(),
    )
    .where(among(_t.id, "ids"), among(_t.lease_token, "tokens"), _t.status == literal_column("'running'"))
    .order_by(_t.id)
    .with_for_update()
)  # fmt: skip


def lock_won(
    tx: Connection, ids: Sequence[TaskId], tokens: Sequence[LeaseToken]
) -> tuple[dict[tuple[TaskId, LeaseToken], WonTask], datetime]:
    """Lock the tasks of `ids` that run under one of `tokens`, in id order, by id and the row's token; and the time by then.

    A group may hold an old and a new claim of one task. Who asks must find its own pair here: the id alone would let
    the old claim's result pass under the new claim's token.
    """
    rows = _WON.rows(tx, {"ids": ids, "tokens": tokens})
    now = rows[-1][-1] if rows else read_now(tx)
    return {(row[0], row[1]): WonTask(*row[2:-1]) for row in rows}, now


@dataclass(frozen=True, slots=True)
class LeasedTask:
    """An attempt as its holder reports it. `retry` is the policy in force: the task's own, else its handler's."""

    id: TaskId
    tenant_id: TenantId
    instance_id: InstanceId
    token: LeaseToken
    key: str
    type: str
    name: str
    attempt: int
    retry: str | None
    completion_event: str
    failure_event: str


_LEASED = (
    select(
        _t.id, _t.tenant_id, _t.instance_id, _a.token, _t.key, _t.type, _t.name, _a.attempt,
        func.coalesce(_t.retry, handlers.c.retry), _t.completion_event, _t.failure_event,
    )
    .join(attempts, _a.task_id == _t.id)
    .outerjoin(
        handlers,
        and_(handlers.c.type == _t.type, handlers.c.name == case((_t.type == "SYSTEM", _t.name), else_="")),
    )
    .where(
        _t.tenant_id == bindparam("tenant_id"), _t.id == bindparam("id"), _a.token == bindparam("token", type_=Id())
    )
)  # fmt: skip


def find_leased(tx: Connection, tenant_id: TenantId, task_id: str, token: LeaseToken) -> LeasedTask | None:
    """The attempt at a task that was made under a token, whether the lease still holds or not."""
    row = tx.execute(_LEASED, {"tenant_id": tenant_id, "id": task_id, "token": token}).one_or_none()
    return None if row is None else LeasedTask(*row)


_RELEASE = (
    update(tasks)
    .where(_t.id == bindparam("b_id"), _t.status == TaskStatus.RUNNING)
    .values(
        status=TaskStatus.PENDING, run_at=bindparam("run_at"), error=bindparam("error"),
        start_by_at=bindparam("start_by_at", type_=UtcDateTime()),
        attempt=_t.attempt - bindparam("uncounted"), lost=_t.lost + bindparam("lost"),
        lease_owner=None, lease_token=None, lease_expires_at=None, breaker=None, breaker_since=None,
    )
)  # fmt: skip


def finish(writes: Writes, rows: Sequence[Mapping[str, Any]]) -> None:
    """End locked tasks: rows {id, held_token, status, output, error, finished_at}."""
    writes.update(
        tasks,
        rows,
        match=(("id", "id"), ("lease_token", "held_token")),
        only_if="tasks.status = 'running'",
        cleared=("lease_owner", "lease_token", "lease_expires_at"),
    )


def release(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Make locked tasks pending again: rows {b_id, run_at, start_by_at, error, uncounted, lost}.

    `uncounted` 1 takes the attempt back (a drain, a lost lease); `lost` 1 counts a lost lease.
    """
    write_rows(tx, _RELEASE, rows)


def end_attempts(writes: Writes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Close attempt rows: {task_id, token, ended_at, outcome, error}; one that is closed already stays as it is."""
    writes.update(
        attempts,
        rows,
        match=(("task_id", "task_id"), ("token", "token")),
        only_if="attempts.ended_at IS NULL",
        may_miss=True,
    )


_numbered = (
    select(
        _a.task_id,
        _a.token,
        _a.ended_at,
        func.row_number()
        .over(partition_by=_a.task_id, order_by=(_a.started_at.desc(), _a.token.desc()))
        .label("age"),
    )
    .where(among(_a.task_id, "ids"))
    .subquery()
)
_DROP_OLD = delete(attempts).where(
    tuple_(_a.task_id, _a.token).in_(
        select(_numbered.c.task_id, _numbered.c.token).where(
            _numbered.c.age > bindparam("kept"), _numbered.c.ended_at.is_not(None)
        )
    )
)


def drop_old_attempts(tx: Connection, ids: Sequence[TaskId], *, kept: int) -> None:
    """Delete ended attempts of locked tasks, except the newest `kept` of each."""
    if ids:
        tx.execute(_DROP_OLD, {"ids": ids, "kept": kept})


_ENDED_BY_OTHERS = (
    AttemptOutcome.LOST.value,
    AttemptOutcome.CANCELLED.value,
    AttemptOutcome.RELEASED.value,
    AttemptOutcome.TIMED_OUT.value,
)
_LATE = (
    update(attempts)
    .where(
        _a.task_id == bindparam("b_id"),
        _a.token == bindparam("b_token", type_=Id()),
        _a.result_digest.is_(None),
    )
    .where(_a.outcome.in_(_ENDED_BY_OTHERS))
    .values(
        result_digest=bindparam("digest"),
        # Of an attempt that ran out of time this stays the outcome: it counted.
        outcome=case(
            (_a.outcome == AttemptOutcome.TIMED_OUT.value, AttemptOutcome.TIMED_OUT.value),
            else_=AttemptOutcome.LATE.value,
        ),
    )
)


def record_late(tx: Connection, task_id: TaskId, token: LeaseToken, digest: bytes) -> bool:
    """Record that a result came after its lease was lost. False when this attempt has already told (a repeat)."""
    return tx.execute(_LATE, {"b_id": task_id, "b_token": token, "digest": digest}).rowcount == 1


# -- expiring ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ExpiredTask:
    """A running task whose lease ran out."""

    id: TaskId
    tenant_id: TenantId
    instance_id: InstanceId
    key: str
    joined_keys: str | None
    type: str
    name: str
    attempt: int
    lost: int
    failure_event: str
    options: str | None
    token: LeaseToken
    start_within_ms: int | None
    parent_task_id: TaskId | None


_EXPIRED = (
    select(
        _t.id, _t.tenant_id, _t.instance_id, _t.key, _t.joined_keys, _ASKED, _t.name, _t.attempt, _t.lost,
        _t.failure_event, _t.options, _t.lease_token, _t.start_within_ms, _t.parent_task_id,
    )
    .where(_t.status == TaskStatus.RUNNING, _t.lease_token.is_not(None), _t.lease_expires_at < bindparam("now", type_=UtcDateTime()))
    .order_by(_t.lease_expires_at)
    .limit(500)
    .with_for_update(skip_locked=True)
)  # fmt: skip
_NEXT_EXPIRY = select(func.min(_t.lease_expires_at)).where(
    _t.status == TaskStatus.RUNNING, _t.lease_token.is_not(None)
)


def lock_expired(tx: Connection, *, now: datetime) -> list[ExpiredTask]:
    """Lock up to 500 running tasks whose lease is over, longest over first; rows in flight are skipped."""
    rows: Iterable[Any] = tx.execute(_EXPIRED, {"now": now})
    return [ExpiredTask(*row) for row in rows]


def next_expiry_at(tx: Connection) -> datetime | None:
    """When the next lease runs out unless it is extended."""
    return tx.execute(_NEXT_EXPIRY).scalar_one_or_none()


# -- out of time ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OverdueTask:
    """An open task whose time is over. `token` is of the attempt that runs, where one does."""

    id: TaskId
    tenant_id: TenantId
    instance_id: InstanceId
    key: str
    joined_keys: str | None
    type: str
    name: str
    attempt: int
    failure_event: str
    token: LeaseToken | None
    parent_task_id: TaskId | None


_OVERDUE = select(
    _t.id, _t.tenant_id, _t.instance_id, _t.key, _t.joined_keys, _ASKED, _t.name, _t.attempt, _t.failure_event,
    _t.lease_token, _t.parent_task_id,
).limit(500).with_for_update(skip_locked=True)  # fmt: skip
_WAITS = and_(_t.status == TaskStatus.PENDING, _t.start_by_at.is_not(None), not_(_t.held))
_LASTS = and_(_t.finished_at.is_(None), _t.finish_by_at.is_not(None))
_UNSTARTED = _OVERDUE.where(_WAITS, _t.start_by_at <= bindparam("now", type_=UtcDateTime())).order_by(
    _t.start_by_at
)
_UNFINISHED = _OVERDUE.where(
    _LASTS, (_t.type == "MAP") == bindparam("maps"), _t.finish_by_at <= bindparam("now", type_=UtcDateTime())
).order_by(_t.finish_by_at)
_NEXT_UNSTARTED = select(func.min(_t.start_by_at)).where(_WAITS)
_NEXT_UNFINISHED = select(func.min(_t.finish_by_at)).where(_LASTS)


def lock_unstarted(tx: Connection, *, now: datetime) -> list[OverdueTask]:
    """Lock up to 500 tasks that waited too long for a worker, longest over first; rows in flight are skipped."""
    rows: Iterable[Any] = tx.execute(_UNSTARTED, {"now": now})
    return [OverdueTask(*row) for row in rows]


def lock_unfinished(tx: Connection, *, now: datetime, maps: bool) -> list[OverdueTask]:
    """Lock up to 500 open MAPs, or other open tasks, that should have ended by now, longest over first; rows in flight are skipped."""
    rows: Iterable[Any] = tx.execute(_UNFINISHED, {"now": now, "maps": maps})
    return [OverdueTask(*row) for row in rows]


def next_overdue_at(tx: Connection) -> datetime | None:
    """When the next task runs out of time to start or to end, or already did."""
    instants = (tx.execute(query).scalar_one_or_none() for query in (_NEXT_UNSTARTED, _NEXT_UNFINISHED))
    return min((instant for instant in instants if instant is not None), default=None)


def time_out(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Fail locked open tasks: rows {id, status, error, finished_at}. A running handler learns it by its next beat."""
    update_rows(
        tx,
        tasks,
        rows,
        match=_BY_ID,
        only_if="tasks.status IN ('pending', 'running')",
        cleared=("lease_owner", "lease_token", "lease_expires_at", "start_by_at"),
    )


_MAX_ATTEMPTS = (
    update(tasks)
    .where(_t.id == bindparam("b_id"), _t.attempt == 1)
    .values(max_attempts=bindparam("b_max_attempts"))
)


def allow_attempts(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Set how often claimed tasks may be tried, by their handlers' policies: rows {b_id, b_max_attempts}. At the first attempt only."""
    write_rows(tx, _MAX_ATTEMPTS, rows)


_READ_ATTEMPTS = Prepared(
    select(_a.task_id, _a.attempt, _a.outcome, _a.started_at, _a.ended_at)
    .where(among(_a.task_id, "ids"))
    .order_by(_a.task_id, _a.started_at, _a.token)
)


def read_attempts(tx: Connection, ids: Sequence[TaskId]) -> dict[str, list[tuple[Any, ...]]]:
    """The attempts of tasks, oldest first: id → [(attempt, outcome, started_at, ended_at)]."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    for row in _READ_ATTEMPTS.rows(tx, {"ids": ids}):
        found.setdefault(row[0], []).append(tuple(row[1:]))
    return found


def end_workflows(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """End WORKFLOW tasks of locked instances, which nobody claims: rows {instance_id, key, status, output, error, finished_at}."""
    update_rows(
        tx,
        tasks,
        rows,
        match=(("instance_id", "instance_id"), ("key", "key")),
        only_if="tasks.status = 'running' AND tasks.type = 'WORKFLOW'",
    )


_HOLD = update(tasks).where(among(_t.id, "ids"), _t.status.in_(OPEN)).values(held=True, start_by_at=None)


def hold(tx: Connection, ids: Sequence[TaskId]) -> None:
    """Keep locked open tasks of a frozen instance from being claimed; one that runs finishes, but is not tried again."""
    if ids:
        tx.execute(_HOLD, {"ids": ids})


_HELD_TASKS = (
    select(_t.id, _t.run_at, _t.start_within_ms, _t.gated)
    .where(among(_t.instance_id, "instance_ids"), _t.status.in_(OPEN), _t.held)
    .order_by(*_IN_TURN)
    .with_for_update()
)


def unhold(tx: Connection, instance_ids: Sequence[InstanceId]) -> list[TaskId]:
    """Let the held tasks of locked instances be claimed again; returns their ids, in order.

    The wait for a worker that `scheduleToStart` bounds begins anew: nobody could have started them meanwhile.
    """
    if not instance_ids:
        return []
    rows = tx.execute(_HELD_TASKS, {"instance_ids": instance_ids}).all()
    if rows:
        now = read_now(tx)
        thawed = [
            {
                "id": row.id,
                "held": False,
                # The wait of an item begins with its turn.
                "start_by_at": None if row.gated else later(max(row.run_at, now), row.start_within_ms),
            }
            for row in rows
        ]
        update_rows(tx, tasks, thawed, match=_BY_ID, only_if="tasks.finished_at IS NULL")
    return [row.id for row in rows]


def is_handler_of_task() -> ColumnElement[bool]:
    """Does a row of `handlers` tell of the handler that executes a task? SYSTEM names its functions."""
    return and_(handlers.c.type == _t.type, handlers.c.name == case((_t.type == "SYSTEM", _t.name), else_=""))


_FAILED = (
    select(
        _t.id, _t.type, _t.attempt, _t.retry, _t.start_within_ms, _t.finish_within_ms, _t.asked_as, _t.state,
        handlers.c.retry.label("handlers_retry"),
    )
    .outerjoin(handlers, is_handler_of_task())
    .where(among(_t.id, "ids"), _t.status.in_(sources(TASK_MOVES, "retry")))
    .order_by(_t.id)
    .with_for_update(of=tasks)
)  # fmt: skip


def retry(tx: Connection, ids: Sequence[TaskId], *, now: datetime) -> list[TaskId]:
    """Give failed tasks of locked instances another series of attempts, at once; returns the ids that changed, in order.

    Attempts go on counting: `max_attempts` becomes those made so far and as many as the policy allows. Time-outs, and
    the limits of a POLL, begin anew, the last error and the count of lost leases are cleared. What no runner executes waits as it did before.
    """
    if not ids:
        return []
    rows = tx.execute(_FAILED, {"ids": ids}).all()
    again = []
    for row in rows:
        executed = row.type not in NOT_RUN_BY_A_RUNNER
        again.append(
            {
                "id": row.id,
                "status": (TaskStatus.PENDING if executed else TaskStatus.RUNNING).value,
                "held": False,
                "run_at": now,
                "start_by_at": later(now, row.start_within_ms),
                "finish_by_at": later(now, row.finish_within_ms),
                **another_series(row, now),
            }
        )
    update_rows(
        tx,
        tasks,
        again,
        match=_BY_ID,
        only_if="tasks.status = 'failed'",
        cleared=("error", "finished_at", "ended_by", "breaker", "breaker_since"),
    )
    return [row.id for row in rows]


def another_series(row: Any, now: datetime) -> dict[str, Any]:
    """What another series of attempts changes in a row {attempt, retry, handlers_retry, asked_as, state}."""
    policy = row.retry or row.handlers_retry
    return {
        "lost": 0,
        "max_attempts": row.attempt + RetryPolicy.read(read(policy) if policy else None).max_attempts,
        "state": begin_anew(row.state, now) if row.asked_as == POLL else row.state,
    }


def later(at: datetime, milliseconds: int | None) -> datetime | None:
    """The instant so long after `at`; None where nothing bounds the time."""
    return None if milliseconds is None else at + timedelta(milliseconds=milliseconds)


_IS_DUE = Prepared(select(_due_types().limit(1).exists(), _clock.c.are_limited))


def is_due(tx: Connection, *, types: Sequence[str], functions: Sequence[str]) -> tuple[bool, bool]:
    """Whether a claim would find anything, and `Due.are_limited`: for SQLite alone, asked there before taking the writer's turn."""
    names: dict[str, Any] = {
        "types": types,
        "functions": functions,
        "turn_after": FROM_THE_FIRST,
        "excluded": (),
    }
    [[is_any, are_limited]] = _IS_DUE.rows(tx, names)
    return bool(is_any), bool(are_limited)


# -- skipping ---------------------------------------------------------------------------------------------------

_SKIP = (
    update(tasks)
    .where(among(_t.id, "ids"), _t.status.in_(sources(TASK_MOVES, "skip")))
    .values(status=TaskStatus.SKIPPED)
)


def skip(tx: Connection, ids: Sequence[str]) -> None:
    """Give failed tasks of locked instances up: somebody has answered for them."""
    if ids:
        tx.execute(_SKIP, {"ids": ids})


@dataclass(frozen=True, slots=True)
class TaskNames:
    """What an answer to a task has to name."""

    type: str
    name: str
    attempt: int
    completion_event: str


def read_names(tx: Connection, tenant_id: TenantId, task_id: str) -> TaskNames:
    """The names of a task that an incident points at; such a task is never gone before its incident."""
    wanted = select(_ASKED, _t.name, _t.attempt, _t.completion_event)
    return TaskNames(*tx.execute(wanted.where(_t.tenant_id == tenant_id, _t.id == task_id)).one())
