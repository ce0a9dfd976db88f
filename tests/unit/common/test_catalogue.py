"""The catalogue of task types is true: its examples pass the door and run, and what they give is as its schemas say."""

from datetime import UTC, datetime
from typing import Any

import pytest

from common.canonical import dumps
from common.catalogue import ALONG, CATALOGUE, OWN, Example, TaskType, members_of
from common.commands.definitions import find_problems
from common.schemas import compile_schema
from common.store.definitions import PublishedTypes
from signalbox.testing import Run, Workflow, succeeds
from statechart.effects import NOT_RUN_BY_A_RUNNER
from statechart.polls import POLL
from statechart.tasks import INSTANT_TYPES
from task_runner import handlers
from task_runner.handlers.email import compose
from task_runner.handlers.http_request import check_input
from task_runner.registry import REGISTRY, Permanent

assert handlers.__all__  # importing them registers them

WHEN = datetime(2026, 3, 1, tzinfo=UTC)
PUBLISHED = PublishedTypes(
    frozenset(REGISTRY.types()),
    frozenset(REGISTRY.functions()),
    frozenset({"shipment"}),
    {(one.name, ""): dumps(dict(one.input_schema)) for one in REGISTRY.all() if one.input_schema},
)
EXAMPLES = [pytest.param(one, example, id=one.type) for one in CATALOGUE.values() for example in one.examples]


def document(task: Any) -> dict[str, Any]:
    done = {"target": "done", "actions": [{"type": "assign", "path": "output", "value": "${event.output}"}]}
    return {
        "id": "example",
        "initial": "working",
        "context": {},
        "states": {
            "working": {
                "entry": [{"type": "createTask", "task": {**task, "completionEvent": "DONE"}}],
                "on": {"DONE": done},
            },
            "done": {"type": "final"},
        },
    }


def test_every_type_that_no_runner_executes_is_in_it() -> None:
    assert {one.type for one in OWN} == {*NOT_RUN_BY_A_RUNNER, *INSTANT_TYPES, POLL}
    assert {one.type for one in ALONG} == {*(one.name for one in REGISTRY.all() if one.built_in), "SYSTEM"}
    assert all(one.description and one.examples for one in OWN)


@pytest.mark.parametrize(("one", "example"), EXAMPLES)
def test_its_example_passes_the_door(one: TaskType, example: Example) -> None:
    assert example.task["type"] == one.type
    assert find_problems(document(example.task), PUBLISHED) == []


@pytest.mark.parametrize("one", OWN, ids=lambda one: one.type)
def test_its_schemas_are_some(one: TaskType) -> None:
    for schema in (one.input_schema, one.output_schema):
        assert schema is not None
        compile_schema(dict(schema), trusted=True)


RUNNABLE = [each for each in EXAMPLES if each.id not in ("HTTP", "EMAIL", "AI")]


@pytest.mark.parametrize(("one", "example"), RUNNABLE)
def test_its_example_runs(one: TaskType, example: Example) -> None:
    workflow = Workflow.load(document(example.task), handlers=True)
    if one.type == "HUMAN":
        workflow.task("HUMAN", succeeds({"approved": True}))
    run: Run = workflow.start()
    while run.timers or (run.status == "running" and run.tasks):
        run.advance()
    run.expect(status="completed")
    output = run.context["output"]
    schema = {} if one.output_schema is None else dict(one.output_schema)
    assert compile_schema(schema, trusted=True).problems(output) == []
    given = {} if one.input_schema is None else dict(one.input_schema)
    assert compile_schema(given, trusted=True).problems(example.task.get("input")) == []


# -- schemas that stand beside checks of their own ------------------------------------------------------------------

