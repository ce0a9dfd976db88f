"""A short inbox with the instances that it is for, locked and read in one statement. PostgreSQL only.

Lock first, read in a later statement, is the rule (`inbox.read_ready`): the snapshot of one statement is older than its locks, so it may
show rows that the holder before consumed. Here that is found out. Whoever consumes a row raises the `sequence` of its instance in
the same commit; where the locked row has another `sequence` than the statement's snapshot, the rows of that instance do not count and are read anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field

import orjson
from sqlalchemy import (
    CTE,
    JSON,
    Connection,
    Text,
    bindparam,
    case,
    cast,
    distinct,
    func,
    literal_column,
    not_,
    select,
    true,
)

from common.clock import database_now
from common.db.prepared import Prepared
from common.db.tables import inbox, instances
from common.db.types import Id
from common.ids import InstanceId
from common.store.inbox import InboxRow, inbox_row, read_ready
from common.store.instances import LOCKED, LockedInstance, locked_instance
from common.store.limits import limited_types_text
from statechart.record import record

FIRST = 65
"""Rows of the inbox that one look takes in; so many tell that there may be more."""

_c = instances.c


def _ready(page: CTE, *, locks_also: bool = False) -> Prepared:
    """The statement that locks and reads what is for the rows of a `page` of the inbox; with `locks_also`, it locks more instances."""
    # Not by `unnest`: a plan that knows how long the list is looks so much cheaper than the one that is kept, that each would be made anew.
    also = select(
        cast(func.json_array_elements_text(cast(bindparam("also", type_=Text()), JSON())), Id()).label("id")
    )
    here = select(page.c.instance_id.label("id"))
    ids = (here.union(also) if locks_also else here.distinct()).order_by("id").subquery("ready")
    # One by one, each by its primary key: joined at once they are read whole by a plan that was made when there were few.
    free = (
        select(*LOCKED)
        .where(_c.id == ids.c.id)
        .limit(literal_column("1"))
        .with_for_update(key_share=True, skip_locked=True)
        .lateral("free")
    )
    seen = instances.alias("seen")
    as_seen = select(seen.c.sequence).where(seen.c.id == ids.c.id).scalar_subquery().label("seen_sequence")
    locked = (
        select(free, as_seen).select_from(ids.join(free, true())).cte("locked").prefix_with("MATERIALIZED")
    )
    size = select(
        func.count().label("rows"),
        func.count(distinct(page.c.tenant_id)).label("tenants"),
        func.count(distinct(page.c.instance_id)).label("instances"),
    ).cte("size")
    place = func.row_number().over(partition_by=locked.c.id, order_by=(page.c.lane, page.c.id))
    theirs = (
        select(
            page.c.id.label("row_id"), locked.c.id.label("instance_id"), page.c.lane, page.c.type, page.c.body, page.c.source, page.c.accepted_at,
            locked.c.seen_sequence,
            # A snapshot may be large, and is the same for each row of its instance.
            *(case((place == 1, column)).label(column.name) if column.name == "snapshot" else column
              for column in (locked.c[one.name] for one in LOCKED)),
        )
        .select_from(locked.join(page, locked.c.id == page.c.instance_id, isouter=locks_also))
        .subquery("theirs")
    )  # fmt: skip
    return Prepared(
        select(size, theirs, database_now(), limited_types_text(theirs.c.tenant_id))
        .select_from(size.outerjoin(theirs, true()))
        .order_by(theirs.c.instance_id, theirs.c.lane, theirs.c.row_id)
    )


_page = (
    select(*inbox.c)
    .where(not_(inbox.c.parked))
    .order_by(inbox.c.tenant_id, inbox.c.id)
    .limit(literal_column(str(FIRST)))
    .cte("page")
    .prefix_with("MATERIALIZED")
)
_READY, _READY_ALSO = _ready(_page), _ready(_page, locks_also=True)
_SIZE, _ROW = 3, 7
"""Columns that tell the size, and behind them those of an inbox row."""


@record
class Ready:
    """Every instance that is ready and free, locked, with its rows in the order in which they are to be stepped.

    `is_all`: they are all that there are, and few enough that nobody's turn has to be chosen.
    """

    is_all: bool
    locked: list[LockedInstance] = field(default_factory=list)
    rows: list[InboxRow] = field(default_factory=list)


def lock_and_read(tx: Connection, *, portion: int, also: Sequence[InstanceId] = ()) -> Ready:
    """Look for what is ready, lock it and read it, and lock `also`. Where it is too much, nothing is to be stepped of it.

    It is where there may be rows that this look has not seen, and where it is of several tenants and more than a `portion` of
    instances: then `inbox.page_ready` has to say whose turn it is.
    """
    found = _READY_ALSO.rows(tx, {"also": orjson.dumps(also).decode()}) if also else _READY.rows(tx)
    rows, tenants, waiting = found[0][:_SIZE]
    if rows >= FIRST or (tenants > 1 and waiting > portion):
        return Ready(is_all=False)
    ready = Ready(is_all=True)
    stale: list[InstanceId] = []
    for row in found:
        about, (seen_sequence, *instance) = row[_SIZE : _SIZE + _ROW], row[_SIZE + _ROW :]
        if about[1] is None:
            continue  # nobody is locked
        if not ready.locked or ready.locked[-1].id != about[1]:
            ready.locked.append(locked_instance(instance))
        if ready.locked[-1].sequence != seen_sequence:
            stale.append(ready.locked[-1].id)
        elif about[0] is not None:
            ready.rows.append(inbox_row(about))
    if stale:
        ready.rows.extend(read_ready(tx, list(dict.fromkeys(stale))))
    return ready
