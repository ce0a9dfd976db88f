"""Deleted instances over HTTP: 410 with what is left, for their owner; figures."""

from datetime import timedelta
from typing import Any

from api.app import services_of
from common.retention import Keeping
from orchestrator.retention import sweep
from tests.integration.api.conftest import APPROVAL, Api, problem_of
from tests.support.manual_clock import ManualClock

KEPT = {**APPROVAL, "retention": {"default": "30d"}}


def deleted(api: Api, clock: ManualClock) -> str:
    instance_id = api.start(KEPT)
    api.post(f"/instances/{instance_id}/events", {"type": "APPROVED"})
    api.engine.settle()
    clock.advance(timedelta(days=31))
    services_of(api.app).tenants.dispose()  # a session reads the clock when it begins
    assert api.get("/retention").json["due"] == 1
    assert sweep(api.engine.database, Keeping(), rest=lambda _seconds: False) == 1
    return instance_id


def test_a_deleted_instance_is_gone_for_its_owner_and_unknown_to_others(api: Api, clock: ManualClock) -> None:
    instance_id = deleted(api, clock)
    for path in ("", "/tasks", "/history", "/verify", "/explain"):
        answer = api.get(f"/instances/{instance_id}{path}")
        problem = problem_of(answer, 410, "instance.deleted", path)
        problem_of(
            api.get(f"/instances/{instance_id}{path}", key=api.other_key), 404, "instance.not_found", path
        )
    told = {
        name: problem[name]
        for name in ("definitionKey", "instanceStatus", "finishedAt", "deletedAt", "sequence")
    }
    assert told == {
        "definitionKey": "approval",
        "instanceStatus": "completed",
        "finishedAt": "2026-03-01T12:00:00.000000Z",
        "deletedAt": "2026-04-01T12:00:00.000000Z",
        "sequence": 2,
    }
    posts: dict[str, Any] = {
        "events": {"type": "X"},
        "history": {"note": "n"},
        "cancel": {},
        "erase": {},
        "retry": {},
    }
    for verb, body in posts.items():
        problem_of(api.post(f"/instances/{instance_id}/{verb}", body), 410, "instance.deleted", verb)
    assert api.get("/instances").json["items"] == []


def test_figures_tell_what_is_due_and_what_went(api: Api, clock: ManualClock) -> None:
    deleted(api, clock)
    found = api.get("/retention", key=api.keys["viewer"]).json
    assert (found["due"], found["deleted"]) == (0, 1)
    assert found["keptDays"] == {"completed": None, "cancelled": None, "timed_out": None}
    assert api.get("/retention", key=api.other_key).json["deleted"] == 0


def test_a_retention_that_is_none_is_refused_at_the_door(api: Api) -> None:
    for written, path in (
        ({"completed": "soon"}, "retention.completed"),
        ({"timedOut": -1}, "retention.timedOut"),
        ({"default": "1 month"}, "retention.default"),
    ):
        answer = api.post("/definitions", {"document": {**APPROVAL, "retention": written}})
        problem = problem_of(answer, 422, "definition.invalid", written)
        assert [one["path"] for one in problem["problems"]] == [path]
    answer = api.post("/definitions", {"document": {**APPROVAL, "retention": {"failed": "1d"}}})
    problem_of(answer, 422, "definition.invalid")
