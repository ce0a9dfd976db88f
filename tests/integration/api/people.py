"""Definitions with tasks for people, and who does what with them over the API."""

from collections.abc import Mapping
from typing import Any

from werkzeug.test import TestResponse

from common.credentials import read_secret
from common.db.tables import Role
from common.store import keys
from tests.integration.api.conftest import Api


def human(**task: Any) -> dict[str, Any]:
    """One task `review` for a person: `approved` by its completion, `refused` by its failure."""
    wanted = {"type": "HUMAN", "name": "review", "completionEvent": "YES", "failureEvent": "NO", **task}
    return {
        "id": "asking",
        "initial": "asked",
        "states": {
            "asked": {
                "entry": [{"type": "createTask", "task": wanted}],
                "on": {"YES": "approved", "NO": "refused", "LEAVE": "left"},
            },
            "approved": {"type": "final", "output": "${event.output}"},
            "refused": {"type": "final", "output": "${event.error}"},
            "left": {"type": "final"},
        },
    }


def four_eyes(count: int = 2, **more: Any) -> dict[str, Any]:
    """`count` tasks review-1, review-2, … at once, each of which asks for four eyes; done when all are."""
    tasks = [
        {"type": "HUMAN", "name": f"review-{n}", "fourEyes": True, "completionEvent": f"YES-{n}", **more}
        for n in range(1, count + 1)
    ]
    regions = {
        f"r{n}": {
            "initial": "asked",
            "states": {"asked": {"on": {f"YES-{n}": "done"}}, "done": {"type": "final"}},
        }
        for n in range(1, count + 1)
    }
    return {
        "id": "eyes",
        "initial": "asking",
        "states": {
            "asking": {
                "type": "parallel",
                "entry": [{"type": "createTask", "task": task} for task in tasks],
                "states": regions,
                "onDone": "done",
            },
            "done": {"type": "final"},
        },
    }


def key_named(api: Api, name: str, role: Role = Role.OPERATOR) -> str:
    """A key of its own for a person."""
    with api.engine.database.transaction() as tx:
        issued = keys.issue_key(
            tx, api.engine.tenant_id, name=name, role=role, secret=read_secret(api.secret)
        )
        return issued.key


def task_of(api: Api, instance_id: str, name: str = "review") -> str:
    """The id of the newest task of this name."""
    listed = (api.get(f"/instances/{instance_id}/tasks").json or {})["items"]
    return str(next(task["id"] for task in listed if task["name"] == name))


def ask(api: Api, **task: Any) -> tuple[str, str]:
    """Start an instance that asks for a review: its id, and that of the task."""
    instance_id = api.start(human(**task))
    return instance_id, task_of(api, instance_id)


def say(api: Api, task_id: str, verb: str, key: str | None = None, **body: Any) -> TestResponse:
    """Say a verb of people to a task."""
    return api.post(f"/tasks/{task_id}/{verb}", body, key=key)


def entries_of(api: Api, instance_id: str, *types: str) -> list[Mapping[str, Any]]:
    """The history entries of some types, after the engine has taken its turns."""
    api.engine.settle()
    return [entry for entry in api.engine.entries(instance_id) if entry["type"] in types]


def is_verified(api: Api, instance_id: str) -> bool:
    verdict = api.get(f"/instances/{instance_id}/verify").json or {}
    return bool(verdict["valid"] and verdict["replayed"])
