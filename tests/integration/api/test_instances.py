"""Instances over HTTP: started, sent to, cancelled, noted, read, explained and verified."""

import json
from typing import Any

import pytest

from common.db.tables import Role
from tests.integration.api.conftest import APPROVAL, Api, problem_of

NOBODY = "0199a3c5-7f1e-7c42-9b63-2f4d8e6a1b90"

CRASHING: dict[str, Any] = {
    "id": "crashing",
    "initial": "busy",
    "states": {
        "busy": {
            "entry": {
                "type": "createTask",
                "task": {
                    "type": "CRASH",
                    "name": "crash",
                    "completionEvent": "GONE",
                    "retry": {"maxAttempts": 1},
                },
            },
            "on": {"GONE": "done"},
        },
        "done": {"type": "final"},
    },
}


def crash(_input: Any) -> None:
    raise RuntimeError("as the test wants it")


# -- starting -----------------------------------------------------------------------------------------------------


def test_a_started_instance_is_pending_until_an_orchestrator_takes_it_up(api: Api) -> None:
    api.apply()

    answer = api.post(
        "/instances",
        {"definitionKey": "approval", "input": {"order": 7}, "labels": {"team": "red"}, "priority": 5},
    )

    assert answer.status_code == 201
    instance = answer.json
    assert answer.headers["Location"] == f"/api/v1/instances/{instance['id']}"
    assert instance["status"] == "pending"
    assert instance["definitionVersion"] == 1
    assert instance["input"] == {"order": 7}
    assert instance["context"] == {}
    assert instance["labels"] == {"team": "red"}
    assert instance["priority"] == 5
    assert instance["createdAt"].endswith("Z")

    api.engine.settle()
    settled = api.get(f"/instances/{instance['id']}").json
    assert settled["status"] == "waiting"
    assert settled["configuration"] == ["review.open"]
    assert settled["context"] == {"approved": False}
    assert settled["startedAt"] is not None


def test_a_context_is_laid_over_the_definitions(api: Api) -> None:
    instance_id = api.start(context={"approved": "not yet", "by": None})

    assert api.get(f"/instances/{instance_id}").json["context"] == {"approved": "not yet", "by": None}


def test_an_instance_may_be_started_by_a_version_or_by_an_id(api: Api) -> None:
    first = api.apply()
    api.apply({**APPROVAL, "description": "edition 2"}, activate=False)

    by_version = api.post("/instances", {"definitionKey": "approval", "version": 1})
    by_id = api.post("/instances", {"definitionId": first["id"]})

    assert by_version.json["definitionId"] == by_id.json["definitionId"] == first["id"]
    problem_of(
        api.post("/instances", {"definitionKey": "approval", "version": 2}), 409, "definition.not_active"
    )


def test_what_is_not_there_cannot_be_started(api: Api) -> None:
    api.apply()

    for body in (
        {"definitionKey": "nothing"},
        {"definitionKey": "approval", "version": 9},
        {"definitionId": "not-an-id"},
        {"definitionId": "0199a3c5-7f1e-7c42-9b63-2f4d8e6a1b90"},
    ):
        problem_of(api.post("/instances", body), 404, "definition.not_found", body)


def test_a_business_key_is_held_by_one_live_instance(api: Api) -> None:
    api.apply()
    body = {"definitionKey": "approval", "businessKey": "order-7"}
    first = api.post("/instances", body)

    second = api.post("/instances", body)
    assert (second.status_code, second.json["id"]) == (200, first.json["id"])
    problem_of(api.post("/instances", {**body, "onConflict": "reject"}), 409, "instance.business_key_held")

    api.engine.settle()
    api.post(f"/instances/{first.json['id']}/events", {"type": "APPROVED"})
    api.engine.settle()
    third = api.post("/instances", body)
    assert third.status_code == 201
    assert third.json["id"] != first.json["id"]


