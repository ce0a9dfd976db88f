"""Workers and what they can do: who is here, who said good-bye, who was found dead; the handlers that runners publish."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Connection,
    Insert,
    Interval,
    Select,
    bindparam,
    cast,
    delete,
    func,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from common.clock import database_now
from common.db.now import read_now
from common.db.prepared import Prepared
from common.db.rows import write_rows
from common.db.tables import handlers, workers
from common.db.types import Id, UtcDateTime, among
from common.ids import WorkerId

_w = workers.c
SILENT_AFTER = timedelta(seconds=8)
"""A worker that has not been seen for this long is taken for dead (it says so every 2 s)."""


def register(
    tx: Connection,
    *,
    worker: WorkerId,
    duty: str,
    host: str,
    pid: int,
    version: str,
    types: str,
    slots: int,
    now: datetime,
) -> None:
    """Write a worker's row. In a table that is just being restored, and has no key yet, it fails rather than stand there twice."""
    inserting = postgresql.insert if tx.dialect.name == "postgresql" else sqlite.insert
    tx.execute(
        inserting(workers).on_conflict_do_nothing(index_elements=[_w.id]),
        {"id": worker, "duty": duty, "host": host, "pid": pid, "version": version, "types": types, "slots": slots,
         "started_at": now, "seen_at": now},
    )  # fmt: skip


_SEEN = Prepared(
    update(workers)
    .where(_w.id == bindparam("worker", type_=Id()))
    .values(seen_at=bindparam("now", type_=UtcDateTime()), ended_at=None, died_at=None)
    .returning(_w.id)
)
# Skipped where locked: that one is just saying that it lives. After a host slept, all would else wait for each other.
_silent = (
    select(_w.id)
    .where(_w.ended_at.is_(None), _w.seen_at < bindparam("silent_since", type_=UtcDateTime()))
    .with_for_update(skip_locked=True)
)
_SILENT = Prepared(
    update(workers)
    .where(_w.id.in_(_silent.scalar_subquery()))
    .values(ended_at=bindparam("now", type_=UtcDateTime()), died_at=bindparam("now", type_=UtcDateTime()))
    .returning(_w.id)
)


_IS_HERE = Prepared(
    select(_w.id).where(
        _w.id == bindparam("worker", type_=Id()), _w.duty == bindparam("duty"), _w.ended_at.is_(None)
    )
)


def is_here(tx: Connection, worker: WorkerId, duty: str) -> bool:
    """Is there a worker of this id and duty that has neither said good-bye nor been found dead?"""
    return bool(_IS_HERE.rows(tx, {"worker": worker, "duty": duty}))


def say_goodbye(tx: Connection, worker: WorkerId, *, now: datetime) -> None:
    """A worker ended in order: nothing it held is suspect."""
    tx.execute(update(workers).where(_w.id == worker).values(ended_at=now, seen_at=now))


def unended_on(tx: Connection, host: str) -> list[tuple[WorkerId, int]]:
    """(id, pid) of the workers of `host` that have not said good-bye, for a starting process to look after."""
    return [
        (row[0], row[1])
        for row in tx.execute(select(_w.id, _w.pid).where(_w.host == host, _w.ended_at.is_(None)))
    ]


def mark_dead(tx: Connection, ids: Sequence[WorkerId], *, now: datetime) -> None:
    """Record that these workers are gone without having said so."""
    if ids:
        tx.execute(
            update(workers)
            .where(among(_w.id, "ids"), _w.ended_at.is_(None))
            .values(ended_at=now, died_at=now),
            {"ids": ids},
        )


_LAST_DEATH = Prepared(
    select(func.max(_w.died_at)).where(
        _w.duty == bindparam("duty"), _w.died_at > bindparam("since", type_=UtcDateTime())
    )
)


@dataclass(frozen=True, slots=True)
class Stayed:
    """What a worker learns that says that it lives.

    `is_known`: whether its row is there. `last_death`: when a worker of its duty was last found dead, within the time of suspicion; None when none was.
    """

    is_known: bool
    last_death: datetime | None


