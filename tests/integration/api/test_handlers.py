"""GET /handlers: the engine's own types, what runners have published, how many of them live, and the flat view."""

from datetime import timedelta
from typing import Any

import pytest

from common.canonical import dumps
from common.catalogue import OWN
from common.db.now import read_now
from common.ids import WorkerId, new_id
from common.store import workers
from common.store.workers import PublishedHandler
from task_runner.registry import SYSTEM
from tests.integration.api.conftest import Api, problem_of

PRICE = {
    "type": "object",
    "required": ["sku"],
    "properties": {
        "sku": {"type": "string", "description": "Which."},
        "count": {"type": "integer", "default": 1},
    },
}


def publish(api: Api, *types: str, living: int = 0) -> None:
    rows = [
        PublishedHandler(
            kind, name, "What it costs.", light=True, isolated=False, input_schema=dumps(PRICE), output_schema=None,
            retry=dumps({"maxAttempts": 5}),
        )
        for type in types for kind, name in ((type, ""), (SYSTEM, type))
    ]  # fmt: skip
    with api.engine.database.transaction() as tx:
        workers.publish(tx, rows, now=read_now(tx))
    for _ in range(living):
        arrive_with(api, *types)


def arrive_with(api: Api, *types: str, ago: timedelta = timedelta(0), duty: str = "task-runner") -> None:
    with api.engine.database.transaction() as tx:
        workers.register(
            tx, worker=WorkerId(new_id()), duty=duty, host="h", pid=1, version="1",
            types=dumps([*types, SYSTEM]), slots=1, now=read_now(tx) - ago,
        )  # fmt: skip


def listed(api: Api, **query: Any) -> list[tuple[str, str | None]]:
    return [(one["type"], one["name"]) for one in api.get("/handlers", **query).json["items"]]


def test_the_engine_s_own_types_are_there_without_any_runner(api: Api) -> None:
    assert listed(api) == [(type, None) for type in sorted(one.type for one in OWN)]
    poll = api.get("/handlers/POLL").json
    assert (poll["category"], poll["builtIn"], poll["runners"], poll["publishedAt"]) == (
        "flow",
        True,
        None,
        None,
    )
    assert [one["name"] for one in poll["parameters"] if one["required"]] == ["task", "until", "interval"]
    assert poll["examples"][0]["task"]["type"] == "POLL"
    assert poll["inputSchema"]["required"] == ["task", "until", "interval"]


def test_what_runners_publish_is_there_with_those_who_live(api: Api) -> None:
    publish(api, "orders.price", living=2)
    arrive_with(api, "orders.price", ago=timedelta(seconds=60))
    arrive_with(api, "orders.other")

    price = api.get("/handlers/orders.price").json
    assert price | {"publishedAt": "", "inputSchema": {}} == {
        "type": "orders.price",
        "name": None,
        "title": "orders.price",
        "category": "code",
        "description": "What it costs.",
        "inputSchema": {},
        "outputSchema": None,
        "parameters": [
            {"name": "sku", "type": "string", "description": "Which.", "required": True},
            {"name": "count", "type": "integer", "description": "", "required": False, "default": 1},
        ],
        "outputs": [],
        "examples": [],
        "light": True,
        "isolated": False,
        "retry": {"maxAttempts": 5},
        "builtIn": False,
        "runners": 2,
        "publishedAt": "",
    }
    function = api.get("/handlers/SYSTEM", name="orders.price").json
    assert (function["type"], function["name"], function["runners"]) == ("SYSTEM", "orders.price", 2)
    assert api.get("/handlers/SYSTEM").json["title"] == "A registered function"


def test_a_type_that_comes_along_has_a_title_and_examples(api: Api) -> None:
    publish(api, "HTTP")
    http = api.get("/handlers/HTTP").json
    assert (http["category"], http["builtIn"], http["runners"]) == ("api-call", True, 0)
    assert http["examples"][0]["task"]["type"] == "HTTP"


def test_they_are_filtered_by_category(api: Api) -> None:
    publish(api, "orders.price", "HTTP")
    assert listed(api, category="api-call") == [("HTTP", None)]
    assert listed(api, category="code") == [
        ("SYSTEM", "HTTP"),
        ("SYSTEM", "orders.price"),
        ("orders.price", None),
    ]
    assert listed(api, category="none") == []


def test_one_that_is_not_there_is_told_with_a_suggestion(api: Api) -> None:
    publish(api, "orders.price")
    for path, query, said in (
        ("orders.prize", {}, 'did you mean "orders.price"?'),
        ("POL", {}, 'did you mean "POLL"?'),
        ("SYSTEM", {"name": "orders.prize"}, 'did you mean "orders.price"?'),
        ("POLL", {"name": "x"}, "no function"),
    ):
        assert said in problem_of(api.get(f"/handlers/{path}", **query), 404, "handler.not_found")["detail"]


@pytest.mark.parametrize("query", [{"category": "x" * 101}, {"cursor": "x"}, {"name": "x"}])
def test_what_a_list_does_not_take_is_refused(api: Api, query: dict[str, str]) -> None:
    problem_of(api.get("/handlers", **query), 422, "request.invalid")


@pytest.mark.parametrize("type", ["x" * 5_000, "%00", "a%0Ab", "%F0%9F%92%A9", "..%2F..%2Fetc", "'--"])
def test_a_hostile_name_is_not_found_or_refused(api: Api, type: str) -> None:
    answer = api.get(f"/handlers/{type}")
    assert answer.status_code in (400, 404, 414, 422), answer.text
