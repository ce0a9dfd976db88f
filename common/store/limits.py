"""Limits: how many tasks of a type or a key run at once, and how often one starts.

Theory of operation. A task is limited while a row of `limits` stands under its type (`type:HTTP`) or under the key that its
definition gave it (`tasks.limit_key`, `key:…`); by both where there are both. The ordinary claim leaves out, in its own
statement, what has a key and the types that have a limit (`has_no_key`, `is_unlimited_type`). They are claimed by `common.commands.limits`, in a transaction of its own: it locks
rows of `limits` in the order of tenant and key, and THEN counts who runs, in a new statement, which sees every claim that
was committed under those locks. Who holds a place is stored nowhere: a task that ended, was cancelled or lost its lease does
not run any more, and that is all there is to give back. The tokens of a rate are refilled and taken under the same locks.

A definition's row is written by the first task that asks for it, and swept once none does (`delete_unused`): whoever creates a
task, or lets a failed one run again, finds it gone behind the sweeper's lock and writes it anew.

Behind its locks that claim waits for nothing: task rows that somebody holds are skipped. So `limits` come last in the
order of locks (docs/architecture.md). The lock is `FOR NO KEY UPDATE`: who creates a task may hold on to the row that limits
it (`FOR KEY SHARE`) without waiting for claims.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    Select,
    Text,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal,
    literal_column,
    not_,
    or_,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningInsert

from common.db.now import read_now
from common.db.rows import update_rows
from common.db.tables import Source, instances, limits, tasks
from common.db.types import Id, UtcDateTime, among
from common.ids import TaskId, TenantId

_c = limits.c
_t = tasks.c

TYPE_PREFIX = "type:"
KEY_PREFIX = "key:"
NO_TYPES: frozenset[str] = frozenset()
_LINE_BREAK: Any = literal_column(
    "'\n'", Text()
)  # a plain text would be put in only as the statement is executed
_NOBODY = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True, order=True)
class LimitKey:
    """A limit's whole name: tenants never meet."""

    tenant_id: TenantId
    key: str


@dataclass(frozen=True, slots=True)
class Rate:
    """So many starts in so many milliseconds, at most `burst` of them at once."""

    count: int
    per_ms: int
    burst: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What a limit allows: tasks that run at once, and a rate at which they start; None: as many as there are."""

    max_running: int | None = None
    rate: Rate | None = None


@dataclass(frozen=True, slots=True)
class Bucket:
    """The tokens of a rate, as they were at the instant `refilled_at`."""

    rate: Rate
    tokens: float
    refilled_at: datetime

    def at(self, now: datetime) -> float:
        """The tokens refilled until `now`, as many as the bucket holds."""
        passed_ms = max((now - self.refilled_at) / timedelta(milliseconds=1), 0.0)
        return min(float(self.rate.burst), self.tokens + passed_ms * self.rate.count / self.rate.per_ms)


@dataclass(frozen=True, slots=True)
class Limit:
    """A row of `limits`."""

    tenant_id: TenantId
    key: str
    source: Source
    max_running: int | None
    bucket: Bucket | None
    created_at: datetime
    updated_at: datetime
    updated_by: str

    @property
    def name(self) -> LimitKey:
        return LimitKey(self.tenant_id, self.key)

    @property
    def figures(self) -> Figures:
        return Figures(self.max_running, None if self.bucket is None else self.bucket.rate)


_ROW = (
    _c.tenant_id, _c.key, _c.source, _c.max_running, _c.rate_count, _c.rate_ms, _c.burst, _c.tokens, _c.refilled_at,
    _c.created_at, _c.updated_at, _c.updated_by,
)  # fmt: skip


def _limit(row: Any) -> Limit:
    tenant_id, key, source, most, count, per_ms, burst, tokens, refilled_at, *rest = row
    bucket = None if count is None else Bucket(Rate(count, per_ms, burst), tokens, refilled_at)
    return Limit(tenant_id, key, Source(source), most, bucket, *rest)


# -- who is limited -----------------------------------------------------------------------------------------------


_NO_KEY: ColumnElement[str] = literal_column("''")


def key_or_empty(of: FromClause) -> ColumnElement[str]:
    """The limit that a row of `tasks`, or of an alias, waits for, empty without one: as the index of what is due says it."""
    return func.coalesce(of.c.limit_key, _NO_KEY)


def has_no_key(of: FromClause) -> ColumnElement[bool]:
    """Did no definition ask for a limit for a row of `tasks`, or of an alias?"""
    return key_or_empty(of) == _NO_KEY


def is_unlimited_type(tenant_id: ColumnElement[Any], type: ColumnElement[Any]) -> ColumnElement[bool]:
    """Does no limit hold for a type of a tenant? Scalar on purpose: as a join it could change a claim's plan."""
    found = select(func.count()).select_from(limits)
    found = found.where(_c.tenant_id == tenant_id, _c.key == literal_column("'type:'", Text()).concat(type))
    return found.scalar_subquery() == 0


