"""Writing many rows at once: one statement and one parameter, whatever their number.

SQLAlchemy's executemany sends a statement per row: 25 µs of client time each, most of what a batch of steps cost. On
PostgreSQL the rows travel as one JSON text that `json_to_recordset` unfolds (measured in docs/performance.md); SQLite, in
process, is as fast row by row. `Writes` go further: the rows of several tables in one statement, for one round trip.

PostgreSQL never gets an executemany: the driver sends it as a pipeline, and a process that freezes inside one is not idle for
the server, which waits for the rest of what is sent and never takes the locks away from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from typing import Any

import orjson
from sqlalchemy import Connection, Executable, Table
from sqlalchemy.dialects import postgresql

from common.db.prepared import Convert, as_text, run, run_many, sqlite_convert

_POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]


def write_rows(tx: Connection, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> int:
    """Execute `statement` once for each row, all with the same members; return how many rows changed in all."""
    if len(rows) > 1 and tx.dialect.name != "postgresql":
        return tx.execute(statement, [dict(row) for row in rows]).rowcount
    return sum(tx.execute(statement, dict(row)).rowcount for row in rows)


def insert_rows(tx: Connection | Writes, table: Table, rows: Sequence[Mapping[str, Any]]) -> int:
    """Insert rows that all have the same members, named as the columns; return how many, 0 where they are collected."""
    if isinstance(tx, Writes):
        tx.insert(table, rows)
        return 0
    if not rows:
        return 0
    names = tuple(rows[0])
    if tx.dialect.name == "postgresql":
        return int(run(tx, _insert_text(table, names).format("$1"), [packed(rows)]).rowcount)
    return _run_for_each(tx, _sqlite_insert(table, names), rows)


Match = tuple[tuple[str, str], ...]
"""How a row is found: (column, the member of the row that it must equal), as a member may be called otherwise."""


def update_rows(
    tx: Connection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    match: Match,
    only_if: str = "true",
    cleared: tuple[str, ...] = (),
) -> int:
    """Update one row for each of `rows`, all with the same members; return how many changed.

    Members named in `match` find the row, the others are columns to set. `only_if` is a further condition in SQL;
    columns in `cleared` become null.
    """
    if not rows:
        return 0
    changed = _changed(rows, match)
    if tx.dialect.name == "postgresql":
        text = _update_text(table, changed, match, only_if, cleared).format("$1", "$2")
        return int(run(tx, text, [packed(rows), _found(rows, match)]).rowcount)
    return _run_for_each(tx, _sqlite_update(table, changed, match, only_if, cleared), rows)


def _run_for_each(tx: Connection, each: _Each, rows: Sequence[Mapping[str, Any]]) -> int:
    sent = [
        [
            row[name] if convert is None else convert(row[name])
            for name, convert in zip(each.names, each.converts, strict=True)
        ]
        for row in rows
    ]
    return int(run(tx, each.text, sent[0]).rowcount) if len(sent) == 1 else run_many(tx, each.text, sent)


class Unmatched(Exception):
    """A write that was to change each of its rows changed fewer: somebody else wrote them. The transaction must roll back."""


@dataclass(frozen=True, slots=True)
class _Write:
    """One part of a statement: its text with `{}` where its parameters go, and those.

    `expected` rows have to change; None: however many do.
    """

    text: str
    parameters: tuple[str | None, ...]
    expected: int | None = None


@dataclass
class Writes:
    """Rows to write into several tables, all at once: on PostgreSQL one statement, whatever their number.

    Its parts see the tables as they were before it, and none sees what another writes, so they must not depend on each
    other's rows; foreign keys are looked at when all of it is done. It is one round trip and nothing is pipelined (see
    above). On SQLite the parts are executed one after the other, in the order in which they came.
    """

    tx: Connection
    _parts: list[_Write] = field(default_factory=list)

    @property
    def _is_collected(self) -> bool:
        return self.tx.dialect.name == "postgresql"

    def insert(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows that all have the same members, named as the columns."""
        if rows and self._is_collected:
            self._parts.append(_Write(_insert_text(table, tuple(rows[0])), (packed(rows),)))
        elif rows:
            insert_rows(self.tx, table, rows)

    def update(
        self,
        table: Table,
        rows: Sequence[Mapping[str, Any]],
        *,
        match: Match,
        only_if: str = "true",
        cleared: tuple[str, ...] = (),
        may_miss: bool = False,
    ) -> None:
        """As `update_rows`; each row has to change unless it `may_miss`. Raises `Unmatched`, where it executes at once."""
        if not rows:
            return
        if self._is_collected:
            changed = _changed(rows, match)
            text = _update_text(table, changed, match, only_if, cleared)
            parameters = (packed(rows), _found(rows, match))
            self._parts.append(_Write(text, parameters, None if may_miss else len(rows)))
            return
        found = update_rows(self.tx, table, rows, match=match, only_if=only_if, cleared=cleared)
        if not may_miss:
            _require(found, len(rows))

    def delete(self, table: Table, ids: Sequence[int]) -> None:
        """Rows by their identity; each has to go. Raises `Unmatched`, where it executes at once."""
        if not ids:
            return
        if self._is_collected:
            text = f"DELETE FROM {table.name} WHERE id = {_any_of('bigint')}"
            self._parts.append(_Write(text, (as_text(ids),), len(ids)))
        else:
            text = f"DELETE FROM {table.name} WHERE id IN (SELECT value FROM json_each(?))"
            _require(int(run(self.tx, text, [orjson.dumps(list(ids)).decode()]).rowcount), len(ids))

    def run(self) -> None:
        """Execute what was collected. Raises `Unmatched`."""
        parts, self._parts = self._parts, []
        if not parts:
            return
        statement = _together(tuple((part.text, part.expected is not None) for part in parts))
        parameters = [one for part in parts for one in part.parameters]
        counts = run(self.tx, statement, parameters).fetchone() or ()
        expected = [part.expected for part in parts if part.expected is not None]
        for found, wanted in zip(counts, expected, strict=False):
            _require(found, wanted)


