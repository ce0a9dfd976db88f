"""Statements that are a transaction each, on PostgreSQL: one round trip instead of three.

Most of what the API is asked is one statement, or a look and a write that need no common view. In a transaction it pays for
BEGIN and COMMIT and for SQLAlchemy's execution, several times what the driver costs. What runs here must be right when the
process ends between two of its statements; what several statements promise together belongs into a transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
from sqlalchemy.dialects.postgresql.psycopg import dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.elements import CompilerElement

from common import faults
from common.db.engine import Bells, Database

_DIALECT = dialect()  # type: ignore[no-untyped-call]


class Lone:
    """A statement for `Alone.execute`, compiled once. Its parameters are the driver's: text, numbers, instants, None."""

    def __init__(self, statement: CompilerElement) -> None:
        self.text = str(statement.compile(dialect=_DIALECT))


class Alone:
    """A connection on which each statement commits by itself, made by `alone`."""

    def __init__(self, driver: psycopg.Connection[Any]) -> None:
        self._driver = driver
        self.bells: Bells = {}

    def execute(self, statement: Lone, values: Mapping[str, Any]) -> list[list[Any]]:
        """Execute and commit; the rows, with instants in UTC. `statement` has to return rows."""
        cursor = self._driver.execute(statement.text, values)
        return [
            [value.astimezone(UTC) if isinstance(value, datetime) else value for value in row]
            for row in cursor.fetchall()
        ]

    def note_bell(self, queue: str, *ids: str) -> None:
        """Ring `queue` when the `with` block of `alone` has ended well."""
        self.bells.setdefault(queue, []).extend(ids)


@contextmanager
def alone(database: Database) -> Iterator[Alone]:
    """Take a connection of a PostgreSQL database; what was noted is rung at the end, unless an exception leaves the block.

    Errors of the driver come as SQLAlchemy's, as from a transaction; the pool forgets a connection that broke.
    """
    with database.engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        driver.autocommit = True
        one = Alone(driver)
        try:
            yield one
        except psycopg.Error as error:
            if driver.closed:
                connection.invalidate(error)
            raise DBAPIError.instance(
                None, None, error, psycopg.Error, connection_invalidated=driver.closed
            ) from error
        finally:
            if not driver.closed:
                driver.autocommit = False
    if one.bells:
        faults.hit("after_commit_before_ring")
        for listener in database.listeners:
            listener(one.bells)
