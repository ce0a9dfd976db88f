"""Definitions of parents, and how their tests find the children."""

from typing import Any

from tests.integration.engine.documents import Document, assign
from tests.support.engine import Engine


def parent(child: str = "counter", *, states: Document | None = None, **fields: Any) -> Document:
    """Starts a child on entry and ends with it; LEAVE takes it away first. Catches no failure."""
    start = {"type": "startWorkflow", "definitionKey": child, **fields}
    return {
        "id": "parent",
        "initial": "waiting",
        "context": {},
        "states": {
            "waiting": {
                "entry": [start],
                "on": {
                    f"done.workflow.{child}": {
                        "target": "done",
                        "actions": [assign("answer", "${event.output}")],
                    },
                    "LEAVE": "left",
                },
            },
            "left": {"on": {"STOP": "done"}},
            "done": {"type": "final"},
            **(states or {}),
        },
    }


def catching(document: Document, event: str) -> Document:
    """The same, but the failure of its child takes it to `caught`, with the error."""
    document["states"]["waiting"]["on"][event] = {
        "target": "caught",
        "actions": [assign("error", "${event.error}")],
    }
    document["states"]["caught"] = {"on": {"STOP": "done"}}
    return document


def child_of(engine: Engine, parent_id: str) -> str:
    [(child_id,)] = engine.execute(f"SELECT id FROM instances WHERE parent_id = '{parent_id}'")
    return str(child_id)


def finish(engine: Engine, instance_id: str) -> None:
    engine.send(instance_id, "STOP")
    engine.settle()


def started(engine: Engine, document: Document, **request: Any) -> tuple[str, str]:
    """A parent that waits and its one child."""
    instance_id = engine.start(document, **request)
    engine.settle()
    return instance_id, child_of(engine, instance_id)


def workflow_task(child: str = "counter", **fields: Any) -> Document:
    return {"type": "WORKFLOW", "name": "sub", "input": {"definitionKey": child, **fields}}


def with_task(**fields: Any) -> Document:
    """As `parent`, by a task of type WORKFLOW."""
    return {
        "id": "parent",
        "initial": "waiting",
        "states": {
            "waiting": {
                "entry": [{"type": "createTask", "task": workflow_task(**fields)}],
                "on": {
                    "done.task.sub": {"target": "done", "actions": [assign("answer", "${event.output}")]},
                    "LEAVE": "left",
                    "DROP": {"actions": [{"type": "cancel", "id": "sub"}]},
                },
            },
            "left": {"on": {"STOP": "done"}},
            "done": {"type": "final"},
        },
    }


def with_invoke(**fields: Any) -> Document:
    """As `parent`, by an invoke: LEAVE leaves its state."""
    return {
        "id": "parent",
        "initial": "waiting",
        "states": {
            "waiting": {
                "invoke": {"src": "WORKFLOW", "id": "sub", "input": {"definitionKey": "counter", **fields},
                           "onDone": {"target": "done", "actions": [assign("answer", "${event.output}")]}},
                "on": {"LEAVE": "left"},
            },
            "left": {"on": {"STOP": "done"}},
            "done": {"type": "final"},
        },
    }  # fmt: skip


def children_of(engine: Engine, parent_id: str) -> list[str]:
    """The children of an instance in the order of their ids."""
    rows = engine.execute(f"SELECT id FROM instances WHERE parent_id = '{parent_id}' ORDER BY id")
    return [str(id_) for (id_,) in rows]
