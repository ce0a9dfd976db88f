"""One compilation of a statement for all engines of a test run.

SQLAlchemy keeps compiled statements by engine, and nearly every test opens engines of its own: compiling the same few
hundred statements again was a sixth of the time of the integration tests. A statement becomes the same SQL for each
engine of one kind of database, so here they share.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.interfaces import Compiled

Key = tuple[Any, ...]


class SharedStatements(MutableMapping[Key, Compiled]):
    """Compiled statements by SQLAlchemy's key, in which the name of a dialect stands for the dialect of one engine."""

    def __init__(self) -> None:
        self._compiled: dict[Key, Compiled] = {}

    def __getitem__(self, key: Key) -> Compiled:
        return self._compiled[_shared(key)]

    def __setitem__(self, key: Key, compiled: Compiled) -> None:
        self._compiled[_shared(key)] = compiled

    def __delitem__(self, key: Key) -> None:
        del self._compiled[_shared(key)]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._compiled)

    def __len__(self) -> int:
        return len(self._compiled)


def _shared(key: Key) -> Key:
    dialect, *rest = key
    return (dialect.name, dialect.driver, dialect.server_version_info, *rest)


def share_compiled_statements() -> None:
    """From here on every connection of this process, whichever engine it is of, looks there first."""
    statements = SharedStatements()

    @event.listens_for(Engine, "engine_connect")
    def _share(connection: Connection) -> None:
        connection.execution_options(compiled_cache=statements)
