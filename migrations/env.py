"""Alembic's entry: runs the versions on the connection that `common.db.migrate` hands over."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from sqlalchemy.types import TypeEngine

from common.db.tables import metadata


def render_item(kind: str, item: Any, autogen: Any) -> str | Literal[False]:
    """Write our column types by name into a generated version."""
    if (
        kind == "type"
        and isinstance(item, TypeEngine)
        and type(item).__module__ in {"common.db.types", "common.clock"}
    ):
        autogen.imports.add("from common.db import types")
        return f"types.{type(item).__name__}()"
    return False


connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    render_as_batch=connection.dialect.name == "sqlite",
    render_item=render_item,
    compare_type=True,
    compare_server_default=False,
    transaction_per_migration=False,
)
context.run_migrations()
