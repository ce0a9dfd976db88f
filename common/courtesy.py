"""Courtesy: a flood rests for a moment while somebody's few tasks are on their way.

A tenant that has thousands of tasks due keeps both workers, their interpreters and the database busy, and each hop of anybody else's
workflow waits for them. So where somebody else has just been served, and is likely to be back within milliseconds, nothing is begun of the
flood for as long. That is bounded: of any time a quarter is rested at the most, so that a tenant that is not quiet at
all takes no more than that from the others; beyond it there are turns and shares.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, TypeVar

from common.ids import TenantId

REST_SECONDS = 0.02
"""For so long after a quiet tenant was served, at the least: some times what the next hop takes where nothing is in its way."""
HOPS = 2.0
"""How many times as long as his hops have taken of late, where that is more: a slow machine takes longer for each."""
LONGEST_SECONDS = 0.06
"""However long they take."""
HOP_SECONDS = (0.002, 0.1)
"""What lies between two that were served is a hop of one workflow if it took so long: less is one event told twice, more a workflow of its own."""
HOP_WEIGHT = 0.125
"""Of the newest in the mean."""
SHARE = 0.25
"""Of the time that may be rested."""
SAVED_SECONDS = 0.2
"""So much of it may be saved up and rested in one go: a third tenant's task that has to be claimed waits for that too."""
FLOOD = 200.0
"""Steps a second, about a tenth of what two cores do: a tenant that has more is none that others should wait for."""
STILL_FLOOD = 50.0
"""Down to so many a second it goes on to be one: portions and rests slow a flood down, on a slow machine to less than what tells one."""
QUIET = 20.0
"""Steps a second: a tenant that has fewer notices each batch that it waits for. Between the two there is a throng, which large batches get through
soonest, and everybody of it with them.
"""

REMEMBERED_SECONDS = 600.0
"""For so long after somebody quiet was here he is expected back: a flood goes on in portions that he can wait for."""
EXPECTED_MAX = 16
"""Tenants that are expected back, of however many come and go."""
FORGOTTEN = 0.1
"""Steps a second that are none any more. Below one, so that steps which come one by one add up."""


T = TypeVar("T")


class Portions(NamedTuple):
    """How much of a flood is done in one go, for which whoever comes has to wait: with nobody else in sight, while somebody quiet is expected
    back (`Volumes.is_quiet_expected`), and beside him. The smaller, the less is done in all.
    """

    alone: int
    expecting: int
    beside: int

    def now(self, volumes: Volumes, *, is_beside: bool) -> int:
        if is_beside:
            return self.beside
        return self.expecting if volumes.is_quiet_expected else self.alone


def in_turn(ones: Sequence[T], tenant_of: Callable[[T], TenantId]) -> list[T]:
    """Everybody's first, then everybody's second, and so on; each tenant's in their order."""
    turns: Counter[TenantId] = Counter()
    ranked = []
    for one in ones:
        tenant_id = tenant_of(one)
        turns[tenant_id] += 1
        ranked.append((turns[tenant_id], one))
    return [one for _, one in sorted(ranked, key=lambda ranked_one: ranked_one[0])]


class Courtesy:
    """When to begin nothing of a flood. Noted by any thread, asked by one."""

    def __init__(self) -> None:
        self._until = 0.0
        self._noted_at = 0.0
        self._hop = 0.0
        self._saved = SAVED_SECONDS
        self._granted = 0.0
        self._asked_at = time.monotonic()

    def note(self) -> None:
        """Somebody who has no more than a few was served."""
        now = time.monotonic()
        took, self._noted_at = now - self._noted_at, now
        shortest, longest = HOP_SECONDS
        if shortest <= took <= longest:
            self._hop += (took - self._hop) * HOP_WEIGHT if self._hop else took
        self._until = now + max(REST_SECONDS, min(HOPS * self._hop, LONGEST_SECONDS))

    def rest(self) -> float:
        """How many seconds to rest from now on before asking again; 0 where there is no reason, or no time left for it."""
        now = time.monotonic()
        gone, self._asked_at = now - self._asked_at, now
        # Who rested and was not needed then may ask again much later.
        self._saved = min(self._saved + gone * SHARE, SAVED_SECONDS) - min(gone, self._granted)
        rest = self._until - now
        self._granted = rest if rest > 0.0 and self._saved > 0.0 else 0.0
        return self._granted


class Volumes:
    """How much each tenant has had done of late, as a rate a second that forgets within some seconds. For one thread.

    Of those that had little done it is remembered for some minutes that they were here.
    """

    def __init__(self) -> None:
        self._rates: dict[TenantId, float] = {}
        self._floods: set[TenantId] = set()
        self._noted_at = time.monotonic()
        self._expected: dict[TenantId, float] = {}  # until when, who was here last at the end

    def note(self, counts: Mapping[TenantId, int]) -> None:
        """So much of each tenant was done just now."""
        now = time.monotonic()
        left, self._noted_at = math.exp(self._noted_at - now), now
        self._rates = {one: rate for one, was in self._rates.items() if (rate := was * left) > FORGOTTEN}
        for one, count in counts.items():
            self._rates[one] = self._rates.get(one, 0.0) + count
            if self.is_quiet(one):
                self._expected.pop(one, None)
                self._expected[one] = now + REMEMBERED_SECONDS
        while len(self._expected) > EXPECTED_MAX:
            del self._expected[next(iter(self._expected))]
        self._floods = {one for one, rate in self._rates.items() if self._floods_at(one, rate)}

    def _floods_at(self, tenant_id: TenantId, rate: float) -> bool:
        return rate >= (STILL_FLOOD if tenant_id in self._floods else FLOOD)

    def is_flood(self, tenant_id: TenantId) -> bool:
        return tenant_id in self._floods

    def is_quiet(self, tenant_id: TenantId) -> bool:
        return self._rates.get(tenant_id, 0.0) < QUIET

    @property
    def is_quiet_expected(self) -> bool:
        """May somebody come any moment who notices how much is done of another at once? He was here of late, and is quiet now."""
        now = time.monotonic()
        return any(until > now and self.is_quiet(one) for one, until in self._expected.items())

    def has_quiet_beside_flood(self, tenants: Collection[TenantId]) -> bool:
        """Is there one among some tenants who notices how much is done of another at once?"""
        return len(tenants) > 1 and any(map(self.is_flood, tenants)) and any(map(self.is_quiet, tenants))
