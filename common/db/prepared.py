"""Statements of the hot paths: compiled once, sent without SQLAlchemy's machinery.

Executing a statement through SQLAlchemy costs 100 to 150 µs of client time, most of it for making the key of its cache,
for placeholders and for wrapping rows, again at each execution; `Prepared` leaves 45 to 55 on PostgreSQL and 10 on SQLite
(docs/decisions/prepared-statements.md). It runs on the connection of the caller's transaction. On PostgreSQL it is prepared on the
server from its first use on, and every parameter travels as text under the cast that the statement names, so that one shape
is one prepared statement.

Errors are those of SQLAlchemy, and who listens for `before_cursor_execute` hears of these statements too.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg
from sqlalchemy import Connection, Executable
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

from common.clock import read_sqlite_text, sqlite_text
from common.db.read_only import leave_if_read_only
from common.db.types import Id, UtcDateTime, say_flags_bare

_DIALECTS: Mapping[str, Any] = {
    "postgresql": PGDialect_psycopg(paramstyle="numeric_dollar"),  # type: ignore[no-untyped-call]
    "sqlite": SQLiteDialect_pysqlite(paramstyle="qmark"),
}
say_flags_bare(_DIALECTS["sqlite"])
_MICROSECOND = timedelta(microseconds=1)
_NOTHING: Mapping[str, Any] = {}

Row = Sequence[Any]
"""The columns of a row, in the order of the statement."""
Convert = Callable[[Any], Any]


class Prepared:
    """A statement with named parameters whose rows are read as plain sequences.

    With `is_literal` it has none, and its values stand in its text: a plan that is kept knows no value of a parameter, and so no partial index.
    """

    def __init__(self, statement: Executable, *, is_literal: bool = False) -> None:
        self._statement = statement
        self._is_literal = is_literal
        self._compiled: dict[str, _Compiled] = {}

    def text(self, dialect: str) -> str:
        """What is sent to a database of this dialect."""
        return self._for(dialect).text

    def _for(self, dialect: str) -> _Compiled:
        compiled = self._compiled.get(dialect)
        if compiled is None:
            made = _compiled(self._statement, dialect, is_literal=self._is_literal)
            compiled = self._compiled[dialect] = made
        return compiled

    def rows(self, tx: Connection, values: Mapping[str, Any] = _NOTHING) -> Sequence[Row]:
        """Execute with `values` by name; all rows of the answer."""
        compiled = self._for(tx.dialect.name)
        parameters = [name.sent(values) for name in compiled.names]
        rows: Sequence[Row] = run(tx, compiled.text, parameters).fetchall()
        if not compiled.readers:
            return rows
        return [_read(row, compiled.readers) for row in rows]


@dataclass(frozen=True, slots=True)
class _Name:
    """A placeholder: the parameter's name, or the value that stands in the statement itself, and how it is sent."""

    name: str
    convert: Convert | None
    value: Any = None
    is_fixed: bool = False

    def sent(self, values: Mapping[str, Any]) -> Any:
        value = self.value if self.is_fixed else values[self.name]
        return value if self.convert is None else self.convert(value)


@dataclass(frozen=True, slots=True)
class _Compiled:
    text: str
    names: Sequence[_Name]
    readers: Sequence[tuple[int, Convert]]


def _compiled(statement: Any, dialect: str, *, is_literal: bool) -> _Compiled:
    compiled = statement.compile(dialect=_DIALECTS[dialect], compile_kwargs={"literal_binds": is_literal})
    names = []
    for name in () if is_literal else compiled.positiontup or ():
        bound = compiled.binds[name]
        convert = as_text if dialect == "postgresql" else sqlite_convert(bound.type)
        names.append(_Name(name, convert, bound.value, is_fixed=not bound.required))
    return _Compiled(str(compiled), names, _readers(compiled, dialect))


def sqlite_convert(type: TypeEngine[Any]) -> Convert | None:
    """How SQLAlchemy would have a value of a type written into SQLite; None: as it is."""
    if isinstance(type, UtcDateTime):  # by far the most, and SQLAlchemy takes twenty times as long for it
        return lambda at: None if at is None else sqlite_text(at)
    convert: Convert | None = type._cached_bind_processor(_DIALECTS["sqlite"])
    return convert


def _readers(compiled: Any, dialect: str) -> list[tuple[int, Convert]]:
    """What SQLAlchemy would do to the columns that the driver does not read as Python wants them."""
    readers: list[tuple[int, Convert]] = []
    # Nothing public tells the types of columns that have not been read yet.
    for at, column in enumerate(compiled._result_columns):
        if dialect == "postgresql" and isinstance(column.type, (Id, UtcDateTime)):
            continue  # sessions load UUIDs as text, and are in UTC: psycopg's instants are aware, and in UTC
        if isinstance(column.type, UtcDateTime):
            readers.append((at, _instant))
            continue
        reader = column.type._cached_result_processor(_DIALECTS[dialect], None)
        if reader is not None:
            readers.append((at, reader))
    return readers


def _instant(text: str | None) -> datetime | None:
    return None if text is None else read_sqlite_text(text)


def _read(row: Row, readers: Sequence[tuple[int, Convert]]) -> Row:
    values = list(row)
    for at, reader in readers:
        values[at] = reader(values[at])
    return values


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
        case timedelta():
            return f"{value / _MICROSECOND:.0f} microseconds"
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


def run(tx: Connection, text: str, parameters: Sequence[Any]) -> Any:
    """Execute `text` on the connection of a transaction; its cursor. Parameters are `$1` and so on, texts, on PostgreSQL; `?` on SQLite."""
    connection: Any = tx.connection.driver_connection
    on_sqlite = tx.dialect.name == "sqlite"
    cursor = connection.cursor() if on_sqlite else psycopg.RawCursor(connection)
    for listener in tx.dispatch.before_cursor_execute:
        listener(tx, cursor, text, parameters, None, False)
    try:
        return (
            cursor.execute(text, parameters) if on_sqlite else cursor.execute(text, parameters, prepare=True)
        )
    except (psycopg.Error, sqlite3.Error) as error:
        raise _told(tx, text, error) from error


def run_many(tx: Connection, text: str, rows: Sequence[Sequence[Any]]) -> int:
    """Execute `text` once for each of `rows`, on SQLite alone; how many rows changed in all."""
    connection: Any = tx.connection.driver_connection
    cursor = connection.cursor()
    for listener in tx.dispatch.before_cursor_execute:
        listener(tx, cursor, text, rows, None, True)
    try:
        changed: int = cursor.executemany(text, rows).rowcount
    except sqlite3.Error as error:
        raise _told(tx, text, error) from error
    return changed


def _told(tx: Connection, text: str, error: Exception) -> DBAPIError:
    base = sqlite3.Error if tx.dialect.name == "sqlite" else psycopg.Error
    told = DBAPIError.instance(text, None, error, base, hide_parameters=True, dialect=tx.dialect)
    assert isinstance(told, DBAPIError), "an error of the driver is one of its base class"  # noqa: S101
    leave_if_read_only(tx, error)  # as the engine does with errors of what goes through it
    return told
