"""Slots: the threads in which handlers run, started as they are needed. Tasks claimed together share nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


class Ticket:
    """A call in a slot, or in the line for one.

    `is_abandoned`: its thread is nobody's any more and ends with the call, if that ever ends. `is_withdrawn`: it is never called.
    """

    __slots__ = ("has_begun", "is_abandoned", "is_over", "is_withdrawn")

    def __init__(self) -> None:
        self.has_begun = False
        self.is_over = False
        self.is_abandoned = False
        self.is_withdrawn = False


class Slots:
    """Up to `size` daemon threads: one that hangs in a handler does not keep the process from ending.

    A thread cannot be stopped. One that overran its time is abandoned: another takes its slot, and the old one is a
    zombie until its handler returns.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._work: SimpleQueue[tuple[Ticket, Callable[[], None]]] = SimpleQueue()
        self._turn = threading.Lock()
        self._busy = 0
        self._unfinished = 0
        self._threads = 0
        self._handing_on = 0  # threads whose call is over, and that hand on what it returned
        self._zombies = 0
        self._idle = threading.Condition(self._turn)

    @property
    def free(self) -> int:
        """How many more calls could begin at once; less than none, where some wait for a slot."""
        with self._turn:
            return self.size - self._busy

    @property
    def zombies(self) -> int:
        """How many abandoned calls have not returned."""
        with self._turn:
            return self._zombies

    def submit(
        self, call: Callable[[], T], then: Callable[[T], None], ticket: Ticket | None = None
    ) -> Ticket:
        """Run `call` in a slot, free the slot, and then hand on what it returned.

        In this order, so that whoever is woken by the result finds the slot free. The caller asked `free` before; more
        are queued, not refused.
        """
        ticket = ticket or Ticket()
        with self._turn:
            self._busy += 1
            self._unfinished += 1
            # Who hands on may have to wait for a database; a call that begins now waits for nobody.
            starts = self._threads - self._handing_on < min(self._busy, self.size)
            self._threads += starts
        if starts:
            threading.Thread(target=self._reside, name="slot", daemon=True).start()
        self._work.put((ticket, lambda: self._run(ticket, call, then)))
        return ticket

    def withdraw(self, ticket: Ticket) -> bool:
        """Take a call out of the line; False when it has begun, or was withdrawn before."""
        with self._turn:
            if ticket.has_begun or ticket.is_withdrawn:
                return False
            ticket.is_withdrawn = True
            self._busy -= 1
            self._finish()
            return True

    def abandon(self, ticket: Ticket) -> bool:
        """Give the slot of a running call to others; False when the call was over already.

        What it returns is handed on all the same, whenever that is. Nobody waits for it.
        """
        with self._turn:
            if ticket.is_over or ticket.is_abandoned:
                return False
            ticket.is_abandoned = True
            self._zombies += 1
            self._busy -= 1
            self._threads -= 1
            self._finish()
            return True

    def wait_idle(self, seconds: float) -> bool:
        """Wait until nothing runs and every result is handed on; False when the time ran out first."""
        with self._idle:
            return self._idle.wait_for(lambda: self._unfinished == 0, seconds)

    def _run(self, ticket: Ticket, call: Callable[[], T], then: Callable[[T], None]) -> None:
        with self._turn:
            if ticket.is_withdrawn:
                return
            ticket.has_begun = True
        try:
            try:
                result = call()
            finally:
                with self._turn:
                    ticket.is_over = True
                    if ticket.is_abandoned:
                        self._zombies -= 1
                    else:
                        self._busy -= 1
                        self._handing_on += 1
            then(result)
        finally:
            if not ticket.is_abandoned:
                with self._turn:
                    self._handing_on -= 1
                    self._finish()

    def _finish(self) -> None:
        self._unfinished -= 1
        if self._unfinished == 0:
            self._idle.notify_all()

    def _reside(self) -> None:
        ticket = Ticket()
        try:
            while not ticket.is_abandoned:
                ticket, run = self._work.get()
                run()
        finally:  # what was raised ends this thread, and not its slot: another thread takes it
            if not ticket.is_abandoned:
                with self._turn:
                    self._threads -= 1
