"""Read what a child adds to its log file, and pick out what a person at the terminal must know.

Children log one JSON object a line (`common/observability.py`); everything else in the file, a banner or a traceback
of the interpreter, is for whoever opens the file.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

LOUD = frozenset({"warning", "error", "critical"})
AT_ONCE = 5
"""Warnings told per look; the rest is counted, so that a flood does not bury the first."""
LONGEST_LINE = 300
QUIET_SECONDS = 10.0
REPEATS_MAX = 1_000
"""Lines of which is remembered that they came again: each that names a task is another one, and may never come any more."""
READ_BYTES = 1_000_000
"""Bytes that are read in one go. What is longer and has no end is no line that anybody logged: a handler prints dots, say."""
_UNINTERESTING = frozenset({"event", "level", "logger", "process", "timestamp", "exception"})


class Repeats:
    """Tells a line that comes again and again once in `QUIET_SECONDS`, with how often it came meanwhile."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}
        self._hidden: dict[str, int] = {}

    def pass_on(self, lines: Iterable[str], now: float) -> list[str]:
        """The lines to tell at `now` (monotonic seconds)."""
        self._told = {
            line: at for line, at in self._told.items() if now - at < QUIET_SECONDS or line in self._hidden
        }
        told = []
        for line in lines:
            last = self._told.get(line)
            if last is not None and now - last < QUIET_SECONDS:
                self._hidden[line] = self._hidden.pop(line, 0) + 1
                continue
            hidden = self._hidden.pop(line, 0)
            told.append(f"{line} ({hidden} times more since)" if hidden else line)
            self._told[line] = now
        while len(self._hidden) > REPEATS_MAX:  # who came last stands last
            del self._hidden[next(iter(self._hidden))]
        return told


class LogTail:
    """One log file, followed from where it ends now."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self._life = self._offset
        self._rest = b""

    def rotate(self, limit: int) -> None:
        """Put a file beyond `limit` bytes aside as `<name>.1`; what comes now belongs to a new life."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size > limit:
            self.path.replace(self._aside)
            size, self._offset, self._rest = 0, 0, b""
        self._life = size

    def shorten(self, limit: int) -> None:
        """Put what a file beyond `limit` bytes holds aside as `<name>.1`, while its writer, who appends, goes on.

        What is written between the end of the copy and the cut is lost, which is an instant. Raises `OSError` where there is no
        room for a copy; the file is as it was then.
        """
        if not self.path.exists() or self.path.stat().st_size <= limit:
            return
        copy = self.path.with_name(f"{self.path.name}.copy")
        try:
            with self.path.open("rb") as file, copy.open("wb") as aside:
                shutil.copyfileobj(file, aside)
            copy.replace(self._aside)
        except OSError:
            copy.unlink(missing_ok=True)
            raise
        os.truncate(self.path, 0)
        self._offset = self._life = 0
        self._rest = b""

    @property
    def _aside(self) -> Path:
        return self.path.with_name(f"{self.path.name}.1")

    def new_warnings(self) -> list[str]:
        """Warnings and errors that were logged since the last call, one short line each."""
        found = [text for line in self._new_lines() if (text := warning_in(line)) is not None]
        hidden = len(found) - AT_ONCE
        return found if hidden <= 0 else [*found[:AT_ONCE], f"and {hidden} more, see {self.path}"]

    def last_lines(self, count: int) -> list[str]:
        """The last lines of the present life, for the message about a part that failed."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(max(self._life, self.path.stat().st_size - 65_536))
            return file.read().decode(errors="replace").splitlines()[-count:]

    def _new_lines(self) -> Iterator[bytes]:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < self._offset:  # somebody has emptied it, to make room
                self._offset, self._rest = 0, b""
            file.seek(self._offset)
            while added := file.read(READ_BYTES):
                self._offset += len(added)
                *lines, rest = (self._rest + added).split(b"\n")
                self._rest = rest if len(rest) <= READ_BYTES else b""
                yield from lines


def warning_in(line: bytes) -> str | None:
    """The text of a logged warning or error; None for anything else."""
    if not line.startswith(b"{"):
        return None
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError:  # a line that a killed process began
        return None
    return _told(entry) if isinstance(entry, dict) and entry.get("level") in LOUD else None


def _told(entry: Mapping[str, Any]) -> str:
    facts = [f"{name}={value}" for name, value in entry.items() if name not in _UNINTERESTING]
    # Of a traceback the last line says what was raised; the rest is in the file.
    raised = str(entry.get("exception", "")).strip().rpartition("\n")[2]
    text = " ".join(filter(None, [str(entry.get("event", "")), raised, *facts])).replace("\n", " ")
    return text if len(text) <= LONGEST_LINE else f"{text[: LONGEST_LINE - 1]}…"
