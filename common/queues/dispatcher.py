"""The dispatcher: one a duty and process. It answers doorbells, and looks by itself, broker or not.

Theory of operation. `again` is set by a ring; a drain clears it BEFORE it reads and may stop only if it found nothing and
`again` is still clear, both under the same lock: a row committed before its ring is read after it, so no wake-up is
lost. One drain runs at a time; a ring during it just sets `again`. A drain that used up its time hands over to the
resident thread, so that a doorbell's Celery thread is free again within half a second.

The resident thread asks the clock at due instants: when the next timer, retry or lease is due, and at most `due_check` later for one that
another process made. What waits though nobody rang for it is seen by the same look, because to wake costs as much as to ask: `Looks`
tells whether it is time to take it up.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError

from common.faults import FaultInjected

log = structlog.get_logger("signalbox.dispatcher")

DRAIN_BUDGET = 0.5
DUE_CHECK = 0.9
"""Seconds: what others have made due is late by less than one, unless a dispatcher is told to look less often."""
TOGETHER = 0.15
"""Seconds by which a look may come early, to come with another one."""
REST_AFTER_ERROR = 1.0


@dataclass(frozen=True, slots=True)
class Drained:
    """What one round of work did, counted by name; `more`: there is work left that nobody will ring for."""

    counts: Counter[str]
    more: bool = False


class Looks:
    """When to take up what nobody has rung for: each `every` seconds, 0: never. For who asks the clock, and sees what waits with it.

    A look may come `early`, to be one with that at the clock: who goes round less often would else wait for another round.
    """

    def __init__(self, every: float, *, early: float = TOGETHER) -> None:
        self._every = every
        self._early = early
        self._at = time.monotonic()

    def is_time(self) -> bool:
        """Is it time? Then the next time is so many seconds later."""
        now = time.monotonic()
        if self._every == 0 or now < self._at - self._early:
            return False
        self._at = now + self._every
        return True


class Dispatcher:
    """Runs `work` whenever there may be some.

    `work(until)` does what is ready, for no longer than the monotonic instant `until`. `due()` does what the clock made
    ready (fires timers, expires leases), rings for what waits though nobody has, and returns how many seconds until the next such instant, or None.
    `due()` is asked each `due_check` seconds at the least, and `on_round()` is called by the resident thread each time it goes round, so as often.
    """

    def __init__(
        self,
        name: str,
        *,
        work: Callable[[float], Drained],
        due: Callable[[], float | None],
        due_check: float = DUE_CHECK,
        on_round: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self._work = work
        self._due = due
        self._due_check = due_check
        self._on_round = on_round
        self._turn = threading.Lock()
        self._idle = threading.Condition(self._turn)
        self._again = False
        self._alarm_at: float | None = None
        self._due_at: float | None = None
        self._sleeps_until = 0.0
        self._draining = False
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._reside, name=f"dispatcher-{name}", daemon=True)
        self._rested_until = 0.0

    def start(self) -> None:
        """Begin to look, in a thread of its own."""
        self._thread.start()

    def begin_end(self) -> None:
        """Take no new work; a round that runs is finished."""
        self._ending.set()
        self._wake.set()

    def end(self, *, wait: float) -> bool:
        """Stop looking and wait up to `wait` seconds for the round that runs; True when it ended."""
        self.begin_end()
        until = time.monotonic() + wait
        if self._thread.is_alive():
            self._thread.join(wait)
        with self._idle:  # a round may also run in a doorbell's thread
            return self._idle.wait_for(lambda: not self._draining, max(until - time.monotonic(), 0.0))

    def ring(self) -> None:
        """There may be work: wake the resident thread. Returns at once."""
        with self._turn:
            self._again = True
        self._wake.set()

    def ring_in(self, seconds: float) -> None:
        """There will be work so many seconds from now, and nobody will ring for it. The earliest such instant counts."""
        at = time.monotonic() + seconds
        with self._turn:
            if self._alarm_at is not None and self._alarm_at <= at:
                return
            self._alarm_at = at
        self._wake.set()

    def due_in(self, seconds: float) -> None:
        """The clock will make something due so many seconds from now: ask it then. The earliest such instant counts."""
        at = time.monotonic() + seconds
        with self._turn:
            if self._due_at is not None and self._due_at <= at:
                return
            self._due_at = at
            is_sooner = at < self._sleeps_until
        if is_sooner:
            self._wake.set()

    def answer(self, *, budget: float | None = None) -> dict[str, Any]:
        """Answer a doorbell in the calling thread; the result is what Flower shows of it.

        What is not done within `budget` seconds, half of one by default, goes on in the resident thread.
        """
        with self._turn:
            self._again = True
            if self._draining or self._ending.is_set() or time.monotonic() < self._rested_until:
                self._wake.set()
                return {"coalesced": True}
            self._draining = True
        return self._drain(budget)

    def _reside(self) -> None:
        next_due = time.monotonic()
        while not self._ending.is_set():
            self._on_round()
            now = time.monotonic()
            # A ring alone does not ask the clock: it would delay what was rung for.
            if self._takes_due(now) or now >= next_due:
                due_in = self._look_at_the_clock()
                next_due = time.monotonic() + (
                    self._due_check if due_in is None else min(self._due_check, max(due_in, 0.0))
                )
            self._hear_alarm()
            self._drain_here()
            self._wake.wait(self._rest_of(next_due))
            self._wake.clear()

    def _takes_due(self, now: float) -> bool:
        """Has an instant come that this process knows of?"""
        with self._turn:
            if self._due_at is None or self._due_at > now:
                return False
            self._due_at = None
            return True

    def _rest_of(self, until: float) -> float:
        with self._turn:
            known = [at for at in (self._alarm_at, self._due_at) if at is not None]
            self._sleeps_until = min(until, *known) if known else until
            return max(self._sleeps_until - time.monotonic(), 0.0)

    def _hear_alarm(self) -> None:
        with self._turn:
            if self._alarm_at is not None and self._alarm_at <= time.monotonic():
                self._alarm_at, self._again = None, True

    def _look_at_the_clock(self) -> float | None:
        if time.monotonic() < self._rested_until:
            return None
        try:
            return self._due()
        except FaultInjected:
            raise
        except BaseException as error:  # noqa: BLE001 - a process's outer loop: nobody would fire a timer or look again
            self._rest(error)
            return None

    def _drain_here(self) -> None:
        with self._turn:
            if self._draining or not self._again or time.monotonic() < self._rested_until:
                return
            self._draining = True
        self._drain()

    def _drain(self, budget: float | None = None) -> dict[str, Any]:
        counts: Counter[str] = Counter()
        until = time.monotonic() + (DRAIN_BUDGET if budget is None else budget)
        try:
            while True:
                with self._turn:
                    self._again = False
                done = self._work(until)
                counts.update(done.counts)
                with self._turn:
                    if self._ending.is_set() or not (done.more or self._again):
                        self._draining = False
                        self._idle.notify_all()
                        return dict(counts)
                    if time.monotonic() > until:
                        self._again = True
                        self._draining = False
                        self._idle.notify_all()
                        self._wake.set()
                        return {**counts, "more": True}
        except FaultInjected:
            self._stop_draining()
            raise
        except BaseException as error:  # noqa: BLE001 - a process's outer loop: it must outlive a lost database and a bug, `SystemExit` in somebody's code included
            try:
                self._rest(error)
            finally:
                self._stop_draining()
            return {**counts, "error": type(error).__name__}

    def _stop_draining(self) -> None:
        with self._turn:
            self._again = True
            self._draining = False
            self._idle.notify_all()

    def _rest(self, error: BaseException) -> None:
        self._rested_until = time.monotonic() + REST_AFTER_ERROR
        if isinstance(error, DBAPIError):
            log.warning(
                "database.trouble", duty=self.name, error=str(error.orig)[:300], rest_seconds=REST_AFTER_ERROR
            )
        else:
            log.exception("dispatcher.error", duty=self.name, rest_seconds=REST_AFTER_ERROR)
