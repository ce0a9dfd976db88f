"""Suggestions over HTTP: listed, read, accepted and rejected once, by those who may."""

from typing import Any

import pytest

from tests.integration.api.conftest import Api, problem_of
from tests.integration.api.test_instances import NOBODY
from tests.support.ai import asking, decision, with_ai

SUGGESTING = {"allowedEvents": ["APPROVE"]}


def suggested(api: Api) -> tuple[str, str]:
    """An instance, and the suggestion that waits for it."""
    with_ai(api.engine)
    instance_id = api.start(asking([decision("APPROVE", {"amount": 5})], SUGGESTING))
    [found] = api.get("/suggestions", instanceId=instance_id, status="open").json["items"]
    return instance_id, found["id"]


def test_a_suggestion_is_read_and_accepted(api: Api) -> None:
    instance_id, suggestion_id = suggested(api)

    found = api.get(f"/suggestions/{suggestion_id}").json
    assert (found["event"], found["payload"], found["reason"]) == ("APPROVE", {"amount": 5}, "because")
    answer = api.post(
        f"/suggestions/{suggestion_id}/accept",
        {"comment": "fine"},
        key=api.keys["operator"],
        headers={"Prefer": "wait=0"},
    )
    api.engine.settle()

    assert answer.status_code == 202
    assert answer.json["id"] == instance_id
    [taken] = api.get(f"/instances/{instance_id}").json["context"]["taken"]
    assert taken["source"]["suggestionId"] == suggestion_id
    decided = api.get(f"/suggestions/{suggestion_id}").json
    assert (decided["status"], decided["comment"]) == ("accepted", "fine")
    assert decided["decidedBy"] == answer_actor(api, instance_id)
    problem_of(api.post(f"/suggestions/{suggestion_id}/accept", {}), 409, "suggestion.decided")


def answer_actor(api: Api, instance_id: str) -> str:
    entries = api.get(f"/instances/{instance_id}/history").json["items"]
    [entry] = [one for one in entries if one["type"] == "ai.suggestion.accepted"]
    return str(entry["actor"])


def test_a_suggestion_is_rejected(api: Api) -> None:
    instance_id, suggestion_id = suggested(api)

    answer = api.post(f"/suggestions/{suggestion_id}/reject", {}, headers={"Prefer": "wait=0"})
    api.engine.settle()

    assert answer.status_code == 202
    assert api.get(f"/suggestions/{suggestion_id}").json["status"] == "rejected"
    assert api.get(f"/instances/{instance_id}").json["context"]["taken"] == []


def test_lists_go_by_pages_and_filters(api: Api) -> None:
    first = suggested(api)[1]
    second = suggested(api)[1]

    page = api.get("/suggestions", limit=1).json
    assert [one["id"] for one in page["items"]] == [second]
    rest = api.get("/suggestions", limit=1, cursor=page["nextCursor"]).json
    assert [one["id"] for one in rest["items"]] == [first]
    assert rest["nextCursor"] is None
    assert api.get("/suggestions", instanceId=NOBODY).json["items"] == []
    assert api.get("/suggestions", instanceId="nonsense").json["items"] == []
    assert api.get("/suggestions", key=api.other_key).json["items"] == []
    problem_of(api.get("/suggestions", status="odd"), 422, "request.invalid")


@pytest.mark.parametrize("word", ["accept", "reject"])
def test_who_may_only_read_or_belongs_elsewhere_decides_nothing(api: Api, word: str) -> None:
    _, suggestion_id = suggested(api)
    path = f"/suggestions/{suggestion_id}/{word}"

    problem_of(api.post(path, {}, key=api.keys["viewer"]), 403, "auth.forbidden")
    problem_of(api.post(path, {}, key=api.other_key), 404, "suggestion.not_found")
    assert api.get(f"/suggestions/{suggestion_id}").json["status"] == "open"


@pytest.mark.parametrize(
    "body", [{"comment": "x" * 2_001}, {"comment": 1}, {"event": "PAY_OUT"}, {"payload": {}}, []]
)
def test_nothing_of_a_suggestion_is_changed_by_accepting_it(api: Api, body: Any) -> None:
    _, suggestion_id = suggested(api)

    answer = api.post(f"/suggestions/{suggestion_id}/accept", body)

    assert answer.status_code == 422
    assert api.get(f"/suggestions/{suggestion_id}").json["status"] == "open"
