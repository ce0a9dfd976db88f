"""Every door has its limit, and says which: what a caller sends, what a handler brings, what a step makes of it."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from werkzeug.test import TestResponse

from common.canonical import dumps
from common.commands.outcome import Outcome
from common.config import Limits
from common.lifecycle import InstanceStatus
from task_runner.call import call_handler
from task_runner.context import TaskContext
from task_runner.metadata_rows import MetadataRows
from task_runner.registry import Continue
from tests.integration.api.conftest import APPROVAL, Api, problem_of
from tests.integration.api.test_instances import CRASHING, crash
from tests.integration.engine.documents import ON_SQLITE, one_task

pytestmark = ON_SQLITE
ALLOWED = 3_000


@pytest.fixture
def limits() -> Limits:
    """Every limit that counts bytes at 3,000, the body aside."""
    return Limits(
        max_body_bytes=300_000,
        max_definition_bytes=ALLOWED,
        max_event_bytes=ALLOWED,
        max_context_bytes=ALLOWED,
        max_output_bytes=ALLOWED,
        max_page=10,
        max_batch=2,
    )


LARGE = "x" * (ALLOWED + 1)
Ask = Callable[[Api, str], TestResponse]


def put(api: Api, path: str, body: Any) -> TestResponse:
    return api.send_raw("PUT", f"/api/v1{path}", json=body)


def resolve(api: Api, _instance_id: str) -> TestResponse:
    api.engine.handler("CRASH", crash)
    api.start(CRASHING)
    (incident,) = api.get("/incidents").json["items"]
    return api.post(f"/incidents/{incident['id']}/resolve", {"way": "skip", "output": LARGE})


DOORS: dict[str, tuple[Ask, int, str]] = {
    "a body": (lambda api, _: api.post("/instances", {"definitionKey": "x" * 300_000}), 413, "max_body_bytes"),
    "a definition": (
        lambda api, _: api.post("/definitions", {"document": {**APPROVAL, "description": LARGE}}),
        413,
        "max_definition_bytes",
    ),
    "a definition to check": (
        lambda api, _: api.post("/definitions/check", {"document": {**APPROVAL, "description": LARGE}}),
        413,
        "max_definition_bytes",
    ),
    "a definition to simulate": (
        lambda api, _: api.post("/definitions/simulate", {"document": {**APPROVAL, "description": LARGE}}),
        413,
        "max_definition_bytes",
    ),
    "an event to simulate": (
        lambda api, _: api.post(
            "/definitions/simulate", {"document": APPROVAL, "events": [{"type": "X", "data": LARGE}]}
        ),
        413,
        "max_event_bytes",
    ),
    "events to simulate": (
        lambda api, _: api.post("/definitions/simulate", {"document": APPROVAL, "events": [{"type": "X"}] * 3}),
        422,
        "max_batch",
    ),
    "an event": (
        lambda api, it: api.post(f"/instances/{it}/events", {"type": "X", "data": LARGE}),
        413,
        "max_event_bytes",
    ),
    "an input": (
        lambda api, _: api.post("/instances", {"definitionKey": "approval", "input": LARGE}),
        413,
        "max_event_bytes",
    ),
    "a context": (
        lambda api, _: api.post("/instances", {"definitionKey": "approval", "context": {"x": LARGE}}),
        413,
        "max_event_bytes",
    ),
    "a context to restart with": (
        lambda api, it: api.post(f"/instances/{it}/restart", {"context": {"x": LARGE}}),
        413,
        "max_event_bytes",
    ),
    "a batch": (lambda api, _: api.post("/instances:batch", {"instances": [{}] * 3}), 422, "max_batch"),
    "an output by hand": (resolve, 413, "max_output_bytes"),
    "metadata": (
        lambda api, it: put(api, f"/instances/{it}/metadata/k", {"value": "x" * 64_000}),
        413,
        "max_metadata_bytes",
    ),
    "a configuration value": (
        lambda api, _: api.post("/configs", {"module": "m", "key": "k", "value": "x" * 64_000}),
        413,
        "max_config_bytes",
    ),
    "nesting": (
        lambda api, it: api.send_raw(
            "POST", f"/api/v1/instances/{it}/events",
            data='{"type": "X", "data": ' + "[" * 70 + "]" * 70 + "}", content_type="application/json",
        ),
        422,
        "max_json_depth",
    ),
    "members": (
        lambda api, it: api.post(f"/instances/{it}/events", {"type": "X", "data": [0] * 200_001}),
        413,
        "max_body_bytes",
    ),
    "a page": (lambda api, it: api.get(f"/instances/{it}/results", limit=11), 422, "max_page"),
}  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
def test_what_a_caller_sends_has_a_limit_that_is_named(api: Api, door: str) -> None:
    ask, status, limit = DOORS[door]
    instance_id = api.start()

    problem = problem_of(ask(api, instance_id), status, "limit.exceeded", door)

    assert problem["limit"] == limit
    assert problem["allowed"] > 0
    assert f"{problem['allowed']}" in problem["detail"].replace(",", "")


SHORT_TEXTS: dict[str, tuple[Ask, str]] = {
    "a note": (lambda api, it: api.post(f"/instances/{it}/history", {"note": "x" * 10_001}), "note"),
    "a reason": (lambda api, it: api.post(f"/instances/{it}/pause", {"reason": "x" * 2_001}), "reason"),
    "a business key": (
        lambda api, _: api.post("/instances", {"definitionKey": "approval", "businessKey": "x" * 501}),
        "businessKey",
    ),
    "a label": (
        lambda api, _: api.post("/instances", {"definitionKey": "approval", "labels": {"a": "x" * 501}}),
        "labels.a",
    ),
    "labels": (
        lambda api, _: api.post(
            "/instances", {"definitionKey": "approval", "labels": {str(n): "" for n in range(51)}}
        ),
        "labels",
    ),
    "the description of a value": (
        lambda api, _: api.post(
            "/configs", {"module": "m", "key": "k", "value": 1, "description": "x" * 2_001}
        ),
        "description",
    ),
    "a key of configuration": (
        lambda api, _: api.post("/configs", {"module": "m", "key": "k" * 201, "value": 1}),
        "key",
    ),
}


@pytest.mark.parametrize("door", SHORT_TEXTS)
def test_a_text_that_is_too_long_is_refused_by_its_member(api: Api, door: str) -> None:
    ask, member = SHORT_TEXTS[door]
    instance_id = api.start()

    problem = problem_of(ask(api, instance_id), 422, "request.invalid", door)

    assert [finding["path"] for finding in problem["problems"]] == [member]


HANDLERS: dict[str, tuple[Callable[[TaskContext], Any], str]] = {
    "an output": (lambda _context: LARGE, "output.too_large"),
    "a state to go on from": (lambda _context: Continue(LARGE, timedelta(0)), "output.too_large"),
    "progress": (lambda context: context.heartbeat("x" * 64_000), "progress.too_large"),
    "metadata": (lambda context: context.metadata.set("k", "x" * 64_000), "limit.exceeded"),
    "a metadata key": (lambda context: context.metadata.set("k" * 201, 1), "Invalid"),
}


@pytest.mark.parametrize("door", HANDLERS)
def test_what_a_handler_brings_has_a_limit_and_fails_its_attempt(api: Api, door: str) -> None:
    work, code = HANDLERS[door]
    engine = api.engine
    engine.handler("work", lambda _input, context: work(context))
    engine.start(one_task())
    engine.advance()
    [claim] = engine.claim()
    context = TaskContext(claim, metadata=MetadataRows(claim, engine.database))

    outcome: Outcome = call_handler(engine.registry, claim, context, max_output_bytes=ALLOWED)
    engine.report(outcome)

    assert outcome.error is not None
    assert outcome.error.code == code
    assert "at most" in outcome.error.message or "1 to 200" in outcome.error.message


def test_an_error_is_cut_where_it_is_too_long(api: Api) -> None:
    def fail(_input: Any) -> None:
        raise ValueError("x" * 100_000)

    api.engine.handler("work", fail)
    api.engine.start(one_task(retry=1))
    api.engine.settle()

    (incident,) = api.get("/incidents").json["items"]
    assert len(dumps(incident["detail"])) < 20_000


def test_a_context_that_grows_too_large_stops_its_instance_and_nothing_is_stored(api: Api) -> None:
    engine = api.engine
    engine.advancing = type(engine.advancing)(engine.database, ALLOWED)
    growing = {
        "id": "growing",
        "initial": "a",
        "context": {"all": ""},
        "states": {
            "a": {"on": {"ADD": {"actions": [{"type": "assign", "path": "all", "value": "${context.all + event.x}"}]}}}
        },
    }  # fmt: skip
    instance_id = api.start(growing)
    for _ in range(3):
        engine.send(instance_id, "ADD", x="y" * 1_000)
        engine.settle()

    assert engine.status(instance_id) is InstanceStatus.FAILED
    (incident,) = api.get("/incidents").json["items"]
    assert (incident["code"], incident["detail"]) == (
        "limit.context",
        {"limit": "max_context_bytes", "allowed": ALLOWED},
    )
    assert len(engine.context(instance_id)["all"]) == 2_000


def test_a_list_without_a_limit_keeps_to_what_is_allowed(api: Api) -> None:
    api.apply()
    for _ in range(12):
        api.post("/instances", {"definitionKey": "approval"})

    assert len(api.get("/instances").json["items"]) == 10