def test_an_instance_may_start_later(api: Api) -> None:
    api.apply()

    answer = api.post("/instances", {"definitionKey": "approval", "startAt": "2999-01-01T00:00:00+02:00"})
    api.engine.settle()

    assert answer.status_code == 201
    assert api.get(f"/instances/{answer.json['id']}").json["status"] == "pending"


def test_each_item_of_a_batch_has_a_result_of_its_own(api: Api) -> None:
    api.apply()
    good = {"definitionKey": "approval"}
    items = [good, {"definitionKey": "nothing"}, {"definitonKey": "approval"}, 7, good]

    answer = api.post("/instances:batch", {"instances": items})

    assert answer.status_code == 200
    results = answer.json["items"]
    assert [next(iter(one)) for one in results] == ["instance", "problem", "problem", "problem", "instance"]
    assert results[1]["problem"]["code"] == "definition.not_found"
    assert results[2]["problem"]["problems"][0]["suggestion"] == "definitionKey"
    assert results[3]["problem"]["code"] == "request.invalid"
    assert len(api.get("/instances").json["items"]) == 2
    api.engine.settle()


def test_two_items_of_a_batch_with_one_business_key_are_one_instance(api: Api) -> None:
    api.apply()
    item = {"definitionKey": "approval", "businessKey": "order-7"}

    results = api.post("/instances:batch", {"instances": [item, item]}).json["items"]

    assert results[0]["instance"]["id"] == results[1]["instance"]["id"]


def test_a_batch_is_bounded(api: Api) -> None:
    problem = problem_of(api.post("/instances:batch", {"instances": [{}] * 1_001}), 422, "limit.exceeded")

    assert (problem["limit"], problem["allowed"]) == ("max_batch", 1_000)
    problem_of(api.post("/instances:batch", {"instances": []}), 422, "request.invalid")


# -- sending ------------------------------------------------------------------------------------------------------


def test_an_event_is_accepted_and_consumed_once(api: Api) -> None:
    instance_id = api.start()

    answer = api.post(f"/instances/{instance_id}/events", {"type": "APPROVED", "by": "ada"})
    assert answer.status_code == 202
    assert answer.json["id"] == instance_id
    assert answer.json["status"] == "waiting"

    api.engine.settle()
    assert api.get(f"/instances/{instance_id}").json["status"] == "completed"
    received = [
        entry
        for entry in api.get(f"/instances/{instance_id}/history").json["items"]
        if entry["type"] == "event.received"
    ]
    assert len(received) == 1
    assert received[0]["actor"] == "key:the admin"


def test_an_event_for_a_finished_instance_is_refused(api: Api) -> None:
    instance_id = api.start()
    api.post(f"/instances/{instance_id}/events", {"type": "APPROVED"})
    api.engine.settle()

    problem = problem_of(
        api.post(f"/instances/{instance_id}/events", {"type": "APPROVED"}), 409, "instance.finished"
    )
    assert "completed at" in problem["detail"]


def test_the_engines_own_events_are_not_for_callers(api: Api) -> None:
    instance_id = api.start()

    for name in ("xstate.done.actor.x", "done.task.go", "error.task.go", "xstate.", "due.task.go"):
        problem_of(api.post(f"/instances/{instance_id}/events", {"type": name}), 422, "event.reserved", name)


def test_what_is_no_event_is_refused(api: Api) -> None:
    instance_id = api.start()

    for event in ({}, {"type": 7}, {"type": ""}, {"type": "*"}, {"type": " X"}, [], "X", None, 7):
        answer = api.send_raw(
            "POST",
            f"/api/v1/instances/{instance_id}/events",
            data=json.dumps(event),
            content_type="application/json",
        )
        problem_of(answer, 422, "event.invalid", event)


# -- cancelling and noting ----------------------------------------------------------------------------------------


def test_a_cancel_ends_an_instance(api: Api) -> None:
    instance_id = api.start()

    answer = api.post(
        f"/instances/{instance_id}/cancel", {"reason": "ordered twice"}, headers={"Prefer": "wait=0"}
    )
    assert answer.status_code == 202
    api.engine.settle()

    assert api.get(f"/instances/{instance_id}").json["status"] == "cancelled"
    entries = api.get(f"/instances/{instance_id}/history").json["items"]
    assert any("ordered twice" in str(entry["payload"]) for entry in entries)


