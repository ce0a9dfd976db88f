"""Microseconds per step and milliseconds per compilation of the statechart kernel.

    python -m benchmarks.kernel

Prints one line per measurement: the median of several rounds of CPU time, with the aim beside it. Steps are taken on
snapshots that have been through JSON, as in the orchestrator, and alternate between two states so that each works.
Charts are loaded three times over: without expressions, with two new ones in each state, and with expressions that some
chart before had, as the next version of a definition has them. Python's collector does not look at what was there
before the benchmark, as in the processes that freeze it once they are up; what a chart leaves to it is measured.
"""

from __future__ import annotations

import gc
import itertools
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


def plain(states: int, salt: int) -> Document:
    """A chart of that many states with two transitions each, and no expression."""
    return {
        "id": f"plain{salt}",
        "initial": "s0",
        "states": {
            f"s{index}": {"on": {"NEXT": f"s{(index + 1) % states}", "RESET": {"target": "s0"}}}
            for index in range(states)
        },
    }


def rich(states: int, salt: int) -> Document:
    """The same with a guard, an assign and an entry action each; `salt` makes every expression a new one."""
    return {
        "id": f"rich{salt}",
        "initial": "s0",
        "context": {"count": 0},
        "states": {
            f"s{index}": {
                "entry": {"type": "log", "message": f"entered {index}"},
                "on": {
                    "NEXT": {
                        "target": f"s{(index + 1) % states}",
                        "guard": f"context.count < {index + salt}",
                        "actions": [
                            {
                                "type": "assign",
                                "path": "count",
                                "value": f"${{context.count + {index + salt}}}",
                            }
                        ],
                    },
                    "RESET": "s0",
                },
            }
            for index in range(states)
        },
    }


def known(states: int, _salt: int) -> Document:
    """`rich` with the expressions of every other chart of this size."""
    return rich(states, 0)


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
    gc.freeze()
    for document, aim in ((FLAT, 60), (TASKS, 60), (NESTED, 150), (PARALLEL, 150)):
        seconds = median_seconds(two_steps(statechart.load(document)), times=2_000) / 2
        print(f"step, {document['id']!s:9} {seconds * 1e6:8.1f} µs   (aim {aim})")
    for make, states, aim_ms in (
        (plain, 10, 1),
        (plain, 200, 10),
        (rich, 10, 1),
        (rich, 200, 10),
        (known, 200, 10),
    ):
        salts = itertools.count(1_000_000, 1_000_000)
        documents = (make(states, salt) for salt in salts)
        seconds = median_seconds(lambda documents=documents: statechart.load(next(documents)), times=10)  # type: ignore[misc]
        print(f"load {make.__name__:5}, {states:3} states {seconds * 1e3:8.2f} ms   (aim {aim_ms})")


if __name__ == "__main__":
    main()
