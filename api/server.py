"""The API's own server: gunicorn with threads, on the loopback unless `SIGNALBOX_HOST` says otherwise.

`python -m api.server` and `signalbox api` both run this. The settings are checked before anything is forked, so that
what is missing is said once, in one line; the application, its connections and its bells are made after the fork.
"""

from __future__ import annotations

import gc
import logging
import signal
import sys
from collections.abc import Mapping
from typing import Any

import structlog
from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger
from sqlalchemy.exc import SQLAlchemyError

from api.app import THREADS, create_app, services_of
from api.startup import prepare
from common.config import Limits, Settings
from common.db import Database
from common.db.migrate import require_schema
from common.errors import Misconfigured

GRACEFUL_SECONDS = 5
KEEP_ALIVE_SECONDS = 30
log = structlog.get_logger("signalbox.api")


def run(settings: Settings, *, threads: int = THREADS) -> None:
    """Serve until SIGTERM; then answer what is being served within 5 s and exit 0.

    Raises `Misconfigured` when the secret is missing, a limit is wrong or the schema is older than this code. A database
    that does not answer yet is waited for: /health/ready says so.
    """
    limits = prepare(settings)
    _require_schema(settings)
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
        log.warning("api.database_away", error=type(error).__name__)
    finally:
        database.dispose()  # nothing may be open when the server forks


class _Server(BaseApplication):  # type: ignore[misc]
    """gunicorn, told everything by us and nothing by its own command line, files or environment."""

    def __init__(self, settings: Settings, limits: Limits, threads: int) -> None:
        self._settings = settings
        self._limits = limits
        self._threads = threads
        self._app: Flask | None = None
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options().items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Make the application; called in the process that serves."""
        self._app = create_app(self._settings, limits=self._limits, threads=self._threads)
        gc.freeze()
        return self._app

    def _options(self) -> Mapping[str, Any]:
        fd = self._settings.listen_fd
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        return {
            "bind": f"{host}:{self._settings.port}" if fd is None else f"fd://{fd}",
            "worker_class": "gthread",
            "workers": 1,
            "threads": self._threads,
            "graceful_timeout": GRACEFUL_SECONDS,
            "keepalive": KEEP_ALIVE_SECONDS,
            "logger_class": _QuietLogger,
            "control_socket_disable": True,
            "post_worker_init": self._listen_for_the_end,
            "worker_exit": self._close,
        }

    def _listen_for_the_end(self, _worker: Any) -> None:
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


if __name__ == "__main__":
    sys.exit(main())