def test_a_finished_instance_cannot_be_cancelled(api: Api) -> None:
    instance_id = api.start()
    api.post(f"/instances/{instance_id}/cancel", headers={"Prefer": "wait=0"})
    api.engine.settle()

    problem = problem_of(api.post(f"/instances/{instance_id}/cancel"), 409, "instance.finished")
    assert problem["detail"].startswith(f"cannot cancel instance {instance_id}: cancelled at ")


def test_a_note_stands_in_the_history_of_a_finished_instance_too(api: Api) -> None:
    instance_id = api.start()
    api.post(f"/instances/{instance_id}/cancel", headers={"Prefer": "wait=0"})
    api.engine.settle()

    answer = api.post(f"/instances/{instance_id}/history", {"note": "the customer had called"})
    assert answer.status_code == 202
    api.engine.settle()

    last = api.get(f"/instances/{instance_id}/history").json["items"][-1]
    assert last["type"] == "note"
    assert last["payload"]["note"] == "the customer had called"
    assert api.get(f"/instances/{instance_id}/verify").json["valid"]


# -- reading ------------------------------------------------------------------------------------------------------


def test_history_entries_are_numbered_in_their_row_and_chained(api: Api) -> None:
    instance_id = api.start()
    api.post(f"/instances/{instance_id}/events", {"type": "APPROVED"})
    api.engine.settle()

    entries = api.get(f"/instances/{instance_id}/history").json["items"]

    numbers = [tuple(map(int, entry["sequence"].split("."))) for entry in entries]
    assert numbers[0] == (1, 1)
    assert numbers == sorted(set(numbers))
    assert {row for row, _ in numbers} == {1, 2}
    first, last = entries[0], entries[-1]
    assert first["previousHash"] == "00" * 32
    assert last["previousHash"] == first["hash"]
    assert all("type" not in entry["payload"] for entry in entries)


def test_history_is_paged_entry_by_entry(api: Api) -> None:
    instance_id = api.start()
    for name in ("LOOKED", "NOBODY_KNOWS", "APPROVED"):
        api.post(f"/instances/{instance_id}/events", {"type": name})
    api.engine.settle()
    whole = api.get(f"/instances/{instance_id}/history").json["items"]

    for limit in (1, 2, 3, 100):
        pages: list[Any] = []
        cursor: dict[str, str] = {}
        while True:
            page = api.get(f"/instances/{instance_id}/history", limit=limit, **cursor).json
            assert len(page["items"]) <= limit
            pages += page["items"]
            if page["nextCursor"] is None:
                break
            cursor = {"cursor": page["nextCursor"]}
        assert pages == whole, limit


def test_a_history_is_read_from_a_row_on(api: Api) -> None:
    instance_id = api.start()
    for type_ in ("LOOKED", "APPROVED"):
        api.post(f"/instances/{instance_id}/events", {"type": type_})
    api.engine.settle()
    path = f"/instances/{instance_id}/history"
    whole = api.get(path).json["items"]

    since = [entry for entry in whole if not entry["sequence"].startswith("1.")]
    assert since
    assert api.get(path, since=2).json["items"] == since
    assert api.get(path, since=99).json["items"] == []
    first = api.get(path, since=2, limit=1).json
    rest = api.get(path, since=2, limit=50, cursor=first["nextCursor"]).json
    assert first["items"] + rest["items"] == since
    problem_of(api.get(path, since=0), 422, "request.invalid")
    problem_of(api.get(path, since=2**60), 422, "request.invalid")


def test_a_history_verifies_and_replays(api: Api) -> None:
    instance_id = api.start()
    api.post(f"/instances/{instance_id}/events", {"type": "APPROVED"})
    api.engine.settle()

    assert api.get(f"/instances/{instance_id}/verify").json == {
        "valid": True,
        "entries": 2,
        "replayed": True,
        "erased": 0,
        "problems": [],
    }


