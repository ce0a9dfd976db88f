"""Lists: filters, pages and cursors."""

from typing import Any

import pytest

from tests.integration.api.conftest import APPROVAL, Api, problem_of


def ids(answer: Any) -> list[str]:
    return [item["id"] for item in answer.json["items"]]


@pytest.fixture
def three(api: Api) -> list[str]:
    """Three instances, oldest first: one that was approved, one that was looked at, one in state review.open."""
    one = api.start(businessKey="b1", labels={"team": "red", "site": "x"})
    two = api.start(businessKey="b2", labels={"team": "red"})
    three = api.start({**APPROVAL, "id": "other-key"}, labels={"team": "blue"})
    api.post(f"/instances/{one}/events", {"type": "APPROVED"})
    api.post(f"/instances/{two}/events", {"type": "LOOKED"})
    api.engine.settle()
    return [one, two, three]


FILTERS: list[tuple[dict[str, Any], list[int]]] = [
    ({}, [2, 1, 0]),
    ({"status": "waiting"}, [2, 1]),
    ({"status": ["waiting", "completed"]}, [2, 1, 0]),
    ({"status": "failed"}, []),
    ({"definitionKey": "approval"}, [1, 0]),
    ({"businessKey": "b1"}, [0]),
    ({"state": "review"}, [2, 1]),
    ({"state": "review.open"}, [2]),
    ({"state": "done"}, [0]),
    ({"state": "Review"}, []),
    ({"state": "open"}, []),
    ({"state": "rev"}, []),
    ({"state": "%"}, []),
    ({"state": 'review","x'}, []),
    ({"label": "team:red"}, [1, 0]),
    ({"label": ["team:red", "site:x"]}, [0]),
    ({"label": "team:"}, []),
    ({"label": 'te"am:red'}, []),
    ({"label": "team:red:more"}, []),
    ({"status": "waiting", "label": "team:red", "definitionKey": "approval"}, [1]),
    ({"createdAfter": "2000-01-01T00:00:00Z"}, [2, 1, 0]),
    ({"createdBefore": "2000-01-01T00:00:00+01:00"}, []),
]


def test_instances_are_filtered(api: Api, three: list[str]) -> None:
    for query, found in FILTERS:
        assert ids(api.get("/instances", **query)) == [three[number] for number in found], query


UNREADABLE: list[dict[str, Any]] = [
    {"status": "asleep"},
    {"label": "no-colon"},
    {"createdAfter": "yesterday"},
    {"createdAfter": "2026-01-01T00:00:00"},
    {"limit": "many"},
    {"limit": "0"},
    {"limit": "-1"},
    {"limit": "1.5"},
    {"limit": ["1", "2"]},
    {"stat": "review"},
    {"businessKey": "a\0b"},
]


def test_a_filter_that_cannot_be_read_is_refused(api: Api) -> None:
    for query in UNREADABLE:
        problem_of(api.get("/instances", **query), 422, "request.invalid", query)


def test_an_unknown_parameter_is_refused_with_what_was_meant(api: Api) -> None:
    problem = problem_of(api.get("/instances", definitionkey="x"), 422, "request.invalid")

    (finding,) = problem["problems"]
    assert (finding["code"], finding["suggestion"]) == ("parameter.unknown", "definitionKey")
    assert 'did you mean "definitionKey"?' in problem["detail"]


def test_where_no_parameter_is_known_each_is_refused(api: Api) -> None:
    instance_id = api.start()

    problem_of(api.get(f"/instances/{instance_id}", verbose="1"), 422, "request.invalid")
    problem_of(api.send_raw("GET", "/health/live?x=1", key=""), 422, "request.invalid")


def test_a_page_longer_than_the_limit_is_refused_by_its_name(api: Api) -> None:
    problem = problem_of(api.get("/instances", limit=201), 422, "limit.exceeded")

    assert (problem["limit"], problem["allowed"]) == ("max_page", 200)


def test_pages_together_are_the_list(api: Api, three: list[str]) -> None:
    for limit in (1, 2, 3, 4):
        seen: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            page = api.get("/instances", limit=limit, label="team:red", **cursor)
            seen += ids(page)
            if page.json["nextCursor"] is None:
                break
            assert len(page.json["items"]) == limit
            cursor = {"cursor": page.json["nextCursor"]}

        assert seen == [three[1], three[0]], limit


def test_what_is_started_meanwhile_does_not_shift_the_pages(api: Api, three: list[str]) -> None:
    first = api.get("/instances", limit=2)
    api.start({**APPROVAL, "id": "late"})

    second = api.get("/instances", limit=2, cursor=first.json["nextCursor"])

    assert ids(first) + ids(second) == [three[2], three[1], three[0]]


def test_a_cursor_goes_with_its_filters(api: Api, three: list[str]) -> None:
    cursor = api.get("/instances", limit=1).json["nextCursor"]

    problem_of(api.get("/instances", cursor=cursor, status="waiting"), 400, "cursor.invalid")
    problem_of(api.get("/tasks", cursor=cursor), 400, "cursor.invalid")
    problem_of(api.get("/instances", cursor=cursor, key=api.other_key), 400, "cursor.invalid")
    problem_of(api.get("/instances", cursor="AAAA"), 400, "cursor.invalid")
    assert ids(api.get("/instances", cursor=cursor, limit=7)) == [three[1], three[0]]


