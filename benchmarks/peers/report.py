"""From the figures of all rounds to one table and one JSON document: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from signalbox.measure import latency

COLUMNS = (
    ("live", "live/s"),
    ("backlog", "backlog/s"),
    ("backlog_with_start", "with start/s"),
    ("p50", "p50 ms"),
    ("p95", "p95 ms"),
    ("p99", "p99 ms"),
    ("fan_out", "fan-out s"),
    ("memory", "PSS MB"),
)


@dataclass
class Found:
    """What the rounds brought for one system: per mode one figure a round, and why something is missing."""

    title: str
    is_durable: bool
    lines: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    tried: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    rounds: dict[str, list[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, mode: str, figure: float) -> None:
        self.rounds.setdefault(mode, []).append(figure)

    def add_latencies(self, milliseconds: Sequence[float]) -> None:
        """Percentiles within this round; their medians over the rounds are reported."""
        found = latency(milliseconds)
        for name, value in (("p50", found.p50), ("p95", found.p95), ("p99", found.p99)):
            self.add(name, value)

    def medians(self) -> dict[str, float]:
        return {mode: median(figures) for mode, figures in self.rounds.items()}


def as_json(
    machine: Mapping[str, Any], rounds: int, counts: Mapping[str, int], found: Mapping[str, Found]
) -> dict[str, Any]:
    """Everything that was measured: every round, the medians, the settings tried, and what is missing and why."""
    return {
        "machine": dict(machine),
        "rounds": rounds,
        "counts": dict(counts),
        "systems": {
            name: {
                "title": one.title,
                "durable": one.is_durable,
                "linesOfUserCode": one.lines,
                "settings": dict(one.settings),
                "settingsTried": one.tried,
                "counts": one.counts,
                "medians": {mode: round(value, 3) for mode, value in one.medians().items()},
                "rounds": {mode: [round(v, 3) for v in figures] for mode, figures in one.rounds.items()},
                "missing": one.missing,
            }
            for name, one in found.items()
        },
    }


def as_table(found: Mapping[str, Found]) -> str:
    """One line a system, medians only; below it who had fewer workflows than others, and what is missing and why."""
    head = ["system", *(label for _, label in COLUMNS), "lines", "rounds"]
    rows = [head]
    for one in found.values():
        medians = one.medians()
        cells = [_cell(mode, medians.get(mode)) for mode, _ in COLUMNS]
        done = max((len(figures) for figures in one.rounds.values()), default=0)
        rows.append([one.title if one.is_durable else f"{one.title} *", *cells, str(one.lines), str(done)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    if not all(one.is_durable for one in found.values()):
        lines.append("* not durable: a crash loses work; stands here as an upper reference")
    most = max((one.counts.get("live", 0) for one in found.values()), default=0)
    lines += [
        f"fewer: {one.title}: {one.counts['live']} workflows a round, and {one.counts['latencies']} one at a time"
        for one in found.values()
        if one.counts.get("live", most) < most
    ]
    lines += [
        f"missing: {one.title}, {mode}: {reason}"
        for one in found.values()
        for mode, reason in one.missing.items()
    ]
    return "\n".join(lines)


def _cell(mode: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.3f}" if mode == "fan_out" else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