_HAS_KEYS = (
    select(_t.id)
    .where(_t.limit_key.is_not(None), _t.finished_at.is_(None))
    .order_by(_t.tenant_id, _t.limit_key)
    .limit(literal_column("1"))
    .scalar_subquery()
)


def may_limit_any() -> ColumnElement[bool]:
    """Whether a limit may hold for anything; for statements that a claim executes anyway."""
    return or_(exists(select(1).select_from(limits)), _HAS_KEYS.is_not(None))


def limited_types_text(tenant_id: ColumnElement[Any]) -> ColumnElement[str | None]:
    """The types of task of a tenant that an operator has limited, for `read_limited_types`; for statements that lock instances anyway.

    A definition's limits hold for tasks that name them (`tasks.limit_key`), and for nobody else.
    """
    of_types = select(func.aggregate_strings(_c.key, _LINE_BREAK)).where(
        _c.tenant_id == tenant_id,
        literal_column("substr(limits.key, 1, 5) = 'type:'"),  # as the index says it
    )
    return of_types.correlate_except(limits).scalar_subquery()


def read_limited_types(text: str | None) -> frozenset[str]:
    """The types of `limited_types_text`. A name with a line break in it, which no handler has, makes more of them."""
    return NO_TYPES if text is None else frozenset(one.removeprefix(TYPE_PREFIX) for one in text.split("\n"))


# -- who waits ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Waiting:
    """A limit with open tasks. `mine`: some are due that this process may run; `others`: some are due, but only of other types."""

    name: LimitKey
    mine: bool
    others: bool


def _is_due(t: Any, now: ColumnElement[datetime]) -> ColumnElement[bool]:
    return and_(
        t.status == literal_column("'pending'"),  # as the indexes say it
        t.finished_at.is_(None),
        not_(t.held),
        not_(t.gated),
        t.run_at <= now,
    )


def _is_mine(t: Any) -> ColumnElement[bool]:
    return and_(among(t.type, "types", "text"), or_(t.type != "SYSTEM", among(t.name, "functions", "text")))


_BOUND_NOW: ColumnElement[datetime] = bindparam("now", type_=UtcDateTime())


def _first_key(tenant_id: ColumnElement[Any], key: ColumnElement[Any]) -> ColumnElement[Any]:
    """A task of the key behind (tenant, key), of this tenant or else of those behind it: two probes of an index."""
    one = tasks.alias()
    is_open = (one.c.limit_key.is_not(None), one.c.finished_at.is_(None))
    found = select(one.c.id).where(*is_open).limit(literal_column("1"))
    here = found.where(one.c.tenant_id == tenant_id, one.c.limit_key > key).order_by(one.c.limit_key)
    behind = found.where(one.c.tenant_id > tenant_id).order_by(one.c.tenant_id, one.c.limit_key)
    return func.coalesce(here.scalar_subquery(), behind.scalar_subquery())


