"""Orchestrators in reserve: who has more than it can do calls them, and they step with it until nobody calls any more.

Theory of operation. One orchestrator uses one core. A second one that hears every doorbell takes from the first what that would have stepped at once: both
step smaller batches, and wake for work that is gone when they look. In reserve it hears no doorbell. It is called by whoever has chosen a whole batch and sees
half another one left (`Chosen.is_crowd`); it goes on for `RELIEF` after the last such call, as long as it sees a crowd itself, and as long as runners tell it how tasks ended that it has leased to them.
Where a batch takes longer than that, `DRAINS` more are looked at before it stops: the last batches of a lap through the inbox are no crowd, whatever the next lap finds.

A call says nothing that matters, and may be lost. Who is in reserve looks as others do, `LOOKS` times less often, and steps what it finds for as long: all of a crowd, should nobody else be there.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

from common.db import RESERVE_QUEUE

RELIEF = 0.25
"""Seconds that a call is good for. Who sees a crowd calls with each batch, which takes a tenth of one."""
DRAINS = 3
"""Drains, of one batch at the least, that a call is good for, however long they take: on a slow machine or database one takes longer than `RELIEF`."""
UNHEARD = 5.0
"""Seconds until who was not heard calls again: most installations have nobody in reserve."""
LOOKS = 4
"""How many times less often who is in reserve looks by itself."""


class Bells(Protocol):
    """What a crowd is told by (`common.queues.doorbell.Doorbells`)."""

    def say(self, whom: str, hints: bytes) -> int | None:
        """Call; how many heard the last such call of which that is known."""


class Crowd:
    """Calls those in reserve. For one thread at a time."""

    def __init__(self, bells: Bells | None) -> None:
        self._bells = bells
        self._quiet_until = 0.0

    def call(self) -> None:
        """There is more to step than this process can. Returns at once, never raises."""
        now = time.monotonic()
        if self._bells is None or now < self._quiet_until:
            return
        if self._bells.say(RESERVE_QUEUE, b"crowd") == 0:
            self._quiet_until = now + UNHEARD


class Relief:
    """Whether this process steps now, which in reserve it does when it was called or has looked."""

    def __init__(self, *, in_reserve: bool) -> None:
        self._in_reserve = in_reserve
        self._turn = threading.Lock()
        self._until = 0.0
        self._drains = 0
        self.owes_look = False
        """Has it stepped, and not looked again since at what came for those that it held?"""

    def begin(self) -> None:
        """It was called, or its own look has found something."""
        with self._turn:
            self._until, self._drains = time.monotonic() + RELIEF, DRAINS

    def until(self, until: float) -> float:
        """To when it steps, of the monotonic instant up to which it might."""
        return min(until, self._until) if self._in_reserve else until

    @property
    def is_over(self) -> bool:
        """Is this a process in reserve whom nobody has called of late?"""
        return self._in_reserve and self._drains <= 0 and time.monotonic() > self._until

    def note_drain(self, *, more: bool) -> None:
        """It has drained what it could; is `more` left, perhaps?"""
        with self._turn:
            self._drains = self._drains - 1 if more else 0
