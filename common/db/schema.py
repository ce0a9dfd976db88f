"""Which version a database's schema has, and whether this code can work on it.

Every process asks this when it starts, therefore nothing here loads Alembic, which writes what is read here
(`common.db.migrate`). A version is the number that its file in `migrations/versions` begins with.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from sqlalchemy import Connection, Select, Text, column, inspect, select, table

from common.db.engine import Database
from common.errors import Misconfigured

_VERSION_TABLE = "alembic_version"
_VERSION: Select[str] = select(column("version_num", Text)).select_from(table(_VERSION_TABLE))


def require_schema(database: Database) -> None:
    """Raise `Misconfigured` when the schema is older than this code. A newer one is fine: old code runs on new schema."""
    found = current_version(database)
    if found is None:
        raise Misconfigured("the database has no Signalbox schema; run `signalbox db upgrade` first")
    if not is_newer(found) and found != head_version():
        raise Misconfigured(
            f'the database schema is at "{found}", this code needs "{head_version()}"; run `signalbox db upgrade` first'
        )


def is_newer(version: str) -> bool:
    """Whether code that is newer than this has made this version. Raises `Misconfigured` for what is no version of Signalbox."""
    if version in versions():
        return False
    if version.isdigit() and version > head_version():
        return True
    raise Misconfigured(
        f'the table "{_VERSION_TABLE}" holds "{version}", which is no version of Signalbox: the database belongs to another '
        "program; name one of Signalbox's own in DATABASE_URL"
    )


def current_version(database: Database) -> str | None:
    """The schema's version, or None for an empty database."""
    with database.reading() as tx:
        return read_version(tx)


def read_version(tx: Connection) -> str | None:
    """The same within a transaction."""
    return tx.execute(_VERSION).scalar() if inspect(tx).has_table(_VERSION_TABLE) else None


def head_version() -> str:
    """The version that this code was written for."""
    return versions()[-1]


@cache
def versions() -> tuple[str, ...]:
    """Every version that this code knows, oldest first."""
    found = (path.name.partition("_") for path in files("migrations.versions").iterdir())
    return tuple(sorted({number for number, _, _ in found if number.isdigit()}))
