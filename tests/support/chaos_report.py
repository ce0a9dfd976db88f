"""What a run of the chaos suite tells: a table for people, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Fault = Literal["lost", "doubled", "stuck", "wrong"]
"""What can be wrong with a run."""


@dataclass(frozen=True)
class Report:
    """Everything that a run counted. Times are seconds; `recoveries` is what `slowest` made of them, by kind.

    `timeline` (in the JSON alone) lists every blow that was measured, in the order in which they were got over.
    """

    site: str
    seed: int
    seconds: float
    lease: float
    blows: Mapping[str, int]
    counts: Mapping[str, int]
    faults: Mapping[str, int]
    recoveries: Mapping[str, Mapping[str, Any]]
    timeline: Sequence[Mapping[str, Any]]
    crowd: float
    slowdown: float

    def write(self, folder: Path) -> Path:
        """Write it as JSON; the file's path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.site}.json"
        figures = {**asdict(self), "timeline": list(self.timeline)}
        path.write_text(json.dumps(figures, indent=2) + "\n")
        return path

    def table(self) -> str:
        """The run as text: what was done, what there was, what went wrong, how fast it mended."""
        head = f"chaos on {self.site}, seed {self.seed}, {self.seconds:.0f} s, lease {self.lease:g} s"
        rows = [
            *((kind, str(number)) for kind, number in sorted(self.blows.items())),
            *((name.replace("_", " "), f"{number:,}") for name, number in self.counts.items()),
            *((fault, str(number)) for fault, number in self.faults.items()),
        ]
        times: list[tuple[str, ...]] = [
            ("slowest recovery after", "alone", "among others", "all of it", "measured")
        ]
        times += [
            (
                kind,
                *(_seconds(found[which]) for which in ("slowest_alone", "slowest", "slowest_cleared")),
                str(found["measured"]),
            )
            for kind, found in self.recoveries.items()
        ]
        return "\n".join(
            [
                "",
                head,
                *_columns(rows),
                "",
                *_columns(times),
                f"crowd {self.crowd:.1f}, slowdown {self.slowdown:.1f} at worst",
            ]
        )


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if not place else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
