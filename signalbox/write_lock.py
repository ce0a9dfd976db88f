"""Find out who keeps the write lock of a SQLite database for too long.

Writers queue on a flock whose file names the holder's pid, `0` when free (`common/db/engine.py`). A healthy writer holds
it for milliseconds. A process that froze with it, under a debugger or by SIGSTOP, keeps everybody else from writing,
and the kernel frees the lock only when that process ends.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

PATIENCE_SECONDS = 5.0


@dataclass
class WriteLockWatch:
    """One lock file, looked at again and again; `overdue` is the only question."""

    path: Path
    patience: float = PATIENCE_SECONDS
    _holding: tuple[int, int] | None = None
    _since: float = 0.0

    def overdue(self, now: float) -> int | None:
        """The pid that has held the lock without a break for more than `patience` seconds, or None.

        `now` is monotonic seconds. The time counts from the first call that saw this very holding.
        """
        holding = _look(self.path)
        if holding is None or holding != self._holding:
            self._holding, self._since = holding, now
            return None
        return holding[0] if now - self._since > self.patience else None

    def forget(self) -> None:
        """Begin anew: the holder has been dealt with."""
        self._holding = None


def _look(path: Path) -> tuple[int, int] | None:
    """(pid, instant of the holding) of whoever holds the lock; None when nobody does.

    Each holder writes the file when it begins and when it ends, so the time of the last change tells one long
    holding from many short ones of the same process.
    """
    try:
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # nobody has written yet
        return None
    try:
        named = os.pread(lock, 12, 0).strip()
        if not named.isdigit() or int(named) == 0 or _is_free(lock):
            return None
        return int(named), os.fstat(lock).st_mtime_ns
    finally:
        os.close(lock)


def _is_free(lock: int) -> bool:
    """A holder that was killed leaves its pid in the file: only the kernel knows whether the lock is held."""
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(lock, fcntl.LOCK_UN)
    return True
