"""The inbox: the one door through which anything happens to an instance. Rows are deleted when consumed.

Order is `(lane, id)` among the rows that are visible when the instance is locked; lane 0 carries control commands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    bindparam,
    column,
    func,
    lateral,
    literal_column,
    not_,
    select,
    true,
    tuple_,
    update,
)

from common.db.prepared import Prepared
from common.db.rows import Writes, insert_rows
from common.db.tables import InboxType, inbox
from common.db.types import BigIdList, Id, IdList, among
from common.ids import InstanceId, TenantId
from common.store import turns
from common.store.turns import FROM_THE_FIRST
from statechart.record import record

CONTROL, ORDINARY = 0, 1
TENANTS_AT_ONCE = 100
NOTHING_PASSED: Mapping[TenantId, int] = {}
PER_INSTANCE = 200
NOT_STORED = 0
"""The id of a row that came without being stored: the answer of a task whose end is written by the step that takes it."""

_c = inbox.c


@record
class InboxRow:
    """An accepted, unconsumed row. `body` is its stored text. Its id may be `NOT_STORED`."""

    id: int
    instance_id: InstanceId
    lane: int
    type: InboxType
    body: str
    source: str
    accepted_at: datetime


def new_row(
    tenant_id: TenantId,
    instance_id: InstanceId,
    type: InboxType,
    body: str,
    source: str,
    accepted_at: datetime,
    *,
    lane: int = ORDINARY,
) -> dict[str, Any]:
    """A row to `put`. `source` is who the history names as the actor."""
    return {
        "tenant_id": tenant_id,
        "instance_id": instance_id,
        "lane": lane,
        "type": type.value,
        "body": body,
        "source": source,
        "accepted_at": accepted_at,
    }


def put(tx: Connection | Writes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Accept rows made by `new_row`. Takes no lock that anyone waits for."""
    insert_rows(tx, inbox, rows)


@record
class ReadyRow:
    """A row that may be stepped."""

    id: int
    instance_id: InstanceId
    tenant_id: TenantId
    accepted_at: datetime


