"""Health: is this process alive, and can it serve? Open to everyone, so it names parts and never addresses.

The broker is disposable: without it the API is as ready as with it, and says so. A report is kept for a second, because
anybody may ask and each report costs a connection.
"""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

import redis
import structlog
from sqlalchemy.exc import SQLAlchemyError

from common.db import Database, reason
from common.db.room import has_room
from common.db.row_security import why_unrestricted
from common.db.schema import require_schema
from common.db.tenants import Tenants
from common.errors import Misconfigured

State = Literal["up", "down", "off", "outdated", "incomplete", "read-only", "full"]

KEPT_SECONDS = 1.0
_PATIENCE_SECONDS = 0.5
log = structlog.get_logger("signalbox.api")


@dataclass(frozen=True, slots=True)
class Report:
    """What answered. `off`: no doorbells by a setting, or a broker that lives in each process. `outdated`: the schema is older than this code.
    `incomplete`: the API may not do there what it has to, as in a database that was restored without its rights.
    `read-only`: it takes no writes, as a standby of the database and a replica of the broker do. `full`: nor does it, for want of room on its disk."""

    database: State
    schema: State
    broker: State

    @property
    def is_ready(self) -> bool:
        return self.database == "up" and self.schema == "up"


class Health:
    """Asks the parts that this process stands on."""

    def __init__(self, database: Database, broker_url: str | None, *, tenants: Tenants | None = None) -> None:
        self._tenants = tenants
        self._database = database
        self._broker_url = broker_url
        self._kept: tuple[float, Report] | None = None
        self._was_full = False
        self._was_incomplete = False
        self._turn = threading.Lock()

    def report(self) -> Report:
        """The report of now, or one that is less than a second old."""
        with self._turn:
            if self._kept is None or time.monotonic() - self._kept[0] > KEPT_SECONDS:
                report = Report(*self._ask_database(), self._ask_broker())
                self._kept = (time.monotonic(), report)
            return self._kept[1]

    def note_full(self) -> None:
        """A write was refused for want of room: reports say so until there is some. Who only looks would never learn of it."""
        self._was_full = True

    def note_incomplete(self) -> None:
        """A call met a table that is not there or not open to it: reports look at rights as well, until they are there. Only those of callers lack them."""
        self._was_incomplete = True

    def _ask_database(self) -> tuple[State, State]:
        try:
            require_schema(self._database)
            lacking = self._what_callers_lack()
            if lacking is not None:
                log.warning("health.schema", reason=lacking)
                return "up", "incomplete"
            takes_writes = self._database.takes_writes()
            if self._was_full:
                self._was_full = not has_room(self._database)
        except Misconfigured as error:
            log.warning("health.schema", reason=error.message)
            return "up", "outdated"
        except SQLAlchemyError as error:
            log.warning("health.database", error=reason(error))
            return "down", "down"
        state: State = "read-only" if not takes_writes else "full" if self._was_full else "up"
        if state != "up":
            log.warning("health.database", error=state)
        return state, "up"

    def _what_callers_lack(self) -> str | None:
        """Why sessions of callers are refused since they were, where they are those of a role; None once they are not."""
        if not self._was_incomplete or self._tenants is None or not self._tenants.are_restricted():
            return None
        with self._database.reading() as tx:
            lacking = why_unrestricted(tx)
        self._was_incomplete = lacking is not None
        return lacking

    def _ask_broker(self) -> State:
        if self._broker_url is None or self._broker_url.startswith("memory:"):
            return "off"
        try:
            takes_writes = _greet(self._broker_url)
        except (OSError, redis.RedisError, ValueError) as error:
            log.debug("health.broker", error=type(error).__name__)
            return "down"
        return "up" if takes_writes else "read-only"


def _greet(broker_url: str) -> bool:
    """PING a Redis, or connect to whatever else; False for a replica, which takes no messages. Raises when nobody answers within half a second."""
    parts = urlsplit(broker_url)
    if parts.scheme in ("redis", "rediss", "unix"):
        with redis.Redis.from_url(
            broker_url, socket_timeout=_PATIENCE_SECONDS, socket_connect_timeout=_PATIENCE_SECONDS
        ) as client:
            client.ping()
            try:
                return bool(client.role()[0] == b"master")
            except redis.ResponseError:  # a user who may not ask: whoever publishes will be told
                return True
    address = (parts.hostname or "127.0.0.1", parts.port or 5672)
    socket.create_connection(address, timeout=_PATIENCE_SECONDS).close()
    return True
