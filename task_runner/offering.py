"""What this process offers to take without a claim (`common.queues.offers`), and how much of it is still open.

Offered are free slots, to the tenants of whom nothing is left to claim, for what needs nothing but a lease before it is called: no
circuit breaker watches it. Who has offered must look, now and then, for what was leased to it and got lost on the way; and who says
good-bye must wait for the steps that were on their way with its last offer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from datetime import timedelta

from common.ids import TenantId, WorkerId
from common.queues.offers import CREDIT_MAX, OFFERS, Offer
from common.retry import RetryPolicy
from task_runner.registry import Handler

RENEWED_AFTER = 0.7
"""Seconds after which an offer is told again, with the next look; the other side keeps it for 2.5."""
RENEWED_IDLE_AFTER = 1.6
"""The same of who has nothing to do: to tell an offer wakes each orchestrator."""
LOOK_AFTER = 0.25
"""Seconds between two looks for what was leased to this process and not told."""
RECENT_SECONDS = 3.0
"""Longer than an offer is kept: what a step says of a task that was leased by an older one is not relied on."""
ON_THEIR_WAY = 0.2
"""Seconds that a step may take that has read an offer: a tenth is its budget, and it has to commit."""

Say = Callable[[str, bytes], int | None]
"""Publishes to whoever listens under a name; how many heard the last time, None where that is not known."""


class Offering:
    """The offers of one process. Safe to use from any thread. `light` tells which handlers it calls for steps that wait."""

    def __init__(
        self,
        handlers: Iterable[Handler],
        *,
        worker: WorkerId,
        lease: timedelta,
        say: Say | None,
        are_watched: bool,
        light: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        plain = [one for one in handlers if not (are_watched and one.options.breaker)]
        self._worker = worker
        self._lease = lease
        self._types = {one.name: _attempts(one) for one in plain}
        self._functions = {one.name: _attempts(one) for one in plain if not one.built_in}
        self._say = say
        self._light = light
        self._turn = threading.Lock()
        self._left = 0
        self._listeners = 1
        self._not_for: frozenset[TenantId] = frozenset()
        self._told_at = 0.0
        self._number = 0
        self._recent: dict[int, float] = {}  # when offers were told, by their numbers
        self._looked_at = 0.0
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """Has this process said good-bye? Then it takes up nothing any more."""
        return self._is_over

    def renew(self, room: int, not_for: frozenset[TenantId], *, after: float = RENEWED_AFTER) -> None:
        """Offer `room` more, but not to some tenants, if half of what was offered is used, it was told `after` seconds ago, or it was for them."""
        with self._turn:
            each = min(room // self._listeners, CREDIT_MAX)
            is_old = time.monotonic() - self._told_at > after
            if self._say is None or self._is_over or each <= 0:
                return
            # Whoever has more to claim is to be passed by from now on; whoever has not any more may wait for the next offer.
            is_narrower = not not_for <= self._not_for
            if not is_old and not is_narrower and self._left > each * self._listeners // 2:
                return
            self._not_for = not_for
            self._tell(each)

    def take(self, count: int) -> None:
        """So many tasks have come of what was offered."""
        with self._turn:
            self._left = max(self._left - count, 0)

    def is_recent(self, number: int) -> bool:
        """Was the offer of this number told so shortly ago that whatever it had leased to this process is leased to it still?"""
        with self._turn:
            told_at = self._recent.get(number)
        return told_at is not None and time.monotonic() - told_at < min(
            RECENT_SECONDS, self._lease.total_seconds() / 2
        )

    def is_to_look(self) -> bool:
        """Is it time to look for what got lost?"""
        now = time.monotonic()
        if self._told_at == 0.0 or now - self._looked_at < LOOK_AFTER:
            return False
        self._looked_at = now
        return True

    def end(self) -> None:
        """Offer nothing any more."""
        with self._turn:
            if not self._is_over and self._say is not None and self._told_at:
                self._tell(0)
            self._is_over = True

    def wait_for_the_last(self) -> bool:
        """Wait until steps have committed that read an offer before `end`; False where there was none to be read."""
        if not self._told_at:
            return False
        time.sleep(max(self._told_at + ON_THEIR_WAY - time.monotonic(), 0.0))
        return True

    def _tell(self, credit: int) -> None:
        assert self._say is not None  # noqa: S101 - asked by the callers
        light = self._light() & self._types.keys()
        self._number += 1
        offer = Offer(
            self._worker,
            self._lease,
            self._types,
            self._functions,
            credit,
            self._not_for,
            light,
            self._number,
        )
        if self._told_at == 0.0:
            self._looked_at = time.monotonic()
        now = time.monotonic()
        self._recent = {one: at for one, at in self._recent.items() if at > now - RECENT_SECONDS}
        self._recent[self._number] = now
        heard = self._say(OFFERS, offer.to_bytes())
        self._listeners = max(heard or 1, 1)
        self._left = credit * self._listeners
        self._told_at = time.monotonic()


def _attempts(handler: Handler) -> int | None:
    policy = handler.options.retry
    return None if policy is None else RetryPolicy.read(policy).max_attempts