@record
class PageRoom:
    """How many rows a page has for all tenants together, and for each of them at least."""

    together: int
    each: int

    def of_each(self, tenants: int) -> int:
        """Rows of each of so many."""
        return max(self.each, self.together // max(tenants, 1))


LONG_PAGE = PageRoom(1_000, 100)
SHORT_PAGE = PageRoom(300, 10)
"""What a batch of a hundred needs: its own rows, those of the one before it, which may still be being saved, and some that others hold."""


@record
class Page:
    """The oldest ready rows of some tenants, by tenant and id, up to `size` of each.

    `last_tenant` is not None where there may be more tenants behind it.
    """

    rows: Sequence[ReadyRow] = ()
    size: int = LONG_PAGE.together
    last_tenant: TenantId | None = None


def _is_ready(rows: FromClause) -> tuple[ColumnElement[bool], ...]:
    return (not_(rows.c.parked),)


_walk = turns.tenants(inbox, _is_ready, "id")
_tenants = select(_walk.c.tenant_id).where(_walk.c.tenant_id.is_not(None)).limit(TENANTS_AT_ONCE)
_TENANTS = Prepared(_tenants)
_PAGE_OF = Prepared(
    select(_c.id, _c.instance_id, _c.tenant_id, _c.accepted_at)
    .where(*_is_ready(inbox), _c.tenant_id == bindparam("tenant_id", type_=Id()), _c.id > bindparam("after"))
    .order_by(_c.id)
    .limit(bindparam("size"))
)
_passed = (
    func.unnest(bindparam("tenants", type_=IdList()), bindparam("afters", type_=BigIdList()))
    .table_valued(column("tenant_id", Id()), column("after", BigInteger()), name="passed")
    .render_derived()
)
_turn = _tenants.cte("turn")
_most = func.greatest(
    bindparam("each", type_=Integer()), bindparam("together", type_=Integer()).op("/")(func.count())
)
_ready = (
    select(_c.id, _c.instance_id, _c.accepted_at)
    .where(
        *_is_ready(inbox),
        # Not `tenant_id =`: to a planner that knows of one tenant, the primary key then looks as good, and it would read
        # all of a flood to find the rows of another.
        tuple_(_c.tenant_id, _c.id) > tuple_(_turn.c.tenant_id, func.coalesce(_passed.c.after, 0)),
        _c.tenant_id <= _turn.c.tenant_id,
    )
    .order_by(_c.tenant_id, _c.id)
    .limit(select(_most).select_from(_turn).scalar_subquery())
    .lateral("ready")
)
_PAGE = Prepared(
    select(_ready.c.id, _ready.c.instance_id, _turn.c.tenant_id, _ready.c.accepted_at)
    .select_from(_turn.outerjoin(_passed, _passed.c.tenant_id == _turn.c.tenant_id).outerjoin(_ready, true()))
    .order_by(_turn.c.tenant_id, _ready.c.id)
)


def page_ready(
    tx: Connection,
    passed: Mapping[TenantId, int] = NOTHING_PASSED,
    *,
    turn_after: TenantId = FROM_THE_FIRST,
    room: PageRoom = LONG_PAGE,
) -> Page:
    """The oldest rows that may be stepped of up to 100 tenants behind `turn_after`, of each those behind the id `passed` for it.

    All have their part of the page's `room`, and some rows in any case, so that a flood of one tenant's hides nobody else's.
    """
    if tx.dialect.name == "postgresql":
        names = {
            "turn_after": turn_after,
            "tenants": list(passed),
            "afters": list(passed.values()),
            "together": room.together,
            "each": room.each,
        }
        found: Sequence[Any] = _PAGE.rows(tx, names)
        tenants = {row[2] for row in found}
        size = room.of_each(len(tenants))
    else:
        tenants = {row[0] for row in _TENANTS.rows(tx, {"turn_after": turn_after})}
        size = room.of_each(len(tenants))
        found = [
            row
            for one in sorted(tenants)
            for row in _PAGE_OF.rows(tx, {"tenant_id": one, "after": passed.get(one, 0), "size": size})
        ]
    rows = [ReadyRow(*row) for row in found if row[0] is not None]
    last = max(tenants) if len(tenants) == TENANTS_AT_ONCE else None
    return Page(rows, size, last)


_ROW = (_c.id, _c.instance_id, _c.lane, _c.type, _c.body, _c.source, _c.accepted_at)
_OF_ONE = Prepared(
    select(*_ROW)
    .where(_c.instance_id == bindparam("instance_id"), ~_c.parked)
    .order_by(_c.lane, _c.id)
    .limit(PER_INSTANCE)
)
_asked = select(func.unnest(bindparam("ids", type_=IdList())).label("id")).subquery("asked")
_theirs = lateral(
    select(*_ROW)
    .where(_c.instance_id == _asked.c.id, ~_c.parked)
    .order_by(_c.lane, _c.id)
    .limit(PER_INSTANCE)
).alias("theirs")
_OF_MANY = Prepared(select(_theirs).select_from(_asked.join(_theirs, literal_column("true"))))


def read_ready(tx: Connection, instance_ids: Sequence[str]) -> list[InboxRow]:
    """The rows to step for instances that this transaction has locked, at most 200 each, in (instance, lane, id) order.

    Must be a statement of its own, after the lock: in one statement with it, the snapshot would be older than the lock
    that was waited for, and rows would be read that another process has already consumed.
    """
    if tx.dialect.name == "postgresql":
        rows: Sequence[Any] = _OF_MANY.rows(tx, {"ids": instance_ids})
    else:
        rows = [row for one in instance_ids for row in _OF_ONE.rows(tx, {"instance_id": one})]
    return [inbox_row(row) for row in rows]


_ANY_READY = select(_c.id).where(*_is_ready(inbox)).order_by(_c.tenant_id, _c.id).limit(literal_column("1"))
_HAS_READY = Prepared(_ANY_READY)
IS_ANY_READY = _ANY_READY.scalar_subquery().is_not(None).label("is_any_ready")
"""Does anything wait to be stepped, for any instance?"""


def has_ready(tx: Connection) -> bool:
    """Does anything wait to be stepped, for any instance?"""
    return bool(_HAS_READY.rows(tx))


_PARKED = (
    select(*_ROW)
    .where(_c.instance_id == bindparam("instance_id"), _c.parked)
    .order_by(_c.lane, _c.id)
    .limit(bindparam("limit"))
)


def read_parked(tx: Connection, instance_id: str, *, limit: int) -> list[InboxRow]:
    """The oldest parked rows of an instance that this transaction has locked."""
    rows = tx.execute(_PARKED, {"instance_id": instance_id, "limit": limit})
    return [inbox_row(row) for row in rows]


def inbox_row(row: Sequence[Any]) -> InboxRow:
    """From the columns (id, instance_id, lane, type, body, source, accepted_at)."""
    return InboxRow(row[0], row[1], row[2], InboxType(row[3]), row[4], row[5], row[6])


def consume(writes: Writes, ids: Sequence[int]) -> None:
    """Delete exactly the rows that were read and stepped, or be `Unmatched`. Never `id <= last`: a lower id can commit later."""
    writes.delete(inbox, ids)


_PARK = update(inbox).where(among(_c.id, "ids", "big")).values(parked=True)
_UNPARK = update(inbox).where(among(_c.instance_id, "ids"), _c.parked).values(parked=False)


def put_parked(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Accept rows made by `new_row` for frozen instances, set aside from the first."""
    insert_rows(tx, inbox, [{**row, "parked": True} for row in rows])


def park(tx: Connection, ids: Sequence[int]) -> None:
    """Set rows of a frozen instance aside until it is resumed or retried."""
    if ids:
        tx.execute(_PARK, {"ids": ids})


def unpark(tx: Connection, instance_ids: Iterable[str]) -> None:
    """Take the parked rows of instances up again."""
    tx.execute(_UNPARK, {"ids": list(instance_ids)})


ANSWERS = (InboxType.TASK.value, InboxType.CHILD.value)
_ANSWERS = select(_c.id, _c.instance_id, _c.body).where(among(_c.instance_id, "ids"), _c.type.in_(ANSWERS))


def read_answers(tx: Connection, instance_ids: Sequence[str]) -> list[tuple[int, InstanceId, str]]:
    """(id, instance, body) of the unconsumed answers of tasks and children, parked ones too."""
    return [(row[0], row[1], row[2]) for row in tx.execute(_ANSWERS, {"ids": list(instance_ids)})]