def test_a_history_that_takes_too_long_to_verify_is_refused(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.routes.instances.VERIFY_SECONDS", 0.0)
    instance_id = api.start()

    problem = problem_of(api.get(f"/instances/{instance_id}/verify"), 422, "limit.exceeded")

    assert (problem["limit"], problem["allowed"]) == ("max_verify_seconds", 0)
    assert "signalbox doctor" in problem["detail"]


def test_a_failed_instance_is_explained_by_its_incident(api: Api) -> None:
    api.engine.handler("CRASH", crash)
    instance_id = api.start(CRASHING)

    instance = api.get(f"/instances/{instance_id}").json
    assert instance["status"] == "failed"
    (incident,) = api.get("/incidents", instanceId=instance_id).json["items"]
    assert incident["status"] == "open"
    assert incident["waysOut"] == ["retry", "skip", "restart", "cancel"]
    detail = api.get(f"/incidents/{incident['id']}").json
    task = detail.pop("task")
    assert detail == incident
    assert [attempt["error"]["code"] for attempt in task["attempts"]] == [incident["code"]]
    assert "RuntimeError: as the test wants it" in task["attempts"][0]["trace"]
    explained = api.get(f"/instances/{instance_id}/explain").json
    assert explained["status"] == "failed"
    assert [one["id"] for one in explained["incidents"]] == [incident["id"]]


def test_a_waiting_instance_is_explained_by_its_states_and_its_inbox(api: Api) -> None:
    instance_id = api.start()
    api.post(f"/instances/{instance_id}/events", {"type": "LOOKED"})

    explained = api.get(f"/instances/{instance_id}/explain").json

    assert explained["inbox"] == {"ready": 1, "parked": 0}
    assert "review.open" in str(explained["chart"])


def test_an_instance_that_has_not_started_has_no_account_of_its_chart(api: Api) -> None:
    api.apply()
    instance_id = api.post("/instances", {"definitionKey": "approval"}).json["id"]

    explained = api.get(f"/instances/{instance_id}/explain").json

    assert explained["chart"] is None
    assert explained["inbox"] == {"ready": 1, "parked": 0}


def test_a_task_is_read_with_every_attempt_at_it(api: Api) -> None:
    api.engine.handler("CRASH", crash)
    instance_id = api.start(CRASHING)

    (task,) = api.get(f"/instances/{instance_id}/tasks").json["items"]

    read = api.get(f"/tasks/{task['id']}").json
    assert "as the test wants it" in read["attempts"][0].pop("trace")
    assert task["attempts"][0].pop("trace") is None, "a page of them would be heavy"
    assert task == read
    assert (task["type"], task["name"], task["status"]) == ("CRASH", "crash", "failed")
    (attempt,) = task["attempts"]
    assert (attempt["attempt"], attempt["outcome"]) == (1, "failed")
    assert "as the test wants it" in task["error"]["message"]
    assert attempt["error"] == task["error"]
    assert attempt["progress"] is None


def test_what_is_not_there_is_not_found(api: Api) -> None:
    for instance_id in ("not-an-id", NOBODY, NOBODY.upper()):
        for path in ("", "/tasks", "/history", "/verify", "/explain"):
            problem_of(api.get(f"/instances/{instance_id}{path}"), 404, "instance.not_found", path)


def test_the_figures_count_what_there_is(api: Api) -> None:
    api.start()
    api.post("/instances", {"definitionKey": "approval"})

    stats = api.get("/stats", key=api.keys[Role.VIEWER]).json

    assert stats["instances"] == {"waiting": 1, "pending": 1}
    assert stats["tasks"] == {}
    assert stats["inbox"]["waiting"] == 1
    assert 0 <= stats["inbox"]["oldestSeconds"] < 60
    assert stats["stalled"] == 0
    assert stats["workers"] == []
