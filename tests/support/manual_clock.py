"""A clock that a test moves: what `read_now` answers, on both databases, until the test ends."""

from __future__ import annotations

from datetime import datetime, timedelta

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from common.clock import instant_text, set_host_clock
from common.db import Database


class ManualClock:
    """Stands still until `advance`. On PostgreSQL it sets `signalbox.now` for the whole database of the test, so that
    every process that connects to it from now on sees it too; on SQLite it is this process's host clock."""

    def __init__(self, database: Database, start: datetime) -> None:
        self._database = database
        self._now = start
        self._set()

    def now(self) -> datetime:
        return self._now

    def advance(self, step: timedelta) -> datetime:
        """Move on by `step` and return the new time."""
        self._now += step
        self._set()
        return self._now

    def release(self) -> None:
        """Hand time back to the real clock."""
        set_host_clock(None)
        if not self._database.is_sqlite:
            self._alter(sql.SQL("RESET signalbox.now"))

    def _set(self) -> None:
        if self._database.is_sqlite:
            set_host_clock(lambda: self._now)
        else:
            self._alter(sql.SQL("SET signalbox.now TO {}").format(sql.Literal(instant_text(self._now))))

    def _alter(self, change: sql.Composable) -> None:
        url = make_url(self._database.engine.url)
        name = sql.Identifier(url.database or "")
        text = url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(text, autocommit=True) as connection:
            connection.execute(sql.SQL("ALTER DATABASE {} ").format(name) + change)
        self._database.dispose()  # a session reads the setting when it begins
