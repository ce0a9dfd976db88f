"""The sign of life of a worker: a file that its resident thread touches as long as it goes round.

A health check looks how old the file is. That costs it nothing, where to ask through the broker loads Celery each time, and it calls no worker dead
that works on while the broker is away. A thread that waits for a database which does not answer touches nothing.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import structlog

TOUCHED_SECONDS = 5.0
"""So often the file is touched at the most."""
log = structlog.get_logger("signalbox.alive")


class SignOfLife:
    """Touches the file `duty` in a folder; nothing where there is no folder. For one thread."""

    def __init__(self, folder: Path | None, duty: str) -> None:
        self._path = None if folder is None else folder / duty
        self._next_at = 0.0
        self._is_refused = False

    def give(self) -> None:
        """Touch the file, unless that was done a moment ago. Never raises: who cannot write says so once, and does his duty all the same."""
        now = time.monotonic()
        if self._path is None or now < self._next_at:
            return
        self._next_at = now + TOUCHED_SECONDS
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            opened = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.utime(opened)
            finally:
                os.close(opened)
            self._is_refused = False
        except OSError as error:
            if self._is_refused:
                return
            self._is_refused = True
            log.warning("alive.untouched", path=str(self._path), error=error.strerror)
