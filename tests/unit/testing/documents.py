"""Definitions that the tests of the kit share."""

from typing import Any

from tests.integration.engine.documents import assign


def many(*delays: str, ranked: bool = False) -> dict[str, Any]:
    """Asks for a task job-N for each delay, and keeps the names in the order in which they end.

    `ranked`: each later one has a higher priority.
    """
    asked = [
        {"type": "work", "name": f"job-{n}", "delay": delay, "priority": n if ranked else 0}
        for n, delay in enumerate(delays)
    ]
    heard = [assign("heard", "${context.heard + [event.task.name]}")]
    return {
        "id": "many",
        "initial": "open",
        "context": {"heard": []},
        "states": {
            "open": {
                "entry": [{"type": "createTask", "task": one} for one in asked],
                "on": {"done.task.*": {"actions": heard}},
            }
        },
    }
