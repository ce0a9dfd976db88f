"""The database's time, read: see `common.clock`, which tells why it is the one that decides."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, select

from common.clock import database_now
from common.db.prepared import Prepared

_NOW = Prepared(select(database_now()))


def read_now(tx: Connection) -> datetime:
    """Return the database's time, aware UTC, with microseconds."""
    now: datetime = _NOW.rows(tx)[0][0]
    return now
