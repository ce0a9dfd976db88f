"""What is calculated for a tenant at once: simulations, checks of definitions, and verifications, which replay a history.

That is nothing but arithmetic, for seconds, and of a long history for minutes: who had all threads do it, with a key that may only read, would
keep every other tenant from the interpreter. Most of it takes milliseconds, so a few who come beyond wait for a moment; of who waits
each holds a thread, so that no more than these do.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from common.errors import LimitExceeded
from common.ids import TenantId

MOST_AT_ONCE = 2
MOST_WAITING = 6
PATIENCE_SECONDS = 2.0


class Calculating:
    """Who has this process calculate. Safe to use from any thread."""

    def __init__(self) -> None:
        self._under_way: Counter[TenantId] = Counter()
        self._waiting: Counter[TenantId] = Counter()
        self._ended = threading.Condition()

    @contextmanager
    def place_of(self, tenant_id: TenantId) -> Iterator[None]:
        """Hold a place of this tenant's, after a moment if need be. Raises `LimitExceeded` (`max_calculations`) where none is free by then."""
        with self._ended:
            self._wait(tenant_id)
            self._under_way[tenant_id] += 1
        try:
            yield
        finally:
            with self._ended:
                _give_back(self._under_way, tenant_id)
                self._ended.notify_all()

    def _wait(self, tenant_id: TenantId) -> None:
        if self._under_way[tenant_id] < MOST_AT_ONCE:
            return
        if self._waiting[tenant_id] >= MOST_WAITING:
            _refuse()
        self._waiting[tenant_id] += 1
        until = time.monotonic() + PATIENCE_SECONDS
        try:
            while self._under_way[tenant_id] >= MOST_AT_ONCE:
                if not self._ended.wait(until - time.monotonic()):
                    _refuse()
        finally:
            _give_back(self._waiting, tenant_id)


def _give_back(places: Counter[TenantId], tenant_id: TenantId) -> None:
    places[tenant_id] -= 1
    if not places[tenant_id]:
        del places[tenant_id]


def _refuse() -> None:
    raise LimitExceeded(
        f"expected at most {MOST_AT_ONCE} simulations, checks and verifications of a tenant at once, found that many under way; "
        "try again when one has ended",
        limit="max_calculations",
        allowed=MOST_AT_ONCE,
    )