def _keys_waiting() -> Select[Any]:
    """Keys with open tasks, hopping from one to the next in the index, whatever number of tasks each has."""
    here, found = tasks.alias(), tasks.alias()
    first = _first_key(bindparam("after_tenant", type_=Id()), bindparam("after_key", type_=Text()))
    start = select(first.label("id"), literal(1, Integer).label("hop")).cte("hops", recursive=True)
    walked = start.union_all(
        select(_first_key(here.c.tenant_id, here.c.limit_key), start.c.hop + 1)
        .select_from(start.join(here, here.c.id == start.c.id))
        .where(start.c.hop < bindparam("most"))
    )
    # The first in the order of their turns: a plan that reads in another order may go through all that have ended.
    due = (
        select(found.c.id)
        .where(found.c.tenant_id == here.c.tenant_id, found.c.limit_key == here.c.limit_key)
        .where(_is_due(found.c, _BOUND_NOW))
        .order_by(found.c.priority.desc(), found.c.run_at, found.c.id)
        .limit(literal_column("1"))
        .correlate(here)
    )
    mine = due.where(_is_mine(found.c)).scalar_subquery()
    return (
        select(here.c.tenant_id, here.c.limit_key, mine.is_not(None), due.scalar_subquery().is_not(None))
        .select_from(walked.join(here, here.c.id == walked.c.id))
        .order_by(here.c.tenant_id, here.c.limit_key)
    )


_KEYS_WAITING = _keys_waiting()
_TYPES_WAITING = (
    select(_c.tenant_id, _c.key)
    .where(
        literal_column("substr(limits.key, 1, 5) = 'type:'"),  # as the index says it
        among(_c.key, "type_keys", "text"),
        exists(
            select(1)
            .select_from(tasks)
            .where(
                _t.tenant_id == _c.tenant_id,
                _t.type == func.substr(_c.key, len(TYPE_PREFIX) + 1),
                _is_due(_t, _BOUND_NOW),
                _is_mine(_t),
                has_no_key(tasks),
            )
            .correlate(limits)
        ),
    )
    .order_by(_c.tenant_id, _c.key)
)


def find_waiting(
    tx: Connection,
    *,
    types: Sequence[str],
    functions: Sequence[str],
    after: LimitKey | None,
    most: int,
    now: datetime,
) -> tuple[list[Waiting], LimitKey | None]:
    """Limits whose tasks are due: every type of `types`, and of the keys up to `most` after the key `after`.

    Also returns after which key to go on, None where that was the end. A key counts as waiting whether its limit stands or not.
    """
    names = {"types": types, "functions": functions, "now": now}
    start = after or LimitKey(TenantId(_NOBODY), "")
    keys = tx.execute(
        _KEYS_WAITING, {**names, "after_tenant": start.tenant_id, "after_key": start.key, "most": most}
    ).all()
    found = [Waiting(LimitKey(row[0], row[1]), bool(row[2]), bool(row[3] and not row[2])) for row in keys]
    of_types = tx.execute(_TYPES_WAITING, {**names, "type_keys": [TYPE_PREFIX + one for one in types]})
    found += [Waiting(LimitKey(row[0], row[1]), mine=True, others=False) for row in of_types]
    return found, LimitKey(keys[-1][0], keys[-1][1]) if len(keys) == most else None


# -- who has a place ----------------------------------------------------------------------------------------------

_AMONG = and_(among(_c.tenant_id, "tenants"), among(_c.key, "keys", "text"))
_READ = select(*_ROW).where(_AMONG).order_by(_c.tenant_id, _c.key)
_LOCK = _READ.with_for_update(key_share=True)
_HOLD = _READ.with_for_update(read=True, key_share=True)
_RUNS = _t.lease_owner.is_not(None)  # as in the index; who is leased is running
_RUNNING = union_all(
    select(_t.tenant_id, _t.limit_key.label("key"), func.count())
    .where(
        among(_t.tenant_id, "tenants"),
        among(_t.limit_key, "keys", "text"),
        _t.finished_at.is_(None),
        _t.status == literal_column("'running'"),  # as in the index, or those that wait are read too
        _RUNS,
    )
    .group_by(_t.tenant_id, _t.limit_key),
    select(_t.tenant_id, (TYPE_PREFIX + _t.type).label("key"), func.count())
    .where(among(_t.tenant_id, "tenants"), among(_t.type, "types", "text"), _RUNS)
    .group_by(_t.tenant_id, _t.type),
)