def _require(found: int, wanted: int) -> None:
    if found != wanted:
        raise Unmatched(f"expected to write {wanted} rows, found {found} as they were read")


@lru_cache
def _together(parts: tuple[tuple[str, bool], ...]) -> str:
    """One statement of several parts; it answers with the counts of those that are to be counted."""
    steps, counts = [], []
    numbers = count(1)
    for at, (part, is_counted) in enumerate(parts):
        named = part.format(*(f"${next(numbers)}" for _ in range(part.count("{}"))))
        returning = " RETURNING 1" if is_counted else ""
        steps.append(f"w{at} AS ({named}{returning})")
        if is_counted:
            counts.append(f"(SELECT count(*) FROM w{at})")
    return f"WITH {', '.join(steps)} SELECT {', '.join(counts) or '0'}"


@dataclass(frozen=True, slots=True)
class _Each:
    """A statement for SQLite that is executed for each row: the members that it takes, in order, and how they are sent."""

    text: str
    names: tuple[str, ...]
    converts: tuple[Convert | None, ...]


@lru_cache
def _sqlite_insert(table: Table, names: tuple[str, ...]) -> _Each:
    places = ", ".join("?" * len(names))
    text = f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({places})"
    return _Each(text, names, tuple(sqlite_convert(table.c[name].type) for name in names))


@lru_cache
def _sqlite_update(
    table: Table, changed: tuple[str, ...], match: Match, only_if: str, cleared: tuple[str, ...]
) -> _Each:
    sets = [f"{name} = ?" for name in changed] + [f"{name} = NULL" for name in cleared]
    found = [f"{column} = ?" for column, _ in match] + [only_if]
    columns = (*changed, *(column for column, _ in match))
    text = f"UPDATE {table.name} SET {', '.join(sets)} WHERE {' AND '.join(found)}"
    names = (*changed, *(member for _, member in match))
    return _Each(text, names, tuple(sqlite_convert(table.c[column].type) for column in columns))


def _changed(rows: Sequence[Mapping[str, Any]], match: Match) -> tuple[str, ...]:
    finding = {member for _, member in match}
    return tuple(name for name in rows[0] if name not in finding)


@lru_cache
def _insert_text(table: Table, columns: tuple[str, ...]) -> str:
    names = ", ".join(columns)
    recordset = _recordset(table, tuple((name, name) for name in columns))
    return f"INSERT INTO {table.name} ({names}) SELECT {names} FROM {recordset}"


@lru_cache
def _update_text(
    table: Table, changed: tuple[str, ...], match: Match, only_if: str, cleared: tuple[str, ...]
) -> str:
    sets = [f"{name} = r.{name}" for name in changed] + [f"{name} = NULL" for name in cleared]
    found = [f"{table.name}.{column} = r.{member}" for column, member in match] + [only_if]
    # Said twice: PostgreSQL takes a recordset for a hundred rows, and would rather join it with all of a small table. Such a plan
    # is kept while the table grows.
    first = match[0][0]
    found.append(f"{table.name}.{first} = {_any_of(table.c[first].type.compile(_POSTGRESQL))}")
    recordset = _recordset(table, (*match, *((name, name) for name in changed)))
    return f"UPDATE {table.name} SET {', '.join(sets)} FROM {recordset} WHERE {' AND '.join(found)}"


def _any_of(type: str) -> str:
    """One of a list that is a parameter, from a query of its own, so that the planner never knows how long it is.

    Where it does, a plan for each list looks cheaper than the one that is kept, once the tables have grown: it is made each time, which takes as
    long as to execute it.
    """
    return f"ANY(CAST((SELECT CAST({{}} AS {type}[])) AS {type}[]))"


def _found(rows: Sequence[Mapping[str, Any]], match: Match) -> str | None:
    """The values of the first column that finds the rows, as a parameter."""
    member = match[0][1]
    return as_text(sorted({row[member] for row in rows}))


def _recordset(table: Table, members: Match) -> str:
    typed = ", ".join(f"{member} {table.c[column].type.compile(_POSTGRESQL)}" for column, member in members)
    return f"json_to_recordset(CAST({{}} AS json)) AS r({typed})"


def packed(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as one parameter of a statement for PostgreSQL, which unfolds it with `json_to_recordset`."""
    return orjson.dumps(list(rows), default=_hex).decode()


def _hex(value: Any) -> str:
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    raise TypeError(f"cannot write {type(value).__name__} into a row")
