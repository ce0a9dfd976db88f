"""Trouble or refusal: does a failed transaction succeed when it is tried again later, or never?

Trouble is the connection's or the server's: lost, full, shutting down, too slow. Whoever meets it waits and tries again.
Everything else is about the rows that were to be written, and trying again would only stop those that wait behind
them: they are split off and the one at fault gets an incident.
"""

from __future__ import annotations

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, NotSupportedError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from common.db.engine import sqlstate

_OF_ROWS = (DataError, IntegrityError, ProgrammingError, NotSupportedError)
_PROGRAM_LIMIT = "54"
"""SQLSTATE class of what is too large or too complex, such as an index entry; drivers call it operational."""


def is_trouble(error: Exception) -> bool:
    """Tell whether `error` may pass by itself. False for refused rows, and for errors of our own making."""
    if isinstance(error, DBAPIError):
        return not isinstance(error, _OF_ROWS) and not (sqlstate(error) or "").startswith(_PROGRAM_LIMIT)
    return isinstance(error, (PoolTimeout, OSError))
