"""Writing many rows at once: one statement and one parameter, whatever their number.

SQLAlchemy's executemany sends a statement per row: 25 µs of client time each, most of what a batch of steps cost. On
PostgreSQL the rows travel as one JSON text that `json_to_recordset` unfolds (measured in docs/performance.md); SQLite, in
process, is as fast row by row.

PostgreSQL never gets an executemany: the driver sends it as a pipeline, and a process that freezes inside one is not idle for
the server, which waits for the rest of what is sent and never takes the locks away from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import orjson
from sqlalchemy import Connection, Executable, Table, TextClause, bindparam, insert, text, update
from sqlalchemy.dialects import postgresql

_POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]


def write_rows(tx: Connection, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> int:
    """Execute `statement` once for each row, all with the same members; return how many rows changed in all."""
    if len(rows) > 1 and tx.dialect.name != "postgresql":
        return tx.execute(statement, [dict(row) for row in rows]).rowcount
    return sum(tx.execute(statement, dict(row)).rowcount for row in rows)


def insert_rows(tx: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> int:
    """Insert rows that all have the same members, named as the columns; return how many."""
    if len(rows) <= 1 or tx.dialect.name != "postgresql":
        return write_rows(tx, _inserting(table), rows)
    return tx.execute(_inserting_many(table, tuple(rows[0])), {"rows": _packed(rows)}).rowcount


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
    finding = {member for _, member in match}
    changed = tuple(name for name in rows[0] if name not in finding)
    if len(rows) <= 1 or tx.dialect.name != "postgresql":
        named = [
            {f"b_{name}" if name in finding else name: value for name, value in row.items()} for row in rows
        ]
        return write_rows(tx, _updating(table, changed, match, only_if, cleared), named)
    return tx.execute(
        _updating_many(table, changed, match, only_if, cleared), {"rows": _packed(rows)}
    ).rowcount


@lru_cache
def _inserting(table: Table) -> Executable:
    return insert(table)


@lru_cache
def _updating(
    table: Table, changed: tuple[str, ...], match: Match, only_if: str, cleared: tuple[str, ...]
) -> Executable:
    found = (
        table.c[column] == bindparam(f"b_{member}", type_=table.c[column].type) for column, member in match
    )
    values = {name: bindparam(name, type_=table.c[name].type) for name in changed}
    return update(table).where(*found, text(only_if)).values(values | dict.fromkeys(cleared))


@lru_cache
def _inserting_many(table: Table, columns: tuple[str, ...]) -> TextClause:
    names = ", ".join(columns)
    recordset = _recordset(table, tuple((name, name) for name in columns))
    return text(f"INSERT INTO {table.name} ({names}) SELECT {names} FROM {recordset}")


@lru_cache
def _updating_many(
    table: Table, changed: tuple[str, ...], match: Match, only_if: str, cleared: tuple[str, ...]
) -> TextClause:
    sets = [f"{name} = r.{name}" for name in changed] + [f"{name} = NULL" for name in cleared]
    found = [f"{table.name}.{column} = r.{member}" for column, member in match] + [only_if]
    recordset = _recordset(table, (*match, *((name, name) for name in changed)))
    return text(f"UPDATE {table.name} SET {', '.join(sets)} FROM {recordset} WHERE {' AND '.join(found)}")


def _recordset(table: Table, members: Match) -> str:
    typed = ", ".join(f"{member} {table.c[column].type.compile(_POSTGRESQL)}" for column, member in members)
    return f"json_to_recordset(CAST(:rows AS json)) AS r({typed})"


def _packed(rows: Sequence[Mapping[str, Any]]) -> str:
    return orjson.dumps(list(rows), default=_hex).decode()


def _hex(value: Any) -> str:
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    raise TypeError(f"cannot write {type(value).__name__} into a row")
