"""Microseconds per step and milliseconds per compilation of the statechart kernel.

    python -m benchmarks.kernel

Prints one line per measurement: the median of several rounds of CPU time, with the aim beside it. Steps are taken on
snapshots that have been through JSON, as in the orchestrator, and alternate between two states so that each works.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime

import statechart
from statechart import Chart, Env

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ENV = Env(NOW, {}, "seed")
Document = dict[str, object]

FLAT: Document = {
    "id": "flat",
    "initial": "idle",
    "context": {"count": 0},
    "states": {
        "idle": {
            "on": {
                "GO": {
                    "target": "busy",
                    "guard": "context.count < 1000000000",
                    "actions": [{"type": "assign", "path": "count", "value": "${context.count + 1}"}],
                }
            }
        },
        "busy": {"on": {"BACK": "idle"}},
    },
}

TASKS: Document = {
    "id": "tasks",
    "initial": "idle",
    "context": {"order": {"id": 7}},
    "states": {
        "idle": {
            "on": {
                "GO": {
                    "target": "busy",
                    "actions": [
                        {
                            "type": "createTask",
                            "task": {
                                "type": "orders.ship",
                                "name": "ship",
                                "input": {"id": "${context.order.id}"},
                            },
                        }
                    ],
                }
            }
        },
        "busy": {"on": {"done.task.ship": "idle"}},
    },
}

NESTED: Document = {
    "id": "nested",
    "initial": "a",
    "context": {"count": 0},
    "states": {
        "a": {
            "initial": "b",
            "exit": {"type": "assign", "path": "left", "value": True},
            "states": {
                "b": {
                    "initial": "c",
                    "entry": {"type": "assign", "path": "count", "value": "${context.count + 1}"},
                    "states": {"c": {}, "d": {}},
                }
            },
            "on": {"GO": {"target": "z", "guard": "context.count > 0"}},
        },
        "z": {"initial": "y", "states": {"y": {"on": {"BACK": "#nested.a.b.d"}}}},
    },
}

PARALLEL: Document = {
    "id": "parallel",
    "type": "parallel",
    "context": {"count": 0},
    "states": {
        name: {
            "initial": "off",
            "states": {
                "off": {
                    "on": {
                        "GO": {
                            "target": "on",
                            "actions": [{"type": "assign", "path": "count", "value": "${context.count + 1}"}],
                        }
                    }
                },
                "on": {"on": {"BACK": {"target": "off", "guard": "context.count > 0"}}},
            },
        }
        for name in ("left", "middle", "right")
    },
}


def wide(states: int) -> Document:
    """A chart of that many states, each with two transitions, a guard, an assign and an entry action."""
    return {
        "id": "wide",
        "initial": "s0",
        "context": {"count": 0},
        "states": {
            f"s{index}": {
                "entry": {"type": "log", "message": f"entered {index}"},
                "on": {
                    "NEXT": {
                        "target": f"s{(index + 1) % states}",
                        "guard": f"context.count < {index}",
                        "actions": [
                            {"type": "assign", "path": "count", "value": f"${{context.count + {index}}}"}
                        ],
                    },
                    "RESET": "s0",
                },
            }
            for index in range(states)
        },
    }


def median_seconds(action: Callable[[], object], *, times: int, rounds: int = 7) -> float:
    """The median over `rounds` of the mean time of one call."""
    action()
    taken = []
    for _ in range(rounds):
        gc.collect()
        began = time.process_time()
        for _ in range(times):
            action()
        taken.append((time.process_time() - began) / times)
    return statistics.median(taken)


def stored(snapshot: dict[str, object]) -> dict[str, object]:
    restored: dict[str, object] = json.loads(json.dumps(snapshot))
    return restored


def two_steps(chart: Chart) -> Callable[[], None]:
    """GO and back again."""
    idle = stored(statechart.start(chart, {}, ENV).snapshot)
    go = {"type": "GO"}
    busy = stored(statechart.step(chart, idle, go, ENV).snapshot)
    back = next(({"type": "done.task.ship"} for _ in busy["tasks"] or ()), {"type": "BACK"})  # type: ignore[attr-defined]
    obligation = next(iter(busy["tasks"]), None)  # type: ignore[call-overload]

    def run() -> None:
        assert statechart.step(chart, idle, go, ENV).outcome == "applied"
        assert statechart.step(chart, busy, back, ENV, obligation=obligation).outcome == "applied"

    return run


def main() -> None:
    for document, aim in ((FLAT, 60), (TASKS, 60), (NESTED, 150), (PARALLEL, 150)):
        seconds = median_seconds(two_steps(statechart.load(document)), times=2_000) / 2
        print(f"step, {document['id']!s:9} {seconds * 1e6:8.1f} µs   (aim {aim})")
    for states, aim_ms in ((10, 1), (200, 10)):
        document = wide(states)
        seconds = median_seconds(lambda document=document: statechart.load(document), times=20)  # type: ignore[misc]
        print(f"compile {states:4} states {seconds * 1e3:8.2f} ms   (aim {aim_ms})")


if __name__ == "__main__":
    main()
