"""From the times of finished instances to figures: pure arithmetic over database rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Run:
    """One instance's times, as its row has them. `steps` is how many events it consumed, its start included."""

    created_at: datetime
    started_at: datetime
    finished_at: datetime
    steps: int


@dataclass(frozen=True)
class Latency:
    """Percentiles of start → completed, in milliseconds."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Figures:
    """What a number of instances came to. `seconds` is the span that the rates are over."""

    instances: int
    steps: int
    seconds: float
    latency: Latency

    @property
    def workflows_per_second(self) -> float:
        return self.instances / self.seconds

    @property
    def steps_per_second(self) -> float:
        return self.steps / self.seconds


def live_figures(runs: Sequence[Run]) -> Figures:
    """Instances that were started while the workers ran: from the first start to the last end."""
    return _figures(runs, min(run.created_at for run in runs))


def backlog_figures(runs: Sequence[Run]) -> Figures:
    """Instances that all waited when the workers came: from the first step to the last end."""
    return _figures(runs, min(run.started_at for run in runs))


def _figures(runs: Sequence[Run], began: datetime) -> Figures:
    span = max(run.finished_at for run in runs) - began
    return Figures(
        instances=len(runs),
        steps=sum(run.steps for run in runs),
        seconds=max(span.total_seconds(), 1e-6),
        latency=latency([(run.finished_at - run.created_at).total_seconds() * 1_000 for run in runs]),
    )


def latency(milliseconds: Sequence[float]) -> Latency:
    """Percentiles of at least one value."""
    ordered = sorted(milliseconds)
    return Latency(*(percentile(ordered, share) for share in (0.50, 0.95, 0.99)))


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the sorted values do not exceed (nearest rank)."""
    rank = -int(-share * len(ordered) // 1)  # rounded up
    return ordered[max(rank, 1) - 1]
