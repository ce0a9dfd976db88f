"""The database as the API has it for its callers: sessions of one tenant at a time, with row-level security underneath.

Theory of operation. There are two pools of the same database. A small one is the login's own, for what has no tenant: looking
up a key, health, the figures of an installation. All else asks `Tenants.of(tenant_id)`, whose sessions have taken the role
`signalbox_api` and are told whose they are by the setting `signalbox.tenant`, on which the policies depend.

A session is told when it is taken from the pool, and only if the one before had another tenant, so that with one tenant no request
pays for it. It is told outside of any transaction: a rollback would take the setting back, and what is remembered beside
the connection would no longer be so. What cannot be told is given up, and who asks this pool without a tenant is refused: no
statement runs with what somebody else has left. Whatever stands between us and PostgreSQL must therefore keep a session for
as long as we do; a pooler by transaction does not (docs/operations.md, "The wall between tenants").

Where the login may not take the role, and on SQLite, callers are kept apart by the code alone, as the log says once.
"""

from __future__ import annotations

import threading
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psycopg
import structlog
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DisconnectionError

from common.db.engine import Database, Sessions, postgresql_engine
from common.db.row_security import ROLE, TENANT, unbound, why_unrestricted
from common.ids import TenantId

KEPT_OF_NO_TENANT = 2
"""Connections of the login itself that are kept; twice as many may be open. Each is needed for a statement or two."""

_TOLD = "signalbox.told"
_NOBODY = TenantId("00000000-0000-0000-0000-000000000000")
_TELL = f"SELECT set_config('{TENANT}', %s, false), current_user"
_wanted: ContextVar[TenantId | None] = ContextVar("signalbox.tenant", default=None)
log = structlog.get_logger("signalbox.database")


class RoleNotTaken(Exception):
    """A session of the restricted pool is not of its role: whatever stands between drops what sessions ask for at their beginning."""


@dataclass
class OfTenant(Sessions):
    """What work for one tenant gets at the database by."""

    tenant_id: TenantId = field(kw_only=True)

    def _connect(self) -> Connection:
        asked = _wanted.set(self.tenant_id)
        try:
            return self.engine.connect()
        finally:
            _wanted.reset(asked)


class Tenants:
    """One database for callers of many tenants. `database` is the same one for what has no tenant."""

    def __init__(self, database: Database, *, pool_size: int, name: str, longest_wait: timedelta) -> None:
        self.database = database
        self._pool_size = pool_size
        self._name = name
        self._longest_wait = longest_wait
        self._decided: tuple[Engine, bool] | None = None
        self._failed: tuple[float, Exception] | None = None
        self._turn = threading.Lock()

    @classmethod
    def open(cls, url: str, *, pool_size: int, name: str, longest_wait: timedelta) -> Tenants:
        """Open a database for so many callers at once as `Database.open` would; connects lazily, and raises the same."""
        is_sqlite = url.startswith("sqlite")
        database = Database.open(
            url,
            pool_size=pool_size if is_sqlite else KEPT_OF_NO_TENANT,
            name=name,
            longest_wait=longest_wait,
        )
        return cls(database, pool_size=pool_size, name=name, longest_wait=longest_wait)

    @property
    def is_sqlite(self) -> bool:
        return self.database.is_sqlite

    def of(self, tenant_id: TenantId) -> Sessions:
        """The database for work of this tenant; the first time, having asked it whether the wall stands."""
        if self.is_sqlite:
            return self.database
        engine, is_restricted = self._decided or self._decide()
        if is_restricted:
            return OfTenant(engine, self.database.listeners, tenant_id=tenant_id)
        return Sessions(engine, self.database.listeners)

    def are_restricted(self) -> bool:
        """Whether PostgreSQL, too, keeps callers to their tenants. Asked once; the log warns (`api.unrestricted`) where it does not."""
        return not self.is_sqlite and (self._decided or self._decide())[1]

    def dispose(self) -> None:
        """Close every pooled connection."""
        self.database.dispose()
        if self._decided is not None:
            self._decided[0].dispose()

    def _decide(self) -> tuple[Engine, bool]:
        """Ask the database, one caller for all: who has waited for another's turn is told what that one was, a failure included."""
        came = time.monotonic()
        with self._turn:
            if self._decided is None:
                if self._failed is not None and self._failed[0] > came:
                    raise self._failed[1]
                try:
                    self._decided, self._failed = self._ask(), None
                except Exception as error:
                    self._failed = time.monotonic(), error
                    raise
            return self._decided

    def _ask(self) -> tuple[Engine, bool]:
        with self.database.reading() as tx:
            reason = why_unrestricted(tx)
        engine = None if reason is not None else self._open(ROLE)
        if engine is not None:
            reason = _why_not_bound(engine)
        if reason is not None:
            log.warning("api.unrestricted", reason=reason)
            engine = None
        return engine or self._open(None), engine is not None

    def _open(self, role: str | None) -> Engine:
        engine = postgresql_engine(
            self.database.engine.url,
            pool_size=self._pool_size,
            name=self._name,
            longest_wait=self._longest_wait,
            role=role,
        )
        if role is not None:
            event.listen(engine, "checkout", _tell)
        return engine


def _why_not_bound(engine: Engine) -> str | None:
    """Why sessions of this pool, which is given up then, are not restricted; None where they are."""
    try:
        with OfTenant(engine, tenant_id=_NOBODY).looking() as tx:
            passing = unbound(tx)
    except RoleNotTaken as error:
        reason = str(error)
    else:
        if not passing:
            return None
        reason = (
            f'sessions of the role "{ROLE}" do not find these tables, or pass their policies: {", ".join(passing)}; '
            "it must own none of them, have no other role, and find them by its search_path"
        )
    engine.dispose()
    return reason


def _tell(connection: Any, record: Any, _proxy: Any) -> None:
    """Tell a session that is taken from the pool whose it is; what is raised here makes the pool give the session up."""
    tenant_id = _wanted.get()
    if tenant_id is None:
        raise RuntimeError(
            "expected the tenant of this work, found none: ask Tenants.of(tenant_id) for the database"
        )
    if record.info.get(_TOLD) == tenant_id:
        return
    record.info.pop(_TOLD, None)
    try:
        connection.autocommit = True
        _, user = connection.execute(_TELL, (tenant_id,)).fetchone()
        connection.autocommit = False
    except psycopg.OperationalError as error:  # it has died in the pool, which opens another one
        raise DisconnectionError(str(error)) from error
    if user != ROLE:
        raise RoleNotTaken(
            f'expected a session of the role "{ROLE}", found one of "{user}": a pooler before PostgreSQL drops the `options` that '
            "sessions begin with; connect to PostgreSQL itself, or by a pooler that keeps sessions and passes them on"
        )
    record.info[_TOLD] = tenant_id
