"""A child that is only played: it stands in for a definition that the test does not give, and ends as the test says.

It is a small chart of its own, so that business keys, cancels and what parents are told are the engine's.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import statechart
from orchestrator.charts import CompiledChart

ENDED = "STAND_IN_ENDED"
DOCUMENT: dict[str, Any] = {
    "id": "stand-in",
    "initial": "open",
    "context": {"output": None},
    "output": "${context.output}",
    "states": {
        "open": {
            "on": {
                ENDED: {
                    "target": "ended",
                    "actions": [{"type": "assign", "path": "output", "value": "${event.output}"}],
                }
            }
        },
        "ended": {"type": "final"},
    },
}


@lru_cache(maxsize=1)
def stand_in() -> CompiledChart:
    """The chart of every stand-in."""
    return CompiledChart(statechart.load(DOCUMENT), "0" * 64)