def read(tx: Connection, names: Iterable[LimitKey]) -> dict[LimitKey, Limit]:
    """Those of some limits that stand, and perhaps others of their tenants with the same keys."""
    return _by_name(tx, _READ, names)


def lock(tx: Connection, names: Iterable[LimitKey]) -> dict[LimitKey, Limit]:
    """The same, locked in the order of tenant and key; waits for other claims."""
    return _by_name(tx, _LOCK, names)


def hold(tx: Connection, names: Iterable[LimitKey]) -> dict[LimitKey, Limit]:
    """The same, kept from being deleted until the end of the transaction. Waits for no claim."""
    return _by_name(tx, _HOLD, names)


def _by_name(tx: Connection, statement: Select[Any], names: Iterable[LimitKey]) -> dict[LimitKey, Limit]:
    asked = set(names)
    if not asked:
        return {}
    found = (_limit(row) for row in tx.execute(statement, _given(asked)))
    return {one.name: one for one in found}


def _given(names: Iterable[LimitKey]) -> dict[str, list[str]]:
    return {
        "tenants": sorted({str(one.tenant_id) for one in names}),
        "keys": sorted({one.key for one in names}),
    }


def count_running(tx: Connection, names: Iterable[LimitKey]) -> dict[LimitKey, int]:
    """How many tasks hold a place of each of some limits; those that nobody does are left out."""
    asked = set(names)
    given = {
        "tenants": sorted({one.tenant_id for one in asked}),
        "keys": sorted({one.key for one in asked}),
        "types": sorted({one.key.removeprefix(TYPE_PREFIX) for one in asked if is_of_type(one.key)}),
    }
    return {LimitKey(row[0], row[1]): row[2] for row in tx.execute(_RUNNING, given)}


def is_of_type(key: str) -> bool:
    """Does a limit hold for a type of task, and not for a key?"""
    return key.startswith(TYPE_PREFIX)


# -- who is next --------------------------------------------------------------------------------------------------

