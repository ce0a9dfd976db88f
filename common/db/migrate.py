"""Bring a database's schema up. Versions only go up; beside them each upgrade makes what is missing of row-level security.

One upgrade at a time: PostgreSQL holds an advisory lock for it, SQLite the write lock.
"""

from __future__ import annotations

from functools import partial
from importlib.resources import files

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from common.db.engine import Database
from common.db.row_security import SECURED_SINCE, secure
from common.db.schema import is_newer, read_version

_UPGRADE_LOCK = 0x5167_0A1B  # any constant that nobody else uses in this database


def upgrade(database: Database, revision: str = "head") -> tuple[str | None, str | None]:
    """Run the migrations up to `revision` in one transaction; return the versions before and after.

    A schema that newer code has made is left as it is: code that is taken back runs on it. Raises `Misconfigured` for a
    database of another program.
    """
    return database.run(partial(_upgrade, revision=revision))


def _upgrade(tx: Connection, *, revision: str) -> tuple[str | None, str | None]:
    is_postgresql = tx.dialect.name == "postgresql"
    if is_postgresql:
        tx.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
    before = read_version(tx)
    if before is not None and is_newer(before):
        return before, before
    config = Config()
    config.set_main_option("script_location", str(files("migrations")))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = tx
    command.upgrade(config, revision)
    after = read_version(tx)
    if is_postgresql and after is not None and after >= SECURED_SINCE:
        secure(tx)
    return before, after
