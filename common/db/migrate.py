"""Bring a database's schema up, and refuse to work on one that is older than this code.

One upgrade at a time: PostgreSQL holds an advisory lock for it, SQLite the write lock. Versions only go up.
"""

from __future__ import annotations

from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from common.db.engine import Database
from common.errors import Misconfigured

_UPGRADE_LOCK = 0x5167_0A1B  # any constant that nobody else uses in this database


def upgrade(database: Database, revision: str = "head") -> tuple[str | None, str | None]:
    """Run the migrations up to `revision` in one transaction; return the versions before and after."""
    with database.transaction() as tx:
        if not database.is_sqlite:
            tx.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
        before = _version(tx)
        config = _config()
        config.attributes["connection"] = tx
        command.upgrade(config, revision)
        return before, _version(tx)


def current_version(database: Database) -> str | None:
    """The schema's version, or None for an empty database."""
    with database.reading() as tx:
        return _version(tx)


def head_version() -> str:
    """The version that this code was written for."""
    return ScriptDirectory.from_config(_config()).as_revision_number("head")  # type: ignore[return-value]


def require_schema(database: Database) -> None:
    """Raise `Misconfigured` when the schema is older than this code. A newer one is fine: old code runs on new schema."""
    found = current_version(database)
    if found is None:
        raise Misconfigured("the database has no Signalbox schema; run `signalbox db upgrade` first")
    if found == head_version():
        return
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if found in known:
        raise Misconfigured(
            f'the database schema is at "{found}", this code needs "{head_version()}"; run `signalbox db upgrade` first'
        )


def _version(tx: Connection) -> str | None:
    return MigrationContext.configure(tx).get_current_revision()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("migrations")))
    config.set_main_option("path_separator", "os")
    return config
