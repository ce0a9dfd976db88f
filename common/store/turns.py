"""Whose turn it is: the tenants that have something waiting, found without reading what waits.

A tenant may have a hundred thousand rows waiting and another three. So the tenants are walked along the leading columns
of a partial index, from one to the next (a loose index scan): each costs a probe, however much it has waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    FromClause,
    Table,
    bindparam,
    literal_column,
    select,
    true,
    tuple_,
)

from common.db.types import Id
from common.ids import TenantId

FROM_THE_FIRST = TenantId("00000000-0000-0000-0000-000000000000")
"""Before every tenant: where a walk begins that leaves nobody out."""


def next_turn(served: Collection[TenantId], limit: int, turn_after: TenantId) -> TenantId:
    """Where the round after one that began behind `turn_after` begins, when that served some tenants and had room for `limit` rows.

    Where there was not even one for everybody: behind the last who was served. Else nobody was left out.
    """
    if len(served) < limit:
        return FROM_THE_FIRST
    return max(served, key=lambda tenant: (tenant <= turn_after, tenant))


_Waits = Callable[[FromClause], tuple[ColumnElement[bool], ...]]
_AFTER = bindparam("turn_after", type_=Id())


def tenants(table: Table, waits: _Waits, then: str) -> CTE:
    """The tenants behind the bound `turn_after` with rows that `waits`, by id; a row of null at the end.

    There must be an index of `tenant_id` and the column `then` that has the predicate of `waits`, literally. Without that column in the order
    SQLite may take another index of tenants, and read each of their rows that waits no more.
    """

    def next_behind(tenant: ColumnElement[Any]) -> ColumnElement[Any]:
        rows = table.alias()
        behind = select(rows.c.tenant_id).where(*waits(rows), rows.c.tenant_id > tenant)
        return (
            behind.order_by(rows.c.tenant_id, rows.c[then])
            .limit(literal_column("1"))
            .scalar_subquery()
            .label("tenant_id")
        )

    walk = select(next_behind(_AFTER)).cte("walk", recursive=True)
    return walk.union_all(select(next_behind(walk.c.tenant_id)).where(walk.c.tenant_id.is_not(None)))


def pairs(table: Table, column: str, waits: _Waits) -> CTE:
    """The distinct (tenant_id, `column`) of the rows that `waits`, of the tenants behind the bound `turn_after`, in order.

    For PostgreSQL: SQLite has no LATERAL, and does not seek by the second column of a row comparison.
    """
    rows = table.alias()
    first = select(rows.c.tenant_id, rows.c[column]).where(*waits(rows), rows.c.tenant_id > _AFTER)
    first = first.order_by(rows.c.tenant_id, rows.c[column]).limit(literal_column("1"))
    begins = first.subquery()
    walk = select(begins).cte("walk", recursive=True)
    rows = table.alias()
    here = tuple_(rows.c.tenant_id, rows.c[column])
    following = select(rows.c.tenant_id, rows.c[column]).where(
        *waits(rows), here > tuple_(walk.c.tenant_id, walk.c[column])
    )
    following = following.order_by(rows.c.tenant_id, rows.c[column]).limit(literal_column("1"))
    further = following.lateral()
    return walk.union_all(select(further).select_from(walk.join(further, true())))
