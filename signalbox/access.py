"""Opening the database for a command: what cannot be used is one sentence, not a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError

from common.config import redact_url
from common.db import Database
from common.errors import Unavailable


@contextmanager
def opened_database(url: str, *, name: str) -> Iterator[Database]:
    """Open a database and close it after. Raises `Unavailable` (`database.unavailable`) for whatever it refuses."""
    database = Database.open(url, name=name)
    try:
        yield database
    except DBAPIError as error:
        why = str(error.orig).strip().splitlines()[0]
        raise Unavailable(
            f"the database {redact_url(url)} cannot be used: {why}", code="database.unavailable"
        ) from error
    finally:
        database.dispose()
