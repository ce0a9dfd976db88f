"""Shares: who may hold how many slots of a process. Slots go round the tenants by themselves as long as tasks are short.

A tenant's long ones would take them all, and whoever comes next waited until one ends. So while several tenants have
had tasks here within the last minute, none holds the last eighth of the slots. Who is alone holds them all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

from common.courtesy import Portions, Volumes
from common.ids import TenantId

MEMORY_SECONDS = 60.0
JUST_NOW_SECONDS = 5.0
JUDGED_SECONDS = 0.02
"""For so long it is not asked again who is quiet beside whom: there may be thousands."""
SEEN_MAX = 1_000
"""Tenants that are remembered by their arrival alone, which anybody on the broker may call."""
KEPT_FREE = 8
"""Of so many slots one is kept free of the tenant that holds the others."""


class Shares:
    """What each tenant may hold of `size` slots; noted by one thread at a time, the one that takes tasks."""

    def __init__(self, size: int) -> None:
        self.most = max(size - max(size // KEPT_FREE, 1), 1)
        self._seen: Mapping[TenantId, float] = {}
        self._volumes = Volumes()
        self._judged: dict[float, tuple[float, bool]] = {}
        self._turn = threading.Lock()

    def note(self, counts: Mapping[TenantId, int]) -> None:
        """These tenants have had so many tasks taken just now."""
        now = time.monotonic()
        with self._turn:
            self._volumes.note(counts)
            if not counts.keys() <= self._seen.keys():
                self._judged.clear()
            seen = {**self._seen, **dict.fromkeys(counts, now)}
            if len(seen) > 1:
                seen = {one: at for one, at in seen.items() if at > now - MEMORY_SECONDS}
            self._seen = seen  # never changed: others may be going through it

    @property
    def are_several(self) -> bool:
        """Has more than one tenant had tasks here within the last minute?"""
        return len(self._seen) > 1

    def protect(self, within: float = JUST_NOW_SECONDS) -> bool:
        """Was somebody quiet here within some seconds, beside a tenant that floods? Then he should not wait for many of its tasks."""
        if not self.are_several:
            return False
        now = time.monotonic()
        with self._turn:
            judged_at, is_so = self._judged.get(within, (0.0, False))
            if now - judged_at > JUDGED_SECONDS:
                recent = [one for one, at in self._seen.items() if at > now - within]
                is_so = self._volumes.has_quiet_beside_flood(recent)
                self._judged[within] = now, is_so
            return is_so

    def portion(self, portions: Portions) -> int:
        """How much of something to do in one go."""
        is_beside = self.protect()
        with self._turn:
            return portions.now(self._volumes, is_beside=is_beside)

    def note_arrivals(self, tenants: Sequence[TenantId]) -> bool:
        """Tasks of these tenants will be here soon. Whoever of them is quiet is protected from now on; is anybody?"""
        with self._turn:
            quiet = [one for one in tenants if self._volumes.is_quiet(one)]
        if quiet and len(self._seen) < SEEN_MAX:
            self.note(dict.fromkeys(quiet, 0))
        return bool(quiet)

    def room(self, room: int, held: Mapping[TenantId, int]) -> tuple[int, list[TenantId]]:
        """How many more may be claimed at once so that nobody comes to hold more than his share, and of whom nothing."""
        full = [tenant for tenant, count in held.items() if count >= self.most]
        highest = max((count for count in held.values() if count < self.most), default=0)
        return min(room, self.most - highest), full
