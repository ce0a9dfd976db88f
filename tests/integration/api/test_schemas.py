"""Schemas at the door and at run time: literal inputs of tasks, and the input and events of a definition."""

from typing import Any

import pytest

from common.canonical import dumps
from common.db.now import read_now
from common.store import workers
from common.store.workers import PublishedHandler
from tests.integration.api.conftest import Api, problem_of

PRICE = {
    "type": "object",
    "required": ["sku", "count"],
    "additionalProperties": False,
    "properties": {"sku": {"type": "string"}, "count": {"type": "integer", "minimum": 1}},
}


def publish(api: Api, type: str, schema: Any, name: str = "") -> None:
    row = PublishedHandler(
        type, name, "", light=False, isolated=False, input_schema=dumps(schema), output_schema=None
    )
    with api.engine.database.transaction() as tx:
        workers.publish(tx, [row], now=read_now(tx))


def document(*tasks: dict[str, Any], **root: Any) -> dict[str, Any]:
    return {
        "id": "priced",
        "initial": "a",
        "states": {
            "a": {
                "entry": [
                    {"type": "log", "message": "here"},
                    *({"type": "createTask", "task": task} for task in tasks),
                ],
                "on": {"GO": "b"},
            },
            "b": {"type": "final"},
        },
        **root,
    }


def found(api: Api, *tasks: dict[str, Any], **root: Any) -> list[tuple[str, str]]:
    problems = api.post("/definitions/check", {"document": document(*tasks, **root)}).json["problems"]
    return [(one["code"], one["path"]) for one in problems if one["severity"] == "error"]


def test_literal_inputs_are_checked_where_they_stand(api: Api) -> None:
    publish(api, "price", PRICE)
    publish(api, "SYSTEM", PRICE, "price")
    wrong = {"sku": 7, "count": "${context.count}"}

    assert found(api, {"type": "price", "input": {"sku": "${input.sku}", "count": 1}}) == []
    at = "states.a.entry[1].task.input"
    for task, place in (
        ({"type": "price", "input": wrong}, f"{at}.sku"),
        ({"type": "price"}, at),
        ({"type": "SYSTEM", "name": "price", "input": wrong}, f"{at}.sku"),
        ({"type": "MAP", "input": {"items": [1], "task": {"type": "price", "input": wrong}}}, f"{at}.task.input.sku"),
        (
            {
                "type": "POLL",
                "input": {"task": {"type": "price", "input": wrong}, "until": "output.a", "interval": "5s"},
            },
            f"{at}.task.input.sku",
        ),
        ({"type": "LOG", "input": {"message": "x", "level": "loud"}}, f"{at}.level"),
        ({"type": "EMIT", "input": {"event": {"typ": "X"}}}, at),
    ):  # fmt: skip
        assert found(api, task) == [("task.input", place)], task
    invoke = {"a": {"invoke": {"src": "price", "input": wrong, "onDone": "b"}}, "b": {"type": "final"}}
    assert found(api, states=invoke) == [("task.input", "states.a.invoke.input.sku")]


def test_a_definition_with_a_wrong_input_is_refused_with_a_suggestion(api: Api) -> None:
    publish(api, "price", PRICE)
    task = {"type": "price", "input": {"sku": "a", "count": 1, "cuont": 2}}
    problem = problem_of(api.post("/definitions", {"document": document(task)}), 422, "definition.invalid")
    [told] = problem["problems"]
    assert (told["code"], told["suggestion"]) == ("task.input", "count")


INPUT = {"type": "object", "required": ["order"], "properties": {"order": {"type": "integer"}}}
EVENTS = {"GO": {"type": "object", "properties": {"by": {"type": "string"}}, "required": ["by"]}}


def test_starts_and_sends_are_held_to_what_the_definition_says(api: Api) -> None:
    api.apply(document(input=INPUT, events=EVENTS))
    key = {"definitionKey": "priced"}

    problem = problem_of(api.post("/instances", {**key, "input": {"order": "x"}}), 422, "input.invalid")
    assert [(one["path"], one["message"]) for one in problem["problems"]] == [
        ("order", 'the value is not of type "integer"')
    ]
    problem_of(api.post("/instances", key), 422, "input.invalid")
    assert api.get("/instances").json["items"] == []

    started = api.post("/instances", {**key, "input": {"order": 7}})
    assert started.status_code == 201
    api.engine.settle()
    events = f"/instances/{started.json['id']}/events"
    problem = problem_of(api.post(events, {"type": "GO", "by": 7}), 422, "event.invalid")
    assert [one["path"] for one in problem["problems"]] == ["by"]
    assert api.post(events, {"type": "OTHER", "by": 7}).status_code == 202
    assert api.post(events, {"type": "GO", "by": "ada"}).status_code == 202
    api.engine.settle()
    assert api.get(f"/instances/{started.json['id']}").json["status"] == "completed"
    problem_of(api.post(events, {"type": "GO", "by": 7}), 409, "instance.finished")


def test_a_batch_says_which_start_is_wrong(api: Api) -> None:
    api.apply(document(input=INPUT))
    starts = [{"definitionKey": "priced", "input": {"order": order}} for order in (1, "x")]
    answer = api.post("/instances:batch", {"instances": starts}).json["items"]
    assert "instance" in answer[0]
    assert answer[1]["problem"]["code"] == "input.invalid"


def test_a_child_whose_input_is_wrong_is_refused_to_its_parent(api: Api) -> None:
    api.apply(document(input=INPUT))
    parent = {
        "id": "parent",
        "initial": "a",
        "context": {},
        "states": {
            "a": {
                "entry": [{"type": "startWorkflow", "definitionKey": "priced", "input": {"order": "x"}}],
                "on": {
                    "error.workflow.priced": {
                        "target": "b",
                        "actions": [{"type": "assign", "path": "why", "value": "${event.error.code}"}],
                    }
                },
            },
            "b": {"type": "final"},
        },
    }
    instance_id = api.start(parent)
    api.engine.settle()
    assert api.get(f"/instances/{instance_id}").json["context"] == {"why": "input.invalid"}


@pytest.mark.parametrize(
    ("root", "path"),
    [
        ({"input": {"type": "objct"}}, "input.type"),
        ({"input": "object"}, "input"),
        ({"input": {"$ref": "http://169.254.169.254/x"}}, "input"),
        ({"input": {"$ref": "file:///etc/passwd"}}, "input"),
        ({"input": {"properties": {"a": {"$ref": "#"}}}}, "input"),
        ({"input": {"pattern": "(a+)+\\1"}}, "input.pattern"),
        ({"events": ["GO"]}, "events"),
        ({"events": {"GO": {"type": 7}}}, "events.GO.type"),
        ({"events": {f"E{n}": {} for n in range(501)}}, "events"),
    ],
)
def test_a_definition_whose_schemas_are_none_is_refused(api: Api, root: Any, path: str) -> None:
    assert found(api, **root) == [("schema.invalid", path)]
