"""The API's own server: gunicorn with threads, on the loopback unless `SIGNALBOX_HOST` says otherwise.

`python -m api` and `signalbox api` both run this. The settings are checked before anything is forked, so that
what is missing is said once, in one line; the application, its connections and its bells are made after the fork.

It is followed by another without an error to anybody (docs/operations.md, "Restarting without an error to callers"): the
listening socket outlives the process. Either whoever started it holds the socket (systemd, `signalbox up`), or SIGUSR2 makes it
start its successor from the code as it stands on disk then and pass the socket on.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

import structlog
from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from sqlalchemy.exc import SQLAlchemyError

from api.app import THREADS, create_app, services_of
from api.services import Services
from api.startup import prepare
from api.worker import Worker
from common.config import Limits, Settings
from common.db import Database, reason
from common.db.schema import require_schema
from common.errors import Misconfigured
from common.memory import take_few_arenas

GRACEFUL_SECONDS = 5
KEEP_ALIVE_SECONDS = 30
MOST_CONNECTIONS = 1_000
OWN_DESCRIPTORS = 200
"""Left for what a process of the API opens itself: its connections to the database, with three descriptors each on SQLite, and some dozen others."""
PORT_SECONDS = 2.0
"""How long a port that is taken is waited for, as `signalbox up` does."""
log = structlog.get_logger("signalbox.api")


def run(settings: Settings, *, threads: int = THREADS) -> None:
    """Serve until SIGTERM; then answer what is being served within 5 s and exit 0.

    Raises `Misconfigured` when the secret is missing, a limit is wrong, the schema is older than this code or the port taken. A database
    that does not answer yet is waited for: /health/ready says so.
    """
    limits = prepare(settings)
    _require_schema(settings)
    _require_port(settings)
    log.info("api.starting", url=f"http://{settings.host}:{settings.port}", settings=settings.redacted())
    # What was loaded stays until the end: no collection needs to look at it again, not even the last one, which
    # would cost each of the two processes a quarter of a second of its exit.
    gc.freeze()
    _Server(settings, limits, threads).run()


def _require_schema(settings: Settings) -> None:
    database = Database.open(settings.database_url, name="signalbox-api")
    try:
        require_schema(database)
    except SQLAlchemyError as error:
        log.warning("api.database_away", error=reason(error))
    finally:
        database.dispose()  # nothing may be open when the server forks


def _look_at_the_wall(services: Services) -> None:
    """Have the log say now, and not with the first call, where PostgreSQL does not keep tenants apart."""
    try:
        services.tenants.are_restricted()
    except SQLAlchemyError as error:
        log.warning("api.database_away", error=reason(error))


def _require_port(settings: Settings) -> None:
    """Look whether the port can be had, and wait a little for a predecessor that is about to leave it.

    gunicorn would log each of its tries as two errors and exit with 1. Whoever was handed a socket has its port already.
    """
    by_systemd = os.environ.get("LISTEN_PID") == str(os.getpid())
    if settings.listen_fd is not None or "GUNICORN_FD" in os.environ or by_systemd:
        return
    address = (settings.host, settings.port)
    deadline = time.monotonic() + PORT_SECONDS
    while True:
        try:
            with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                return
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise Misconfigured(
                    f"cannot listen on port {settings.port} of {settings.host}: {error.strerror}; "
                    "SIGNALBOX_HOST and SIGNALBOX_PORT, or --host and --port, name another address"
                ) from None
            if time.monotonic() > deadline:
                raise Misconfigured(
                    f"port {settings.port} of {settings.host} is taken; stop who listens there, "
                    "or name another one by --port or SIGNALBOX_PORT"
                ) from None
        time.sleep(0.05)


def connections_of(descriptors: int) -> int:
    """How many callers' connections a process holds that may have so many descriptors: it needs some for databases, broker and logs."""
    if descriptors == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return min(max(descriptors - OWN_DESCRIPTORS, descriptors // 4, 1), MOST_CONNECTIONS)


class _Server(BaseApplication):  # type: ignore[misc]
    """gunicorn, told everything by us and nothing by its own command line, files or environment."""

    def __init__(self, settings: Settings, limits: Limits, threads: int) -> None:
        self._settings = settings
        self._limits = limits
        self._threads = threads
        self._app: Flask | None = None
        self._predecessor = 0
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options().items():
            self.cfg.set(name, value)

    def run(self) -> None:
        """Serve until the end, under our own master."""
        _Master(self).run()

    def load(self) -> Flask:
        """Make the application; called in the process that serves."""
        self._app = create_app(self._settings, limits=self._limits, threads=self._threads)
        _look_at_the_wall(services_of(self._app))
        gc.freeze()
        take_few_arenas()
        return self._app

    def _options(self) -> Mapping[str, Any]:
        # A successor inherits the socket under a number of gunicorn's own, and whatever was set for the first is over.
        fd = None if "GUNICORN_FD" in os.environ else self._settings.listen_fd
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        return {
            "bind": f"{host}:{self._settings.port}" if fd is None else f"fd://{fd}",
            "worker_class": Worker,
            "workers": 1,
            "proc_name": "python -m api",  # in what `ps` tells
            "threads": self._threads,
            "worker_connections": connections_of(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
            "graceful_timeout": GRACEFUL_SECONDS,
            "keepalive": KEEP_ALIVE_SECONDS,
            "logger_class": _QuietLogger,
            "control_socket_disable": True,
            # From the loopback gunicorn would let a header SCRIPT_NAME say where in the address our paths begin.
            "forwarder_headers": "",
            "when_ready": _name_successor,
            "pre_fork": self._note_predecessor,
            "post_worker_init": self._begin,
            "worker_exit": self._close,
        }

    def _note_predecessor(self, arbiter: Any, _worker: Any) -> None:
        """In the master: who passed us the socket, as long as it is still there."""
        self._predecessor = arbiter.master_pid if arbiter.master_pid == os.getppid() else 0

    def _begin(self, _worker: Any) -> None:
        """The application stands: whoever was there before us may go. One that cannot start ends nobody."""
        self._listen_for_the_end()
        if self._predecessor:
            os.kill(self._predecessor, signal.SIGTERM)

    def _listen_for_the_end(self) -> None:
        """On SIGTERM, answer those who wait by `Prefer` with the state so far, before gunicorn waits for them."""
        gunicorns = signal.getsignal(signal.SIGTERM)

        def begin_end(number: int, frame: Any) -> None:
            if self._app is not None:
                services_of(self._app).waiter.stop()
            if callable(gunicorns):
                gunicorns(number, frame)

        signal.signal(signal.SIGTERM, begin_end)

    def _close(self, _arbiter: Any, _worker: Any) -> None:
        if self._app is not None:
            services_of(self._app).close()


def _name_successor(arbiter: Any) -> None:
    """What SIGUSR2 starts. gunicorn would run this file by its path, with its folder before all others to import from."""
    arbiter.START_CTX["args"] = [sys.executable, "-m", "api"]


class _Master(Arbiter):  # type: ignore[misc]
    """gunicorn's master, and a SIGUSR2 that counts from the moment on in which the predecessor has gone.

    gunicorn looks once a second whether the parent that passed it the socket is still there. Who rolls the API twice in
    a row would fall into that second: the second signal would be ignored, and nothing but a log line would say so.
    """

    def handle_usr2(self) -> None:
        self.maybe_promote_master()
        super().handle_usr2()


class _QuietLogger(Logger):  # type: ignore[misc]
    """gunicorn's warnings and errors in our log, and nothing else: no access log, no greeting."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers[:] = []
        self.error_log.propagate = True
        self.error_log.setLevel(logging.WARNING)


def main() -> int:
    """Serve with the settings of the environment; exit code 2 when one of them is wrong."""
    try:
        run(Settings.load())
    except Misconfigured as error:
        sys.stderr.write(f"signalbox api: {error}\n")
        return 2
    return 0
