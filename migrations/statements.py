"""Run the SQL file that stands beside a migration, in the dialect of the connection."""

from __future__ import annotations

import re
from pathlib import Path

from sqlalchemy import Connection


def run_beside(migration: str, connection: Connection) -> None:
    """Execute `<migration>.<dialect>.sql`: statements are separated by blank lines."""
    is_postgresql = connection.dialect.name == "postgresql"
    script = Path(migration).with_suffix(f".{connection.dialect.name}.sql")
    for statement in re.split(r"\n\s*\n", script.read_text(encoding="utf-8").strip()):
        # psycopg reads % as a placeholder even where no parameter is given
        connection.exec_driver_sql(statement.replace("%", "%%") if is_postgresql else statement)
