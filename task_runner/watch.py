"""The watch over attempts whose time is bounded: it tells when one overran, never early, on this process's clock.

`startToClose` counts from the call, `heartbeat` from the last sign of life. Local clocks time handlers only (operation,
line 2); what needs no handler, the sweep tells by the database's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from common.task_error import TaskError

log = structlog.get_logger("signalbox.task_runner")

H = TypeVar("H")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Seconds that one attempt, and the silence within it, may last; None where nothing bounds them."""

    attempt: float | None
    silence: float | None

    @classmethod
    def of(cls, timeout_ms: int | None, heartbeat_ms: int | None) -> Bounds | None:
        """None where neither is bounded."""
        if timeout_ms is None and heartbeat_ms is None:
            return None
        return cls(*(None if bound is None else bound / 1_000 for bound in (timeout_ms, heartbeat_ms)))

    def next_end(self, began: float, heard: float) -> float:
        """The instant at which the first of the bounds is reached, if nothing is heard till then."""
        ends = []
        if self.attempt is not None:
            ends.append(began + self.attempt)
        if self.silence is not None:
            ends.append(max(began, heard) + self.silence)
        return min(ends)

    def broken(self, began: float, heard: float, now: float) -> TaskError | None:
        """What an attempt that began and was heard at these instants has overrun at `now`."""
        if self.attempt is not None and now >= began + self.attempt:
            return TaskError(
                "task.timeout", f"the attempt took longer than {self.attempt:g} s (startToClose)"
            )
        if self.silence is not None and now >= max(began, heard) + self.silence:
            return TaskError(
                "task.heartbeat_timeout",
                f"the handler gave no sign of life for {self.silence:g} s (heartbeat)",
            )
        return None


@dataclass(slots=True, eq=False)
class _Watched(Generic[H]):
    held: H
    bounds: Bounds
    heard: Callable[[], float]
    began: float


class Watch(Generic[H]):
    """Calls `overrun(held, error)` from its own thread, once for each attempt that overran."""

    def __init__(
        self, overrun: Callable[[H, TaskError], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._overrun = overrun
        self._clock = clock
        self._watched: dict[int, _Watched[H]] = {}
        self._change = threading.Condition()
        self._is_changed = False
        self._is_closed = False
        self._thread = threading.Thread(target=self._reside, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        with self._change:
            self._is_closed = self._is_changed = True
            self._change.notify()

    def add(self, held: H, bounds: Bounds, heard: Callable[[], float]) -> None:
        """Watch an attempt that begins now; `heard` tells when it last gave a sign of life."""
        with self._change:
            self._watched[id(held)] = _Watched(held, bounds, heard, self._clock())
            self._is_changed = True
            self._change.notify()

    def drop(self, held: H) -> None:
        """An attempt ended by itself."""
        with self._change:
            self._watched.pop(id(held), None)

    def look(self) -> float | None:
        """End what overran; return how many seconds until the next may, or None where nothing is watched."""
        now = self._clock()
        over: list[tuple[H, TaskError]] = []
        ends: list[float] = []
        with self._change:
            for key, one in list(self._watched.items()):
                heard = one.heard()
                error = one.bounds.broken(one.began, heard, now)
                if error is None:
                    ends.append(one.bounds.next_end(one.began, heard))
                else:
                    del self._watched[key]
                    over.append((one.held, error))
        for held, error in over:
            self._overrun(held, error)
        return max(min(ends) - now, 0.0) if ends else None

    def _reside(self) -> None:
        while True:
            try:
                until = self.look()
            except Exception:  # an outer loop: without it no attempt would ever be ended
                log.exception("watch.error")
                until = 1.0
            with self._change:
                # What was added since the look may end before anything that it saw.
                self._change.wait_for(lambda: self._is_changed, until)
                self._is_changed = False
                if self._is_closed:
                    return
