"""Small definitions that the engine's tests share: each does one thing."""

from typing import Any

import pytest

Document = dict[str, Any]

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
"""For tests of what the database has no part in: a database of their own on PostgreSQL would only cost time."""

COUNTER: Document = {
    "id": "counter",
    "initial": "counting",
    "context": {"seen": []},
    "states": {
        "counting": {
            "on": {
                "ADD": {
                    "actions": [{"type": "assign", "path": "seen", "value": "${context.seen + [event.n]}"}]
                },
                "STOP": "stopped",
            }
        },
        "stopped": {"type": "final"},
    },
}
"""Keeps the `n` of each ADD in order, until STOP."""


ONE_TASK: Document = {
    "id": "one-task",
    "initial": "working",
    "states": {
        "working": {"invoke": {"src": "work", "onDone": "done"}, "on": {"STOP": "done"}},
        "done": {"type": "final"},
    },
}
"""One `work`, invoked: its failure fails the instance, STOP gives it up."""


def one_task(kind: str = "work", **task: Any) -> Document:
    """A task of type `kind` on entry; completed by its end, failed where nobody catches its failure."""
    wanted = {"type": kind, "name": "job", "completionEvent": "DONE", **task}
    return {
        "id": f"one-{kind}",
        "initial": "working",
        "states": {
            "working": {"entry": [{"type": "createTask", "task": wanted}], "on": {"DONE": "done"}},
            "done": {"type": "final"},
        },
    }


def waiting_with_task(kind: str = "work", **task: Any) -> Document:
    """As `one_task`, but it also counts ADDs while it waits, and its task's end changes nothing else."""
    document = one_task(kind, **task)
    working = document["states"]["working"]
    working["on"] = {
        "DONE": {"actions": [{"type": "assign", "path": "output", "value": "${event.output}"}]},
        "ADD": {"actions": [{"type": "assign", "path": "seen", "value": "${context.seen + [event.n]}"}]},
        "STOP": "done",
    }
    return document | {"id": f"waiting-{kind}", "context": {"seen": []}}


def after(delay: str | int, **states: Any) -> Document:
    """Waits in `early` for `delay`, then is `late`; LEAVE takes it to `left` first."""
    return {
        "id": "timed",
        "initial": "early",
        "states": {
            "early": {"after": {str(delay): "late"}, "on": {"LEAVE": "left", "STOP": "done"}},
            "late": {"on": {"STOP": "done"}},
            "left": {"on": {"STOP": "done"}},
            "done": {"type": "final"},
            **states,
        },
    }


def on_go(*actions: Any, context: Any = None, **more: Any) -> Document:
    """Performs `actions` at each GO; catches nothing."""
    return {
        "id": "on-go",
        "initial": "idle",
        "context": context or {},
        "states": {
            "idle": {"on": {"GO": {"actions": list(actions)}, "STOP": "done", **more}},
            "done": {"type": "final"},
        },
    }


def assign(path: str, value: Any) -> Document:
    return {"type": "assign", "path": path, "value": value}
