"""Erasure over HTTP: one, many, and what is refused."""

from typing import Any

import pytest

from tests.integration.api.conftest import Api, problem_of

SECRET = "Xq-somebody"


def ended(api: Api, **more: Any) -> str:
    instance_id = api.start(input={"name": SECRET}, **more)
    api.post(f"/instances/{instance_id}/events", {"type": "APPROVED", "by": SECRET})
    api.engine.settle()
    return instance_id


def shown(api: Api, instance_id: str) -> str:
    """Everything that the API tells of an instance."""
    paths = ("", "/tasks", "/history", "/verify", "/explain")
    return "\n".join(api.get(f"/instances/{instance_id}{path}").text for path in paths)


def test_an_erased_instance_says_so_and_nothing_else(api: Api) -> None:
    instance_id = ended(api, labels={"subject": SECRET}, businessKey=SECRET)
    assert SECRET in shown(api, instance_id)

    key = {"Idempotency-Key": "erase-1"}
    for _ in range(2):
        answer = api.post(f"/instances/{instance_id}/erase", {"reason": "request 117"}, headers=key)
        assert (answer.status_code, answer.json) == (202, {"instanceId": instance_id, "status": "accepted"})
    api.engine.settle()

    assert SECRET not in shown(api, instance_id)
    instance = api.get(f"/instances/{instance_id}").json
    assert (instance["status"], instance["configuration"]) == ("completed", ["done"])
    assert instance["erasedAt"] is not None
    assert (instance["input"], instance["context"], instance["labels"]) == (None, {}, {})
    verdict = api.get(f"/instances/{instance_id}/verify").json
    assert (verdict["valid"], verdict["replayed"], verdict["erased"]) == (True, False, verdict["entries"] - 1)
    explained = api.get(f"/instances/{instance_id}/explain").json
    assert (explained["chart"], explained["erasedAt"]) == (None, instance["erasedAt"])
    entries = api.get(f"/instances/{instance_id}/history").json["items"]
    assert {entry["type"] for entry in entries[:-1]} == {"erased"}
    assert (entries[-1]["type"], entries[-1]["actor"]) == ("instance.erased", "key:the admin")
    assert entries[-1]["payload"] == {"reason": "request 117"}


def test_a_start_that_is_repeated_after_the_erasure_starts_nothing(api: Api) -> None:
    api.apply()
    request = {"definitionKey": "approval", "input": {"name": SECRET}}
    key = {"Idempotency-Key": "order-1"}
    instance_id = api.post("/instances", request, headers=key).json["id"]
    batch = {"Idempotency-Key": "batch-1"}
    other = api.post("/instances:batch", {"instances": [request]}, headers=batch).json["items"][0][
        "instance"
    ]["id"]
    for one in (instance_id, other):
        api.post(f"/instances/{one}/erase", {"cancel": True})
    api.engine.settle()

    for path, body, headers in (
        ("/instances", request, key),
        ("/instances:batch", {"instances": [request]}, batch),
    ):
        answer = api.post(path, body, headers=headers)
        assert (answer.status_code, answer.json["code"]) == (410, "answer.erased")
        assert answer.headers["Idempotency-Replayed"] == "true"
    assert len(api.get("/instances").json["items"]) == 2


def test_an_erased_poll_is_shown_without_its_condition(api: Api) -> None:
    polled = {"task": {"type": "check"}, "until": f"output.by == '{SECRET}'", "interval": "5s"}
    api.engine.handler("check", lambda _input, _context: {"by": SECRET})
    document = {
        "id": "polling",
        "initial": "asking",
        "states": {
            "asking": {"invoke": {"src": "POLL", "input": polled, "onDone": "done"}},
            "done": {"type": "final"},
        },
    }
    instance_id = api.start(document)
    (task,) = api.get(f"/instances/{instance_id}/tasks").json["items"]
    assert task["poll"]["type"] == "check"

    api.post(f"/instances/{instance_id}/erase", {"cancel": True})
    api.engine.settle()

    (task,) = api.get(f"/instances/{instance_id}/tasks").json["items"]
    assert (task["type"], task["status"], task["poll"]) == ("POLL", "cancelled", None)
    assert SECRET not in shown(api, instance_id)


def test_many_by_a_label_page_by_page(api: Api) -> None:
    mine = [ended(api, labels={"subject": "7"}) for _ in range(3)]
    other = ended(api, labels={"subject": "8"})
    alive = api.start(labels={"subject": "7"})
    body: dict[str, Any] = {"filter": {"labels": {"subject": "7"}}, "limit": 2}

    dry = api.post("/instances:erase", {**body, "limit": 10, "dryRun": True}).json
    assert sorted(dry["accepted"]) == sorted(mine)
    assert [(one["id"], one["code"]) for one in dry["refused"]] == [(alive, "instance.not_ended")]
    assert SECRET in shown(api, mine[0])

    seen: list[str] = []
    cursor = None
    while True:
        page = api.post("/instances:erase", {**body, **({"cursor": cursor} if cursor else {})}).json
        seen += page["accepted"]
        cursor = page["nextCursor"]
        if cursor is None:
            break
    api.engine.settle()

    assert sorted(seen) == sorted(mine)
    assert [SECRET in shown(api, one) for one in mine] == [False] * 3
    assert SECRET in shown(api, other)
    assert api.get(f"/instances/{alive}").json["erasedAt"] is None


def test_what_is_refused(api: Api) -> None:
    alive = api.start()
    problem = problem_of(api.post(f"/instances/{alive}/erase"), 409, "instance.not_ended")
    assert "cancel it first" in problem["detail"]
    for body in (
        {"reason": "x" * 2_001},
        {"cancel": "yes"},
        {"children": None},
        {"name": "Ada"},
        {"reason": 7},
    ):
        problem_of(api.post(f"/instances/{alive}/erase", body), 422, "request.invalid", body)
    for body in (
        {},
        {"filter": {"labels": {"": "x"}}},
        {"filter": {"labels": {}}, "limit": 0},
        {"filter": "all"},
    ):
        problem_of(api.post("/instances:erase", body), 422, "request.invalid", body)
    problem_of(api.post("/instances:erase", {"filter": {"labels": {}}}), 422, "filter.empty")
    problem_of(
        api.post("/instances:erase", {"filter": {"labels": {"a": "b"}}, "cursor": "x"}), 400, "cursor.invalid"
    )


@pytest.mark.parametrize("role", ["viewer", "operator", "author", "worker"])
def test_only_an_admin_may(api: Api, role: str) -> None:
    instance_id = ended(api)
    key = api.keys[role]
    problem_of(api.post(f"/instances/{instance_id}/erase", key=key), 403, "auth.forbidden")
    body = {"filter": {"definitionKey": "approval"}}
    problem_of(api.post("/instances:erase", body, key=key), 403, "auth.forbidden")


def test_another_tenants_admin_finds_nobody(api: Api) -> None:
    instance_id = ended(api, labels={"subject": "7"})
    problem_of(api.post(f"/instances/{instance_id}/erase", key=api.other_key), 404, "instance.not_found")
    found = api.post("/instances:erase", {"filter": {"labels": {"subject": "7"}}}, key=api.other_key).json
    assert (found["accepted"], found["refused"]) == ([], [])
    api.engine.settle()
    assert SECRET in shown(api, instance_id)