HTTP: list[tuple[Any, bool]] = [
    ({"method": "GET", "url": "https://x.example/"}, True),
    ({"method": "POST", "url": "https://x.example/", "json": {"a": 1}, "query": {"q": [1, "b"]}}, True),
    ({"method": "POST", "url": "https://x.example/", "body": "a", "headers": {"X-A": "b"}}, True),
    ({"method": "GET", "url": "https://x.example/", "expect": ["2xx", "404"], "maxBytes": 10}, True),
    (None, False),
    ({"url": "https://x.example/"}, False),
    ({"method": "GET"}, False),
    ({"method": "get", "url": "https://x.example/"}, False),
    ({"method": "GET", "url": "ftp://x.example/"}, False),
    ({"method": "GET", "url": 7}, False),
    ({"method": "GET", "url": "https://x.example/", "header": {}}, False),
    ({"method": "GET", "url": "https://x.example/", "headers": {"X-A": 7}}, False),
    ({"method": "POST", "url": "https://x.example/", "json": 1, "body": "a"}, False),
    ({"method": "GET", "url": "https://x.example/", "expect": ["3x"]}, False),
    ({"method": "GET", "url": "https://x.example/", "expect": []}, False),
    ({"method": "GET", "url": "https://x.example/", "maxBytes": 0}, False),
]
EMAIL: list[tuple[Any, bool]] = [
    ({"to": "a@x.io"}, True),
    ({"to": ["a@x.io", "b@x.io"], "cc": "c@x.io", "subject": "s", "text": "t"}, True),
    (None, False),
    ({"subject": "s"}, False),
    ({"to": 7}, False),
    ({"to": [7]}, False),
    ({"to": "a@x.io", "txt": "t"}, False),
    ({"to": "a@x.io", "template": "welcome", "text": "t"}, False),
]


def is_accepted(check: Any) -> bool:
    try:
        check()
    except Permanent:
        return False
    return True


@pytest.mark.parametrize(("given", "is_good"), HTTP)
def test_the_schema_of_http_agrees_with_its_check(given: Any, is_good: bool) -> None:
    schema = compile_schema(dict(REGISTRY.find("HTTP", "").input_schema or {}))
    assert (schema.problems(given) == []) is is_good
    assert is_accepted(lambda: check_input(given, idempotency_key="k", max_output_bytes=1_000)) is is_good


@pytest.mark.parametrize(("given", "is_good"), EMAIL)
def test_the_schema_of_email_agrees_with_its_check(given: Any, is_good: bool) -> None:
    schema = compile_schema(dict(REGISTRY.find("EMAIL", "").input_schema or {}))
    assert (schema.problems(given) == []) is is_good
    assert is_accepted(lambda: compose(given, sender="s@x.io", key="k", date=WHEN)) is is_good


# -- the flat view ------------------------------------------------------------------------------------------------


def test_members_are_told_flat() -> None:
    schema = {
        "type": "object",
        "required": ["a"],
        "properties": {
            "a": {"type": "string", "maxLength": 5, "description": "An a."},
            "b": {"type": ["integer", "null"], "minimum": 1, "default": 3},
            "c": {"oneOf": [{"type": "string"}, {"type": "array", "items": {}}]},
            "d": {"enum": ["x", "y"]},
            "e": True,
            "f": {"anyOf": [{"type": "string"}, {}]},
        },
    }
    assert members_of(schema) == [
        {"name": "a", "type": "string", "description": "An a.", "required": True, "maxLength": 5},
        {
            "name": "b",
            "type": "integer or null",
            "description": "",
            "required": False,
            "default": 3,
            "min": 1,
        },
        {"name": "c", "type": "string or array", "description": "", "required": False},
        {"name": "d", "type": "string", "description": "", "required": False, "enum": ["x", "y"]},
        {"name": "e", "type": "any", "description": "", "required": False},
        {"name": "f", "type": "any", "description": "", "required": False},
    ]


@pytest.mark.parametrize("schema", [None, True, {}, {"type": "string"}, {"properties": 7}])
def test_what_has_no_members_has_none(schema: Any) -> None:
    assert members_of(schema) == []
