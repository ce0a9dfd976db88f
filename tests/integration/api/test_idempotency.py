"""Idempotency keys: whatever is sent twice takes effect once, and is answered twice alike."""

import threading
from datetime import timedelta

from werkzeug.test import TestResponse

from api.app import services_of
from common.db.now import read_now
from common.store.idempotency import delete_expired
from tests.integration.api.conftest import APPROVAL, Api, problem_of
from tests.support.manual_clock import ManualClock

START = {"definitionKey": "approval"}


def count_instances(api: Api) -> int:
    return len(api.get("/instances").json["items"])


def count_keys(api: Api) -> int:
    return int(api.engine.execute("SELECT count(*) FROM idempotency")[0][0])


def test_a_repeated_start_is_answered_as_the_first_time(api: Api) -> None:
    api.apply()
    headers = {"Idempotency-Key": "order-7"}

    first = api.post("/instances", START, headers=headers)
    api.engine.settle()
    again = api.post("/instances", START, headers=headers)

    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json == first.json
    assert again.headers["Location"] == first.headers["Location"]
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert count_instances(api) == 1


def test_a_repeated_event_is_sent_once(api: Api) -> None:
    instance_id = api.start()
    path, headers = f"/instances/{instance_id}/events", {"Idempotency-Key": "k"}

    for _ in range(3):
        assert api.post(path, {"type": "LOOKED"}, headers=headers).status_code == 202

    assert api.get("/stats").json["inbox"]["waiting"] == 1


def test_members_in_another_order_are_the_same_request(api: Api) -> None:
    api.apply()
    headers = {"Idempotency-Key": "k"}
    one = '{"definitionKey": "approval", "priority": 1}'
    other = '{ "priority":1.0, "definitionKey":"approval" }'

    answers = [
        api.send_raw("POST", "/api/v1/instances", data=text, content_type="application/json", headers=headers)
        for text in (one, other)
    ]

    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json == answers[1].json


def test_a_key_that_came_with_another_request_is_refused(api: Api) -> None:
    api.apply()
    headers = {"Idempotency-Key": "k"}
    api.post("/instances", START, headers=headers)

    others: list[tuple[str, object]] = [
        ("/instances", {**START, "priority": 2}),
        ("/instances:batch", {"instances": [START]}),
        ("/definitions/approval/versions/1/deactivate", None),
        ("/definitions/check", {"document": APPROVAL}),
    ]
    for path, body in others:
        problem_of(api.post(path, body, headers=headers), 422, "idempotency.key_reused", path)
    assert count_instances(api) == 1
    assert api.get("/definitions/approval").json["status"] == "active"


def test_a_key_belongs_to_its_principal_and_tenant(api: Api) -> None:
    api.apply()
    api.post("/definitions", {"document": APPROVAL}, key=api.other_key)
    headers = {"Idempotency-Key": "k"}

    answers = [
        api.post("/instances", {**START, "priority": number}, key=key, headers=headers)
        for number, key in enumerate((api.keys["admin"], api.keys["operator"], api.other_key))
    ]

    assert [answer.status_code for answer in answers] == [201, 201, 201]
    assert len({answer.json["id"] for answer in answers}) == 3


def test_a_refused_request_keeps_no_key_and_may_be_tried_again(api: Api) -> None:
    headers = {"Idempotency-Key": "k"}
    problem_of(api.post("/instances", START, headers=headers), 404, "definition.not_found")
    assert count_keys(api) == 0

    api.apply()
    assert api.post("/instances", START, headers=headers).status_code == 201


def test_a_key_that_cannot_be_one_is_refused(api: Api) -> None:
    for key in ("", " ", "two words", "ä", "x" * 256):
        answer = api.post("/instances", START, headers={"Idempotency-Key": key})
        problem_of(answer, 400, "idempotency.key_invalid", key)


def test_a_calculation_keeps_its_answer_too(api: Api) -> None:
    body, headers = {"document": APPROVAL, "events": []}, {"Idempotency-Key": "k"}

    first = api.post("/definitions/simulate", body, headers=headers)
    again = api.post("/definitions/simulate", body, headers=headers)

    assert again.json == first.json
    assert again.headers["Idempotency-Replayed"] == "true"


def test_requests_with_one_key_at_once_start_one_instance(api: Api) -> None:
    api.apply()
    answers: list[TestResponse] = []
    begin = threading.Barrier(8)

    def start() -> None:
        begin.wait()
        answers.append(api.post("/instances", START, headers={"Idempotency-Key": "k"}))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [answer.status_code for answer in answers] == [201] * 8
    assert len({answer.json["id"] for answer in answers}) == 1
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 7
    assert count_instances(api) == 1


def test_a_key_is_forgotten_after_a_day(api: Api, clock: ManualClock) -> None:
    api.apply()
    headers = {"Idempotency-Key": "k"}
    first = api.post("/instances", START, headers=headers)

    clock.advance(timedelta(hours=23, minutes=59))
    services_of(api.app).tenants.dispose()  # the clock is set for connections to come
    assert api.post("/instances", START, headers=headers).json["id"] == first.json["id"]
    clock.advance(timedelta(minutes=2))
    services_of(api.app).tenants.dispose()
    assert api.post("/instances", START, headers=headers).json["id"] != first.json["id"]


def test_expired_keys_are_swept_and_others_are_kept(api: Api, clock: ManualClock) -> None:
    api.apply()
    api.post("/instances", START, headers={"Idempotency-Key": "old"})
    clock.advance(timedelta(hours=20))
    services_of(api.app).tenants.dispose()
    api.post("/instances", START, headers={"Idempotency-Key": "new"})
    clock.advance(timedelta(hours=5))

    with api.engine.database.transaction() as tx:
        assert delete_expired(tx, now=read_now(tx)) == 1

    assert api.engine.execute("SELECT key FROM idempotency") == [("new",)]
