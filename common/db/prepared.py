"""Statements of the hot paths: compiled once, sent without SQLAlchemy's machinery.

Executing a statement through SQLAlchemy costs 100 to 150 µs of client time on PostgreSQL, most of it for making the key of
its cache, parsing placeholders and wrapping rows, again at each execution; `Prepared` leaves 45 to 55 (docs/performance.md).
It runs on the connection of the caller's transaction, prepared on the server from its first use on, and every parameter
travels as text under the cast that the statement names, so that one shape is one prepared statement. Elsewhere, and where
nothing is gained, it is an ordinary statement.

Errors are those of SQLAlchemy, and who listens for `before_cursor_execute` hears of these statements too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from sqlalchemy import Connection, Executable
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.exc import DBAPIError

from common.db.types import Id, UtcDateTime

_DIALECT = PGDialect_psycopg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
_NOTHING: Mapping[str, Any] = {}

Row = Sequence[Any]
"""The columns of a row, in the order of the statement."""


class Prepared:
    """A statement with named parameters whose rows are read as plain sequences."""

    def __init__(self, statement: Executable) -> None:
        self._statement = statement
        self._compiled: _Compiled | None = None

    def rows(self, tx: Connection, values: Mapping[str, Any] = _NOTHING) -> Sequence[Row]:
        """Execute with `values` by name; all rows of the answer."""
        if tx.dialect.name != "postgresql":
            return tx.execute(self._statement, dict(values)).all()
        compiled = self._compiled
        if compiled is None:
            compiled = self._compiled = _compiled(self._statement)
        cursor = run(tx, compiled.text, [_sent(values, one) for one in compiled.names])
        rows: Sequence[Row] = cursor.fetchall()
        if not compiled.readers:
            return rows
        return [_read(row, compiled.readers) for row in rows]


@dataclass(frozen=True, slots=True)
class _Name:
    """A placeholder: the parameter's name, or the value that stands in the statement itself."""

    name: str
    value: Any = None
    is_fixed: bool = False


@dataclass(frozen=True, slots=True)
class _Compiled:
    text: str
    names: Sequence[_Name]
    readers: Sequence[tuple[int, Callable[[Any], Any]]]


def _compiled(statement: Any) -> _Compiled:
    compiled = statement.compile(dialect=_DIALECT)
    names = [
        _Name(name, compiled.binds[name].value, is_fixed=not compiled.binds[name].required)
        for name in compiled.positiontup or ()
    ]
    return _Compiled(str(compiled), names, _readers(compiled))


def _readers(compiled: Any) -> list[tuple[int, Callable[[Any], Any]]]:
    """What SQLAlchemy would do to the columns that psycopg does not read as Python wants them."""
    readers = []
    # Nothing public tells the types of columns that have not been read yet.
    for at, column in enumerate(compiled._result_columns):
        if isinstance(column.type, (Id, UtcDateTime)):
            continue  # sessions load UUIDs as text, and are in UTC: psycopg's instants are aware, and in UTC
        reader = column.type._cached_result_processor(_DIALECT, None)
        if reader is not None:
            readers.append((at, reader))
    return readers


def _read(row: Row, readers: Sequence[tuple[int, Callable[[Any], Any]]]) -> Row:
    values = list(row)
    for at, reader in readers:
        values[at] = reader(values[at])
    return values


def _sent(values: Mapping[str, Any], name: _Name) -> str | None:
    return as_text(name.value if name.is_fixed else values[name.name])


def as_text(value: Any) -> str | None:
    """A parameter as PostgreSQL reads it from text: lists as arrays, instants in ISO 8601. Raises `TypeError` for others.

    As texts all parameters have one type for the driver, which would else prepare a statement anew for each width of an
    integer.
    """
    match value:
        case None | str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case datetime():
            return value.isoformat()
        case bytes():
            return f"\\x{value.hex()}"
        case list() | tuple() | set() | frozenset():
            return f"{{{','.join(map(_quoted, value))}}}"
    raise TypeError(f"a prepared statement takes no {type(value).__name__}")


def _quoted(element: Any) -> str:
    if isinstance(element, int):
        return str(element)
    if not isinstance(element, str):
        raise TypeError(f"a list of a prepared statement holds no {type(element).__name__}")
    if "\\" in element or '"' in element:
        element = element.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{element}"'


def run(tx: Connection, text: str, parameters: Sequence[str | None]) -> psycopg.Cursor[Any]:
    """Execute `text`, with `$1` and so on for its parameters, on the connection of a PostgreSQL transaction."""
    connection: Any = tx.connection.driver_connection
    cursor: psycopg.RawCursor[Any] = psycopg.RawCursor(connection)
    for listener in tx.dispatch.before_cursor_execute:
        listener(tx, cursor, text, parameters, None, False)
    try:
        return cursor.execute(text, parameters, prepare=True)
    except psycopg.Error as error:
        raise DBAPIError.instance(
            text, None, error, psycopg.Error, hide_parameters=True, dialect=tx.dialect
        ) from error
