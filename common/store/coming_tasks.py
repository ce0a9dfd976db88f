"""What there is for a task runner, and what falls due next, by one statement, because it is asked each second with nothing to do.

What an orchestrator asks for is `common.store.coming`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    Select,
    bindparam,
    func,
    literal,
    literal_column,
    select,
)

from common.db.prepared import Prepared
from common.db.tables import tasks
from common.db.types import UtcDateTime, among
from common.ids import WorkerId
from common.store.claims import ANY_DUE_NAMES, CLOCK, IS_ANY_DUE, waits
from common.store.leased import IS_ANY_LEASED
from common.store.limits import key_or_empty

GROUPS_MAX = 500
"""How many groups of what is due a look goes through; what is behind them, the next claim finds without it."""


@dataclass(frozen=True, slots=True)
class ComingTasks:
    """`now` is the database's time.

    `fell_due_at`: the earliest `run_at` of pending tasks after the instant that was named; `next_at`: the earliest after `now`; None where
    there is none. `is_any_due`: a claim would find something. `are_limited`: limits may hold for some other. `is_any_leased`: something is
    leased to this worker.
    """

    now: datetime
    fell_due_at: datetime | None
    next_at: datetime | None
    is_any_due: bool
    are_limited: bool
    is_any_leased: bool


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
        found = select(one.c.id).where(*waits(one), *same, behind).order_by(*directions[differs:])
        probes.append(found.limit(literal_column("1")).correlate(here).scalar_subquery())
    return func.coalesce(*probes)


def _coming(is_any_due: ColumnElement[bool]) -> Select[Any]:
    """Of each group of what is due the first `run_at` behind an instant, by a loose index scan, and of those the first; and what there is now."""
    here, one = tasks.alias(), tasks.alias()
    groups = (*_group(tasks)[:3], tasks.c.priority.desc())
    first = select(tasks.c.id).where(*waits(tasks)).order_by(*groups)
    start = select(
        first.limit(literal_column("1")).scalar_subquery().label("id"), literal(1, Integer).label("hop")
    )
    hops = start.cte("hops", recursive=True)
    onward = select(_next_group(here), hops.c.hop + 1).select_from(hops.join(here, here.c.id == hops.c.id))
    hops = hops.union_all(onward.where(hops.c.hop < literal_column(str(GROUPS_MAX))))
    now, are_limited = (select(column).scalar_subquery() for column in (CLOCK.c.now, CLOCK.c.are_limited))

    def after(instant: ColumnElement[Any]) -> ColumnElement[Any]:
        behind = select(one.c.run_at).where(*waits(one), one.c.run_at > instant)
        same = (theirs == mine for theirs, mine in zip(_group(one), _group(here), strict=True))
        found = behind.where(*same).order_by(one.c.run_at).limit(literal_column("1")).correlate(here)
        return func.min(found.scalar_subquery())

    since = bindparam("since", type_=UtcDateTime())
    return (
        select(
            now,
            after(since),
            after(now),
            select(is_any_due).scalar_subquery(),
            are_limited,
            select(IS_ANY_LEASED).scalar_subquery(),
        )
        .select_from(hops.join(here, here.c.id == hops.c.id))
        .where(among(here.c.type, "types", "text"))
    )


_COMING = {dialect: Prepared(_coming(is_any_due)) for dialect, is_any_due in IS_ANY_DUE.items()}


def read_coming_tasks(
    tx: Connection, *, worker: WorkerId, types: Sequence[str], functions: Sequence[str], since: datetime
) -> ComingTasks:
    """Look for a worker that runs tasks of `types` (SYSTEM: of `functions`). Safe outside of a transaction.

    What falls due is looked for in the groups of tenant, type, limit and priority that wait, however many tasks each has, and in no
    more than `GROUPS_MAX` of them.
    """
    names = {**ANY_DUE_NAMES, "worker": worker, "types": types, "functions": functions, "since": since}
    [[now, fell_due_at, next_at, is_any_due, are_limited, is_any_leased]] = _COMING[tx.dialect.name].rows(
        tx, names
    )
    return ComingTasks(now, fell_due_at, next_at, bool(is_any_due), bool(are_limited), bool(is_any_leased))
