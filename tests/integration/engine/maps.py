"""Definitions with a MAP, and short ways to look at its items."""

from __future__ import annotations

from typing import Any

from common.canonical import read
from tests.integration.engine.documents import Document
from tests.support.engine import Engine


def mapping(task: Document | None = None, *, catches: bool = True, **input: Any) -> Document:
    """A definition whose `working` state maps over `input.items`; its answer is kept in the context."""
    given = {"items": "${input.items}", "task": task or {"type": "work", "input": "${item}"}, **input}
    given = {name: value for name, value in given.items() if value is not None}
    kept = {"type": "assign", "path": "answer", "value": "${event.output}"}
    lost = {"type": "assign", "path": "error", "value": "${event.error}"}
    answers = {"onDone": {"target": "done", "actions": [kept]}}
    if catches:
        answers["onError"] = {"target": "failed", "actions": [lost]}
    return {
        "id": "mapping",
        "context": {},
        "initial": "working",
        "states": {
            "working": {"invoke": {"src": "MAP", "input": given, **answers}, "on": {"LEAVE": "left"}},
            "left": {"on": {"STOP": "done"}},
            "failed": {"on": {"STOP": "done"}},
            "done": {"type": "final"},
        },
    }


def items_of(engine: Engine) -> list[tuple[int, str]]:
    """(index, status) of every item, in order."""
    rows = engine.execute(
        "SELECT item_index, status FROM tasks WHERE parent_task_id IS NOT NULL ORDER BY item_index"
    )
    return [(row[0], row[1]) for row in rows]


def statuses(engine: Engine) -> list[str]:
    return [status for _, status in items_of(engine)]


def the_map(engine: Engine) -> dict[str, Any]:
    """The row of the one MAP."""
    columns = ("id", "status", "input", "output", "error", "options")
    [row] = engine.execute(f"SELECT {', '.join(columns)} FROM tasks WHERE type = 'MAP'")
    return dict(zip(columns, row, strict=True))


def join_of(engine: Engine) -> tuple[int, int, bool]:
    """(succeeded, failed, whether it is over) of the one join."""
    [row] = engine.execute("SELECT succeeded, failed, ended_at IS NOT NULL FROM joins")
    return row[0], row[1], bool(row[2])


def ending(engine: Engine, instance_id: str) -> dict[str, Any]:
    """The history entry that ended the MAP."""
    ends = ("task.succeeded", "task.failed")
    [entry] = [entry for entry in engine.entries(instance_id) if entry["type"] in ends]
    return entry


def output_of(engine: Engine) -> Any:
    return read(the_map(engine)["output"])
