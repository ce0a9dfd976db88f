"""Trouble or refusal: does a failed transaction succeed when it is tried again later, or never?

Trouble is the connection's or the server's: lost, full, shutting down, too slow; also a right that was taken away or a
table that is not there yet, which an operator mends. Whoever meets it waits and tries again.
Everything else is about the rows that were to be written, and trying again would only stop those that wait behind
them: they are split off and the one at fault gets an incident.
"""

from __future__ import annotations

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, NotSupportedError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from common.db.engine import sqlstate

_OF_ROWS = (DataError, IntegrityError, ProgrammingError, NotSupportedError)
_CLASSES_OF_ROWS = ("22", "23", "44", "54", "P0")
"""SQLSTATE classes of what is wrong with a row: data, constraints, a view's check, what is too large (such as an index
entry), and what a trigger raises."""


def is_trouble(error: Exception) -> bool:
    """Tell whether `error` may pass by itself. False for refused rows, and for errors of our own making."""
    if isinstance(error, DBAPIError):
        code = sqlstate(error)
        return not (isinstance(error, _OF_ROWS) if code is None else code.startswith(_CLASSES_OF_ROWS))
    return isinstance(error, (PoolTimeout, OSError))
