"""What handlers really did, by the file that `cluster_handlers.py` writes outside the database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import wait_until


@dataclass(frozen=True, slots=True)
class Line:
    """A beginning or an end of one attempt, or the call of a light handler."""

    what: str
    task_id: str
    attempt: int
    pid: int


@dataclass(frozen=True, slots=True)
class Ledger:
    """The file, which the first attempt makes."""

    path: Path

    def lines(self, what: str) -> list[Line]:
        """Every "began", "ended" or "called", in order."""
        if not self.path.exists():
            return []
        split = (line.split() for line in self.path.read_text().splitlines())
        return [
            Line(kind, task, int(attempt), int(pid)) for kind, task, attempt, pid in split if kind == what
        ]

    def wait_until_begun(self, times: int = 1, *, seconds: float = 20.0) -> list[Line]:
        """Wait until so many attempts have begun; their lines."""
        wait_until(
            lambda: len(self.lines("began")) >= times, what=f"{times} attempts to begin", seconds=seconds
        )
        return self.lines("began")
