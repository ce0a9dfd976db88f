"""A workflow of three SYSTEM tasks of 100 ms each, in a row: what the tests of crashes and outages run many times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TASKS = 3


def three_tasks(*, ms: int = 100) -> Mapping[str, Any]:
    """The definition; each task takes `ms` milliseconds."""
    names = [f"task-{number}" for number in range(1, TASKS + 1)]
    following = [*names[1:], "done"]
    states: dict[str, Any] = {
        name: {
            "entry": {
                "type": "createTask",
                "params": {
                    "task": {
                        "type": "SYSTEM",
                        "name": "test.rest",
                        "input": {"ms": ms},
                        "completionEvent": "RESTED",
                    }
                },
            },
            "on": {"RESTED": target},
        }
        for name, target in zip(names, following, strict=True)
    }
    return {"id": "three-tasks", "initial": names[0], "states": {**states, "done": {"type": "final"}}}
