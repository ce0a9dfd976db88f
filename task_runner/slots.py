"""Slots: the threads in which handlers run, started as they are needed. Tasks claimed together share nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


class Slots:
    """Up to `size` daemon threads: one that hangs in a handler does not keep the process from ending."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._turn = threading.Lock()
        self._busy = 0
        self._unfinished = 0
        self._threads = 0
        self._idle = threading.Condition(self._turn)

    @property
    def free(self) -> int:
        """How many more calls could begin at once."""
        with self._turn:
            return self.size - self._busy

    def submit(self, call: Callable[[], T], then: Callable[[T], None]) -> None:
        """Run `call` in a slot, free the slot, and then hand on what it returned.

        In this order, so that whoever is woken by the result finds the slot free. The caller asked `free` before; more
        are queued, not refused.
        """
        with self._turn:
            self._busy += 1
            self._unfinished += 1
            starts = self._threads < min(self._busy, self.size)
            self._threads += starts
        if starts:
            threading.Thread(target=self._reside, name="slot", daemon=True).start()
        self._work.put(lambda: self._run(call, then))

    def wait_idle(self, seconds: float) -> bool:
        """Wait until nothing runs and every result is handed on; False when the time ran out first."""
        with self._idle:
            return self._idle.wait_for(lambda: self._unfinished == 0, seconds)

    def _run(self, call: Callable[[], T], then: Callable[[T], None]) -> None:
        try:
            try:
                result = call()
            finally:
                with self._turn:
                    self._busy -= 1
            then(result)
        finally:
            with self._idle:
                self._unfinished -= 1
                if self._unfinished == 0:
                    self._idle.notify_all()

    def _reside(self) -> None:
        try:
            while True:
                self._work.get()()
        finally:  # what was raised ends this thread, and not its slot: another thread takes it
            with self._turn:
                self._threads -= 1
