"""Shares: who may hold how many slots of a process. Slots go round the tenants by themselves as long as tasks are short.

A tenant's long ones would take them all, and whoever comes next waited until one ends. So while several tenants have
had tasks here within the last minute, none holds the last eighth of the slots. Who is alone holds them all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping

from common.ids import TenantId

MEMORY_SECONDS = 60.0
JUST_NOW_SECONDS = 5.0
KEPT_FREE = 8
"""Of so many slots one is kept free of the tenant that holds the others."""


class Shares:
    """What each tenant may hold of `size` slots; noted by one thread at a time, the one that takes tasks."""

    def __init__(self, size: int) -> None:
        self.most = max(size - max(size // KEPT_FREE, 1), 1)
        self._seen: Mapping[TenantId, float] = {}
        self._turn = threading.Lock()

    def note(self, tenants: Iterable[TenantId]) -> None:
        """These tenants have had tasks claimed just now."""
        now = time.monotonic()
        with self._turn:
            seen = {**self._seen, **dict.fromkeys(tenants, now)}
            if len(seen) > 1:
                seen = {one: at for one, at in seen.items() if at > now - MEMORY_SECONDS}
            self._seen = seen  # never changed: others may be going through it

    @property
    def are_several(self) -> bool:
        """Has more than one tenant had tasks here within the last minute?"""
        return len(self._seen) > 1

    def are_several_now(self) -> bool:
        """Has more than one within the last five seconds? Then nobody should wait for many of another's."""
        after, seen = time.monotonic() - JUST_NOW_SECONDS, self._seen
        return len(seen) > 1 and sum(at > after for at in seen.values()) > 1

    def room(self, room: int, held: Mapping[TenantId, int]) -> tuple[int, list[TenantId]]:
        """How many more may be claimed at once so that nobody comes to hold more than his share, and of whom nothing."""
        full = [tenant for tenant, count in held.items() if count >= self.most]
        highest = max((count for count in held.values() if count < self.most), default=0)
        return min(room, self.most - highest), full
