"""Trouble or refusal: does a failed transaction succeed when it is tried again later, or never?

Trouble is the connection's or the server's: lost, full, shutting down, too slow; also a right that was taken away or a
table that is not there yet, which an operator mends. Whoever meets it waits and tries again.
Everything else is about the rows that were to be written, and trying again would only stop those that wait behind
them: they are split off and the one at fault gets an incident.
"""

from __future__ import annotations

from sqlite3 import SQLITE_FULL

import psycopg
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from common.db.engine import sqlstate
from common.db.read_only import READ_ONLY

_OF_ROWS = (DataError, IntegrityError, ProgrammingError, NotSupportedError)
_CLASSES_OF_ROWS = ("22", "23", "44", "54", "P0")
"""SQLSTATE classes of what is wrong with a row: data, constraints, a view's check, what is too large (such as an index
entry), and what a trigger raises."""
_DISK_FULL = "53100"
_UNDEFINED_TABLE = "42P01"
_INSUFFICIENT_PRIVILEGE = "42501"
_AWAY = {READ_ONLY, "25P03", "25P04"}
"""What the driver calls internal errors: a session that takes no writes, one that idled too long, one whose transaction took too long."""


def is_away(error: BaseException) -> bool:
    """Tell whether the database did not answer, or does not take it now: nothing is wrong with what was asked."""
    if isinstance(error, OperationalError | InterfaceError | PoolTimeout):
        return True
    return (isinstance(error, DBAPIError) and sqlstate(error) in _AWAY) or is_incomplete(error)


def is_incomplete(error: BaseException) -> bool:
    """Tell whether a table is not there, or this session has no rights on it: a backup is being restored, or was without its rights.

    A row that a policy of row-level security refuses has the same SQLSTATE as a right that is missing, and is a defect of ours.
    """
    if not isinstance(error, DBAPIError):
        return False
    code, told = sqlstate(error), error.orig
    if code != _INSUFFICIENT_PRIVILEGE or not isinstance(told, psycopg.Error):
        return code == _UNDEFINED_TABLE
    return told.diag.source_function == "aclcheck_error"


def is_full(error: BaseException) -> bool:
    """Tell whether the database has no room left on its disk."""
    if not isinstance(error, DBAPIError):
        return False
    return sqlstate(error) == _DISK_FULL or getattr(error.orig, "sqlite_errorcode", None) == SQLITE_FULL


def reason(error: BaseException) -> str:
    """What the database or its driver said, in one line for the log: without the statement, and without what it was about."""
    told = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return f"{type(told).__name__}: {' '.join(str(told).split())}"[:300]


def is_trouble(error: Exception) -> bool:
    """Tell whether `error` may pass by itself. False for refused rows, and for errors of our own making."""
    if isinstance(error, DBAPIError):
        code = sqlstate(error)
        return not (isinstance(error, _OF_ROWS) if code is None else code.startswith(_CLASSES_OF_ROWS))
    return isinstance(error, (PoolTimeout, OSError))