def test_definitions_and_versions_are_paged(api: Api) -> None:
    for number in range(5):
        api.apply({**APPROVAL, "id": f"key-{number}"})
        api.apply({**APPROVAL, "description": f"edition {number}"})

    keys: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = api.get("/definitions", limit=2, **cursor).json
        keys += [item["key"] for item in page["items"]]
        if page["nextCursor"] is None:
            break
        cursor = {"cursor": page["nextCursor"]}
    first = api.get("/definitions/approval/versions", limit=3).json
    second = api.get("/definitions/approval/versions", limit=3, cursor=first["nextCursor"]).json

    assert keys == ["approval", *(f"key-{number}" for number in range(5))]
    assert [item["version"] for item in first["items"] + second["items"]] == [5, 4, 3, 2, 1]
    assert second["nextCursor"] is None


def test_a_page_of_very_large_instances_ends_early(api: Api) -> None:
    api.apply()
    body = {"definitionKey": "approval", "input": "x" * 900_000}
    started = [api.post("/instances", body).json["id"] for _ in range(11)]

    first = api.get("/instances")
    second = api.get("/instances", cursor=first.json["nextCursor"])

    assert len(ids(first)) < 11
    assert ids(first) + ids(second) == started[::-1]


TASKS: dict[str, Any] = {
    "id": "working",
    "initial": "busy",
    "states": {
        "busy": {
            "entry": [
                {
                    "type": "createTask",
                    "task": {"type": kind, "name": kind.lower(), "completionEvent": f"{kind}_DONE"},
                }
                for kind in ("ONE", "TWO")
            ],
            "on": {"ONE_DONE": {}, "TWO_DONE": "done"},
        },
        "done": {"type": "final"},
    },
}


def test_tasks_are_filtered(api: Api) -> None:
    api.engine.handler("ONE", lambda _input: {"ok": True})
    first, second = api.start(TASKS), api.start(TASKS)

    def names(**query: Any) -> list[tuple[str, str]]:
        return [(one["instanceId"], one["type"]) for one in api.get("/tasks", **query).json["items"]]

    assert names(type="ONE") == [(second, "ONE"), (first, "ONE")]
    assert sorted(names(instanceId=first)) == [(first, "ONE"), (first, "TWO")]
    assert names(status="succeeded", instanceId=first) == [(first, "ONE")]
    assert names(status=["pending", "running"]) == [(second, "TWO"), (first, "TWO")]
    assert names(type="THREE") == []
    polled = {**TASKS, "id": "polling"}
    [wanted, _] = [action["task"] for action in TASKS["states"]["busy"]["entry"]]
    given = {"task": {"type": "ONE"}, "until": "output.ok", "interval": "1m", "timeout": "1h"}
    asking = {
        "type": "createTask",
        "task": {**wanted, "type": "POLL", "input": {**given, "checkFirst": True}},
    }
    polled["states"] = {"busy": {"entry": [asking], "on": {"ONE_DONE": "done"}}, "done": {"type": "final"}}
    third = api.start(polled)
    assert names(type="POLL") == [(third, "POLL")]
    assert names(type="ONE") == [(second, "ONE"), (first, "ONE")]
    [task] = api.get(f"/instances/{third}/tasks").json["items"]
    assert task["poll"] | {"lastPolledAt": None} == {
        "type": "ONE",
        "until": "output.ok",
        "intervalMs": 60_000,
        "timeoutMs": 3_600_000,
        "maxAttempts": None,
        "polls": 1,
        "lastPolledAt": None,
    }
    assert task["poll"]["lastPolledAt"] == task["attempts"][0]["startedAt"]
    assert api.get("/tasks", type="ONE").json["items"][0]["poll"] is None
    assert names(instanceId="not-an-id") == []
    assert api.get(f"/instances/{first}/tasks", status="succeeded").json["items"][0]["output"] == {"ok": True}
    problem_of(api.get("/tasks", status="waiting"), 422, "request.invalid")
    problem_of(api.get("/incidents", status="asleep"), 422, "request.invalid")
    assert api.get("/incidents", instanceId="not-an-id").json["items"] == []


def test_items_of_a_map_are_listed_by_it(api: Api) -> None:
    given = {"items": [5, 6, 7], "concurrency": 2, "task": {"type": "ONE", "input": "${item}"}}
    document = {
        "id": "mapping",
        "initial": "busy",
        "states": {
            "busy": {"invoke": {"src": "MAP", "input": given, "onDone": "done"}, "on": {"STOP": "done"}},
            "done": {"type": "final"},
        },
    }
    instance_id = api.start(document)
    api.engine.handler("ONE", lambda input: {"given": input})
    [claim, _] = sorted(api.engine.claim(), key=lambda claim: claim.key)
    api.engine.report(api.engine.call(claim))

    [parent] = api.get("/tasks", type="MAP").json["items"]
    assert parent["items"] == {"total": 3, "succeeded": 1, "failed": 0, "open": 2}
    assert (parent["parentTaskId"], parent["index"]) == (None, None)
    items = api.get("/tasks", parentTaskId=parent["id"]).json["items"]
    assert [(one["index"], one["status"], one["parentTaskId"]) for one in items] == [
        (2, "pending", parent["id"]), (1, "running", parent["id"]), (0, "succeeded", parent["id"]),
    ]  # fmt: skip
    assert items[-1]["output"] == {"given": 5}
    assert items[-1]["items"] is None
    assert api.get("/tasks", parentTaskId="not-an-id").json["items"] == []
    assert api.get("/tasks", parentTaskId=instance_id).json["items"] == []
