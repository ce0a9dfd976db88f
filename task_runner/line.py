"""The line: tasks that steps lease to this process although no slot is free for them yet, because one will be in a moment.

What is handed over costs half of what is claimed, and quick handlers use up free slots faster than offers of them travel. So as long as
calls are short, a tenth of a second's work may wait here. Nothing waits long: what finds no slot within a second, because some
handler takes longer than those before, is given back for others to claim, and there is no line for a while.

There is none either where a tenant with few tasks is here beside one that floods, nor while some runner has just died unsaid: it took one attempt
of each task in its line with it.
"""

from __future__ import annotations

import threading
import time

LINE_SECONDS = 0.1
"""Of work that may wait, as long as calls take what they took of late."""
LINE_MAX = 500
PATIENCE = 1.0
"""Seconds in the line after which a task is given back."""
CLOSED_SECONDS = 10.0
"""For so long there is no line after something had to be given back."""
LEAST_CALLS = 8
"""Before so many calls nothing is known of how long they take."""
WEIGHT = 0.05
"""Of the newest call in the mean."""


class Line:
    """How long the line may be, by how long calls held their slots. Safe to use from any thread."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._turn = threading.Lock()
        self._calls = 0
        self._mean = 0.0
        self._closed_until = 0.0
        self._noted_at = 0.0

    def note(self, seconds: float) -> None:
        """Take note of how long a call held its slot."""
        with self._turn:
            self._noted_at = time.monotonic()
            self._calls += 1
            self._mean += (seconds - self._mean) * max(WEIGHT, 1 / self._calls)

    def close(self) -> None:
        """Calls take longer than was thought: have no line for a while."""
        with self._turn:
            self._closed_until = time.monotonic() + CLOSED_SECONDS

    @property
    def is_moving(self) -> bool:
        """Has a call ended within the time that a task waits?"""
        return time.monotonic() - self._noted_at < PATIENCE

    @property
    def length(self) -> int:
        """How many tasks may wait for a slot; none where calls take longer than what may wait."""
        with self._turn:
            if self._calls < LEAST_CALLS or time.monotonic() < self._closed_until:
                return 0
            fits = int(self._slots * LINE_SECONDS / max(self._mean, 1e-6))
            return min(fits, LINE_MAX) if fits >= self._slots else 0
