"""Judges a limit from the attempts on record: how many ran at once, and how long places stood empty while work waited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from heapq import heappop, heappush
from typing import Self


@dataclass(frozen=True, slots=True)
class Interval:
    """An attempt from its claim to its end, on the database's clock."""

    began: datetime
    ended: datetime


@dataclass(frozen=True, slots=True)
class Places:
    """What the attempts of one limit tell. `idle`: for each place that became free while tasks waited, how long until it was taken."""

    most_at_once: int
    attempts: int
    seconds: float
    idle: Sequence[float]

    @classmethod
    def of(cls, intervals: Sequence[Interval]) -> Self:
        """Of attempts that were all due from the first one's beginning on."""
        running: list[datetime] = []
        free: list[datetime] = []
        most, idle = 0, []
        for one in sorted(intervals, key=lambda one: one.began):
            while running and running[0] <= one.began:
                heappush(free, heappop(running))
            if free:
                idle.append((one.began - heappop(free)) / timedelta(seconds=1))
            heappush(running, one.ended)
            most = max(most, len(running))
        first, last = min(one.began for one in intervals), max(one.ended for one in intervals)
        return cls(most, len(intervals), (last - first) / timedelta(seconds=1), sorted(idle))

    def at(self, share: float) -> float:
        """Seconds that so great a share of the places stood empty at the most."""
        return self.idle[min(int(len(self.idle) * share), len(self.idle) - 1)] if self.idle else 0.0

    def __str__(self) -> str:
        return (
            f"{self.attempts} attempts in {self.seconds:.1f} s ({self.attempts / self.seconds:.0f}/s), at most "
            f"{self.most_at_once} at once; a free place was taken after p50 {1000 * self.at(0.5):.1f} ms, "
            f"p99 {1000 * self.at(0.99):.1f} ms, at the most {1000 * self.at(1):.0f} ms"
        )
