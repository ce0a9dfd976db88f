"""The workflow of the chaos suite: one chart in which each thing that the engine can be waiting for is met once.

Two tasks in a row, of which the second fails twice and is retried; two light ones, for which the step waits; a timer; an event that it sends to itself for later; two
regions side by side with a task each, one of them under a limit that all instances share; a child that is waited for, and that waits for a place among its like; events from outside at any time, in any state. Whatever
happens to the processes meanwhile, an instance that heard its CLOSE ends `completed`, with one possible context.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]

KEY = "chaos"
CHILD_KEY = "chaos-child"
CHILDREN_AT_ONCE = 3
"""Of one shelf; the others wait for a place."""
SHELF = "${instance.id.matches('[0-7]$') ? 'low' : 'high'}"
FAILS = 2
AMOUNTS = {
    "first": 1, "second": 10, "left": 100, "right": 1_000, "child": 10_000, "brisk": 100_000, "swift": 1_000_000,
}  # fmt: skip
"""What each task brings: the sum names those that are missing or counted twice."""
SUM = sum(AMOUNTS.values())
TASKS = len(AMOUNTS)
"""Tasks that a runner executes for each instance, its child included."""
LIGHT = "chaos.light"
"""The type of the tasks `brisk` and `swift`."""
_QUICK_RETRY = {"maxAttempts": FAILS + 1, "interval": "100ms", "backoffRate": 1, "jitter": 0}


def assign(path: str, value: str) -> dict[str, Any]:
    return {"type": "assign", "path": path, "value": value}


def _add(amount: str) -> dict[str, Any]:
    return assign("sum", f"${{context.sum + {amount}}}")


LIMIT: Document = {"key": "chaos", "maxRunning": 4}
"""Of the task `left` of all instances."""


def _invoke(name: str, *, ms: int, target: str, src: str = "chaos.work") -> dict[str, Any]:
    """A task that belongs to its state, and adds what it brings."""
    return {
        "invoke": {
            **({"limit": LIMIT} if name == "left" else {}),
            "src": src,
            "id": name,
            "input": {"amount": AMOUNTS[name], "ms": ms},
            "onDone": {"target": target, "actions": [_add("event.output.amount")]},
        }
    }


def _region(name: str, *, ms: int) -> dict[str, Any]:
    states = {"working": _invoke(name, ms=ms, target="worked"), "worked": {"type": "final"}}
    return {"initial": "working", "states": states}


CHILD: Document = {
    "id": CHILD_KEY,
    "initial": "working",
    "concurrency": {"max": CHILDREN_AT_ONCE, "key": "${input.shelf}"},
    "context": {"sum": 0},
    "output": {"amount": "${context.sum}"},
    "states": {
        "working": _invoke("child", ms=150, target="resting"),
        "resting": {"after": {"100ms": "done"}},
        "done": {"type": "final"},
    },
}

CHART: Document = {
    "id": KEY,
    "initial": "first",
    "context": {"seen": [], "sum": 0, "later": 0, "closed": False},
    "on": {
        "ADD": {"actions": [assign("seen", "${context.seen + [event.n]}")]},
        "LATER": {"actions": [assign("later", "${context.later + 1}")]},
        "CLOSE": {"actions": [assign("closed", "${true}")]},
    },
    "states": {
        "first": {
            "entry": [
                {"type": "send", "to": "self", "event": {"type": "LATER"}, "delay": "400ms"},
                {
                    "type": "createTask",
                    "task": {
                        "type": "chaos.work",
                        "name": "first",
                        "input": {"amount": AMOUNTS["first"], "ms": 300},
                    },
                },
            ],
            "on": {"done.task.first": {"target": "second", "actions": [_add("event.output.amount")]}},
        },
        "second": {
            "invoke": {
                "src": "chaos.unsteady",
                "id": "second",
                "input": {"amount": AMOUNTS["second"], "fails": FAILS, "ms": 50},
                "retry": _QUICK_RETRY,
                "onDone": {"target": "brisk", "actions": [_add("event.output.amount")]},
            }
        },
        "brisk": _invoke("brisk", ms=0, target="swift", src=LIGHT),
        "swift": _invoke("swift", ms=0, target="resting", src=LIGHT),
        "resting": {"after": {"300ms": "both"}},
        "both": {
            "type": "parallel",
            "states": {"left": _region("left", ms=400), "right": _region("right", ms=100)},
            "onDone": "child",
        },
        "child": {
            "invoke": {
                "src": "WORKFLOW",
                "id": "child",
                "input": {"definitionKey": CHILD_KEY, "input": {"shelf": SHELF}},
                "onDone": {"target": "open", "actions": [_add("event.output.output.amount")]},
            }
        },
        "open": {"always": {"target": "done", "guard": "context.closed && context.later == 1"}},
        "done": {"type": "final"},
    },
}


def context_at_the_end(numbers: Sequence[int], *, sum: int = SUM) -> dict[str, Any]:
    """The one right context of a completed instance that was sent ADD with these numbers, one after the other."""
    return {"seen": list(numbers), "sum": sum, "later": 1, "closed": True}