def stay(tx: Connection, worker: WorkerId, duty: str, *, suspicion: timedelta) -> Stayed:
    """Say that a worker lives, and mark those that have long said nothing as dead. One that was frozen comes back to life."""
    now = read_now(tx)
    seen = _SEEN.rows(tx, {"worker": worker, "now": now})
    _SILENT.rows(tx, {"silent_since": now - SILENT_AFTER, "now": now})
    died_at: datetime | None = _LAST_DEATH.rows(tx, {"duty": duty, "since": now - suspicion})[0][0]
    return Stayed(bool(seen), died_at)


def _staying_alone() -> Select[tuple[int, datetime]]:
    clock = select(database_now().label("now")).cte("clock")
    now = select(clock.c.now).scalar_subquery()
    worker = bindparam("worker", type_=Id())
    seen = (
        update(workers)
        .where(_w.id == worker)
        .values(seen_at=now, ended_at=None, died_at=None)
        .returning(_w.id)
        .cte("seen")
    )
    silent = (
        select(_w.id)
        .where(
            _w.ended_at.is_(None),
            _w.seen_at < now - cast(bindparam("silent", type_=Interval()), Interval()),
            _w.id != worker,
        )
        .with_for_update(skip_locked=True)
    )
    found = (
        update(workers)
        .where(_w.id.in_(silent.scalar_subquery()))
        .values(ended_at=now, died_at=now)
        .returning(_w.duty, _w.died_at)
        .cte("found")
    )
    # What this statement writes it does not read: its own row is as it was, and those that it has found dead are not there yet.
    died = select(_w.duty, _w.died_at).where(
        _w.died_at > now - cast(bindparam("suspicion", type_=Interval()), Interval()), _w.id != worker
    )
    deaths = union_all(died, select(found.c.duty, found.c.died_at)).subquery("deaths")
    known = select(func.count()).select_from(seen).scalar_subquery()
    return select(known, func.max(deaths.c.died_at)).where(deaths.c.duty == bindparam("duty"))


_STAYING_ALONE = Prepared(_staying_alone())


def stay_alone(tx: Connection, worker: WorkerId, duty: str, *, suspicion: timedelta) -> Stayed:
    """What `stay` does, as one statement (PostgreSQL): each worker of an installation says so every two seconds, also while there is nothing to do."""
    rows = _STAYING_ALONE.rows(
        tx, {"worker": worker, "duty": duty, "silent": SILENT_AFTER, "suspicion": suspicion}
    )
    seen, died_at = rows[0]
    return Stayed(bool(seen), died_at)


def forget_old(tx: Connection, *, before: datetime) -> None:
    """Delete rows of workers that ended long ago."""
    tx.execute(delete(workers).where(_w.ended_at < before))


@dataclass(frozen=True, slots=True)
class PublishedHandler:
    """What a runner can do: a task type, and for SYSTEM the function's name."""

    type: str
    name: str
    description: str
    light: bool
    isolated: bool
    input_schema: str | None
    output_schema: str | None
    retry: str | None = None


_PUBLISHED = (
    "type",
    "name",
    "description",
    "light",
    "isolated",
    "input_schema",
    "output_schema",
    "retry",
    "published_at",
)


def _publish_statement(dialect: Any) -> Insert:
    row = dialect.insert(handlers).values(
        {name: bindparam(name, type_=handlers.c[name].type) for name in _PUBLISHED}
    )
    statement: Insert = row.on_conflict_do_update(
        index_elements=(handlers.c.type, handlers.c.name),
        set_={name: row.excluded[name] for name in _PUBLISHED[2:]},
    )
    return statement


_PUBLISH = {"postgresql": _publish_statement(postgresql), "sqlite": _publish_statement(sqlite)}


def publish(tx: Connection, published: Iterable[PublishedHandler], *, now: datetime) -> None:
    """Upsert handlers. They stay when the runner ends: a definition may be applied while none runs.

    In key order: runners that start together meet on these rows.
    """
    rows = [asdict(one) | {"published_at": now} for one in published]
    write_rows(tx, _PUBLISH[tx.dialect.name], sorted(rows, key=lambda row: (row["type"], row["name"])))