_NEXT = (
    select(_t.id, _t.type)
    .where(
        _t.tenant_id == bindparam("tenant", type_=Id()),
        _is_due(_t, _BOUND_NOW),
        _is_mine(_t),
        not_(among(_t.id, "taken")),
    )
    .order_by(_t.priority.desc(), _t.run_at, _t.id)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
_NEXT_OF_KEY = _NEXT.where(_t.limit_key == bindparam("key"))
_NEXT_OF_TYPE = _NEXT.where(_t.type == bindparam("type"), has_no_key(tasks))


def lock_next(
    tx: Connection,
    name: LimitKey,
    *,
    types: Sequence[str],
    functions: Sequence[str],
    taken: Sequence[TaskId],
    limit: int,
    now: datetime,
) -> list[tuple[TaskId, str]]:
    """Lock up to `limit` due tasks that a limit holds for, but those `taken`: highest priority first, then oldest `run_at`.

    Returns (id, type) each. Those of a key are next under that key, and never under their type.
    """
    given: dict[str, Any] = {
        "tenant": name.tenant_id, "types": types, "functions": functions, "taken": taken, "limit": limit, "now": now,
    }  # fmt: skip
    if is_of_type(name.key):
        rows = tx.execute(_NEXT_OF_TYPE, {**given, "type": name.key.removeprefix(TYPE_PREFIX)})
    else:
        rows = tx.execute(_NEXT_OF_KEY, {**given, "key": name.key})
    return [(row[0], row[1]) for row in rows]


def spend(tx: Connection, rows: Sequence[tuple[LimitKey, float]], *, now: datetime) -> None:
    """Store what tokens locked limits have left at `now`."""
    update_rows(
        tx,
        limits,
        [
            {"tenant_id": name.tenant_id, "key": name.key, "tokens": tokens, "refilled_at": now}
            for name, tokens in rows
        ],
        match=(("tenant_id", "tenant_id"), ("key", "key")),
    )


# -- what limits there are ----------------------------------------------------------------------------------------


def _put_statement(dialect: Any) -> ReturningInsert[Any]:
    """Set a limit. Tokens that were saved up stay, as far as the new burst has room; a new rate begins with a full bucket."""
    row = dialect.insert(limits).values({name: bindparam(name, type_=_c[name].type) for name in _PUT_MEMBERS})
    same_rate = and_(_c.rate_count == row.excluded.rate_count, _c.rate_ms == row.excluded.rate_ms)
    changed = {name: row.excluded[name] for name in _CHANGED}
    changed["tokens"] = case(
        (and_(same_rate, _c.tokens < row.excluded.tokens), _c.tokens), else_=row.excluded.tokens
    )
    changed["refilled_at"] = case((same_rate, _c.refilled_at), else_=row.excluded.refilled_at)
    stored: ReturningInsert[Any] = row.on_conflict_do_update(
        index_elements=(_c.tenant_id, _c.key),
        set_=changed,
        where=or_(_c.source != Source.API.value, row.excluded.source == Source.API.value),
    ).returning(*_ROW)
    return stored


_CHANGED = ("source", "max_running", "rate_count", "rate_ms", "burst", "updated_at", "updated_by")
_PUT_MEMBERS = ("tenant_id", "key", *_CHANGED, "tokens", "refilled_at", "created_at")
_PUT = {"postgresql": _put_statement(postgresql), "sqlite": _put_statement(sqlite)}


def put(
    tx: Connection, name: LimitKey, figures: Figures, *, source: Source, updated_by: str, now: datetime
) -> Limit | None:
    """Set a limit, new or not. None where an operator's stands, which a definition does not change. Waits for claims."""
    rate = figures.rate
    row = tx.execute(
        _PUT[tx.dialect.name],
        {
            "tenant_id": name.tenant_id,
            "key": name.key,
            "source": source.value,
            "max_running": figures.max_running,
            "rate_count": None if rate is None else rate.count,
            "rate_ms": None if rate is None else rate.per_ms,
            "burst": None if rate is None else rate.burst,
            "tokens": None if rate is None else float(rate.burst),
            "refilled_at": None if rate is None else now,
            "created_at": now,
            "updated_at": now,
            "updated_by": updated_by,
        },
    ).one_or_none()
    return None if row is None else _limit(row)


_OF_TENANT = _c.tenant_id == bindparam("tenant")
_LIST = select(*_ROW).where(_OF_TENANT, _c.key > bindparam("after")).order_by(_c.key)
_DELETE = delete(limits).where(_OF_TENANT, _c.key == bindparam("named"))


def list_limits(tx: Connection, tenant_id: TenantId, *, after: str | None, limit: int) -> list[Limit]:
    """Up to `limit` of a tenant's limits after the key `after`, by key."""
    return [
        _limit(row) for row in tx.execute(_LIST.limit(limit), {"tenant": tenant_id, "after": after or ""})
    ]


def delete_limit(tx: Connection, name: LimitKey) -> bool:
    """Delete a limit. False when this tenant has none of this key. Waits for claims."""
    return tx.execute(_DELETE, {"tenant": name.tenant_id, "named": name.key}).rowcount == 1


# -- limits that nobody asks for any more -------------------------------------------------------------------------

SWEPT = 200
_IS_DEFINITIONS = _c.source == literal_column(f"'{Source.DEFINITION.value}'")
_HAS_OPEN = exists(
    select(1)
    .select_from(tasks)
    .where(
        _t.tenant_id == _c.tenant_id,
        _t.limit_key == _c.key,
        _t.limit_key.is_not(None),
        _t.finished_at.is_(None),  # as the index says it
    )
    .correlate(limits)
)
_SWEPT_PAGE = (
    select(_c.tenant_id, _c.key, and_(_IS_DEFINITIONS, not_(_HAS_OPEN)))
    .where(
        tuple_(_c.tenant_id, _c.key)
        > tuple_(bindparam("after_tenant", type_=Id()), bindparam("after_key", type_=Text()))
    )
    .order_by(_c.tenant_id, _c.key)
    .limit(bindparam("limit"))
)
_LOCK_UNUSED = _READ.where(_IS_DEFINITIONS, not_(_HAS_OPEN)).with_for_update(skip_locked=True)
_IN_USE = select(_c.tenant_id, _c.key).where(_AMONG, _HAS_OPEN)
_DELETE_UNUSED = delete(limits).where(_c.tenant_id == bindparam("tenant"), among(_c.key, "keys", "text"))


def find_unused(
    tx: Connection, *, after: LimitKey | None, limit: int = SWEPT
) -> tuple[list[LimitKey], LimitKey | None]:
    """Those of the next `limit` limits that a definition caused and no open task asks for; and where to go on, None at the end."""
    start = after or LimitKey(TenantId(_NOBODY), "")
    given = {"after_tenant": start.tenant_id, "after_key": start.key, "limit": limit}
    rows = tx.execute(_SWEPT_PAGE, given).all()
    unused = [LimitKey(row[0], row[1]) for row in rows if row[2]]
    return unused, LimitKey(rows[-1][0], rows[-1][1]) if len(rows) == limit else None


def delete_unused(tx: Connection, names: Iterable[LimitKey]) -> int:
    """Delete those of some limits that nobody would miss; how many. Limits that others hold are passed over.

    First the row is locked, against which every task that is created or runs again holds on to its limit; then who asks for it
    is asked in a NEW statement, which sees those that came before the lock. A rate goes only with a full bucket, because
    that is what the next task begins with.
    """
    locked = _by_name(tx, _LOCK_UNUSED, names)
    if not locked:
        return 0
    used = {LimitKey(row[0], row[1]) for row in tx.execute(_IN_USE, _given(locked))}
    now = read_now(tx)
    gone: dict[TenantId, list[str]] = {}
    for name, limit in locked.items():
        is_full = limit.bucket is None or limit.bucket.at(now) >= limit.bucket.rate.burst
        if is_full and name not in used:
            gone.setdefault(name.tenant_id, []).append(name.key)
    return sum(
        tx.execute(_DELETE_UNUSED, {"tenant": tenant, "keys": keys}).rowcount for tenant, keys in gone.items()
    )


_ASKED_FOR = (
    select(_t.tenant_id, _t.type, _t.options, instances.c.definition_key)
    .join(instances, instances.c.id == _t.instance_id)
    .where(among(_t.id, "ids"), _t.limit_key.is_not(None), _t.finished_at.is_(None))
)


@dataclass(frozen=True, slots=True)
class Asking:
    """A task whose definition asked for a limit: its `options` as they are stored."""

    tenant_id: TenantId
    type: str
    options: str
    definition_key: str


def read_asking(tx: Connection, ids: Sequence[TaskId]) -> list[Asking]:
    """Those of some tasks that are open and ask for limits."""
    return [Asking(*row) for row in tx.execute(_ASKED_FOR, {"ids": ids})] if ids else []


_WAIT = union_all(
    select(_t.limit_key.label("key"), func.count())
    .where(_t.tenant_id == bindparam("tenant", type_=Id()), among(_t.limit_key, "keys", "text"))
    .where(_is_due(_t, _BOUND_NOW))
    .group_by(_t.limit_key),
    select((TYPE_PREFIX + _t.type).label("key"), func.count())
    .where(_t.tenant_id == bindparam("tenant", type_=Id()), among(_t.type, "types", "text"))
    .where(_is_due(_t, _BOUND_NOW))
    .group_by(_t.type),
)


def count_waiting(
    tx: Connection, tenant_id: TenantId, keys: Sequence[str], *, now: datetime
) -> dict[str, int]:
    """How many due tasks each of some limits of a tenant keeps waiting; those that keep none are left out."""
    types = [one.removeprefix(TYPE_PREFIX) for one in keys if is_of_type(one)]
    rows = tx.execute(_WAIT, {"tenant": tenant_id, "keys": keys, "types": types, "now": now})
    return {row[0]: row[1] for row in rows}
