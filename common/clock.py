"""The one clock that decides: the database's.

Leases, timers and due dates compare with `read_now(tx)` (`common.db.now`), the first statement of a transaction; process clocks
only measure how long something took. A test sets the time in one place: `signalbox.now` on PostgreSQL
(`ALTER DATABASE … SET signalbox.now = '…'`), `set_host_clock` for SQLite.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import DateTime
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import TypeDecorator

from statechart.env import format_instant as instant_text
from statechart.env import parse_instant
from statechart.record import record

__all__ = [
    "SQLITE_NOW",
    "ReadClock",
    "UtcDateTime",
    "database_now",
    "instant_text",
    "parse_instant",
    "read_sqlite_text",
    "set_host_clock",
    "sqlite_now_text",
    "sqlite_text",
    "utc_now",
]

SQLITE_NOW = "signalbox_now"


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC instant in both databases; SQLite hands back naive text, which is read as UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"an instant must be aware, found naive {value!r}")
        return value if dialect.name == "postgresql" else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


class database_now(FunctionElement[datetime]):  # noqa: N801 - reads as the SQL function that it is
    """The database's clock as a SQL expression. Bind `read_now` instead where an index must be used."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(database_now, "postgresql")
def _postgresql_now(_element: Any, _compiler: Any, **_kw: Any) -> str:
    return "coalesce(nullif(current_setting('signalbox.now', true), '')::timestamptz, clock_timestamp())"


@compiles(database_now, "sqlite")
def _sqlite_now(_element: Any, _compiler: Any, **_kw: Any) -> str:
    return f"{SQLITE_NOW}()"


def utc_now() -> datetime:
    """Return this host's time. For logs and durations, never for a decision about a row on PostgreSQL."""
    return datetime.now(UTC)


_host_clock: Callable[[], datetime] = utc_now


def set_host_clock(clock: Callable[[], datetime] | None) -> None:
    """Replace the clock that SQLite asks in this process; None restores the real one."""
    global _host_clock  # noqa: PLW0603 - one clock a process, and SQLite calls back without arguments
    _host_clock = clock or utc_now


def sqlite_now_text() -> str:
    """The host clock as instants are stored on SQLite."""
    return sqlite_text(_host_clock())


@lru_cache(maxsize=64)  # the rows of a batch are all of the same few instants
def sqlite_text(at: datetime) -> str:
    """An instant as SQLAlchemy stores it on SQLite: in UTC, to the microsecond, so that text compares as time. Raises `ValueError` for a naive one."""
    if at.tzinfo is None:
        raise ValueError(f"an instant must be aware, found naive {at!r}")
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


def read_sqlite_text(text: str) -> datetime:
    """The instant that SQLite stores as `text`, aware UTC."""
    return datetime.fromisoformat(f"{text}+00:00")


@record
class ReadClock:
    """The database's clock as it was read: it said `now` when the process's monotonic clock said `at`, in seconds."""

    now: datetime
    at: float

    @classmethod
    def just_read(cls, now: datetime) -> ReadClock:
        return cls(now, time.monotonic())

    def time(self) -> datetime:
        """What it says now, for what decides nothing: when an attempt ended."""
        return self.now + timedelta(seconds=time.monotonic() - self.at)
