"""Parents and children over HTTP: who belongs to whom, and what a parent waits for."""

from typing import Any

import pytest

from common.ids import new_id
from common.store import overview
from orchestrator.advance import advance_pass
from orchestrator.laps import Sweep
from tests.integration.api.conftest import APPROVAL, Api
from tests.integration.engine.children import parent, with_task


def with_child(api: Api) -> tuple[str, str]:
    """A parent that waits, and its child."""
    api.apply()
    instance_id = api.start(parent("approval", businessKey="order-1"))
    [child] = api.get("/instances", parentId=instance_id).json["items"]
    return instance_id, child["id"]


def test_a_child_names_its_parent_and_is_listed_as_its_child(api: Api) -> None:
    instance_id, child = with_child(api)

    body = api.get(f"/instances/{child}").json
    assert (body["parentId"], body["depth"], body["definitionKey"]) == (instance_id, 1, APPROVAL["id"])
    assert api.get(f"/instances/{instance_id}").json["depth"] == 0
    for nobody in (child, new_id(), "no-id"):
        assert api.get("/instances", parentId=nobody).json["items"] == []


def test_children_of_another_tenant_are_not_listed(api: Api) -> None:
    instance_id, _ = with_child(api)

    assert api.get("/instances", parentId=instance_id, key=api.other_key).json["items"] == []


def test_an_explanation_shows_the_children_and_what_stopped_them(api: Api) -> None:
    def broken(input: object, context: object) -> None:
        raise ValueError("out of stock")

    api.engine.handler("work", broken)
    failing = {"src": "work", "retry": {"maxAttempts": 1}}
    api.engine.apply({"id": "failing", "initial": "a", "states": {"a": {"invoke": failing}}})
    instance_id = api.start(parent("failing"))

    explained = api.get(f"/instances/{instance_id}/explain").json

    [child] = explained["children"]
    assert (explained["status"], child["status"], child["key"]) == ("waiting", "failed", "waiting/1/1")
    assert "out of stock" in child["incidents"][0]["message"]
    [waited] = explained["chart"]["children"]
    assert [answer["type"] for answer in waited["answers"]] == [
        "done.workflow.failing",
        "error.workflow.failing",
    ]


def test_an_ended_child_is_explained_no_more_and_still_listed(api: Api) -> None:
    instance_id, child = with_child(api)
    api.post(f"/instances/{child}/events", {"type": "APPROVED"})
    api.engine.settle()

    assert api.get(f"/instances/{instance_id}").json["status"] == "completed"
    assert api.get(f"/instances/{instance_id}/explain").json["children"] == []
    assert [one["id"] for one in api.get("/instances", parentId=instance_id).json["items"]] == [child]


@pytest.mark.parametrize(
    "document", [parent("approval"), with_task(child="approval")], ids=["action", "task"]
)
def test_a_parent_has_settled_when_its_children_have(api: Api, document: dict[str, Any]) -> None:
    """A child that waits for a person is at rest, and so is its parent; one that is on its way is not."""
    api.apply()
    api.apply(document)
    engine = api.engine
    instance_id = engine.start("parent")

    def has_settled() -> bool:
        with engine.database.reading() as tx:
            found = overview.read_settling(tx, engine.tenant_id, instance_id)
        assert found is not None
        return found[1]

    assert not has_settled()
    sweep = Sweep()
    advance_pass(engine.advancing, sweep)
    assert api.get("/instances", parentId=instance_id).json["items"][0]["status"] == "pending"
    assert not has_settled()
    engine.settle()
    assert has_settled()

    [child] = api.get("/instances", parentId=instance_id).json["items"]
    engine.send(child["id"], "APPROVED")
    assert not has_settled()
    engine.settle()
    assert has_settled()
