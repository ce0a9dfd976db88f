"""`Prefer: wait`: answered once the instance has settled, or with the state so far."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import event
from werkzeug.test import TestResponse

from api.app import create_app, services_of
from common.config import Settings
from common.queues.changes import Changes
from tests.integration.api.conftest import Api, problem_of
from tests.integration.api.test_instances import CRASHING, crash
from tests.support.slowdown import assert_within
from tests.support.waiting import wait_until

START = {"definitionKey": "approval"}


@contextmanager
def engine_running(api: Api) -> Iterator[None]:
    """Let the engine take its turns in the background, as workers would."""
    ending = threading.Event()

    def work() -> None:
        while not ending.wait(0.02):
            api.engine.settle()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def timed(ask: Callable[[], TestResponse]) -> tuple[TestResponse, float]:
    began = time.monotonic()
    return ask(), time.monotonic() - began


def test_a_start_is_answered_once_its_instance_has_settled(api: Api) -> None:
    api.apply()
    with engine_running(api):
        answer, seconds = timed(lambda: api.post("/instances", START, headers={"Prefer": "wait=20"}))

    assert answer.status_code == 201
    assert answer.headers["Preference-Applied"] == "wait=20"
    assert answer.json["status"] == "waiting"
    assert answer.json["configuration"] == ["review.open"]
    assert_within(seconds, 18)


def test_an_event_is_answered_once_it_has_been_consumed(api: Api) -> None:
    instance_id = api.start()
    with engine_running(api):
        answer = api.post(
            f"/instances/{instance_id}/events", {"type": "APPROVED"}, headers={"Prefer": "wait=20"}
        )

    assert answer.status_code == 200
    assert answer.json["status"] == "completed"


def test_a_cancel_waits_unless_told_otherwise(api: Api) -> None:
    instance_id = api.start()
    with engine_running(api):
        answer = api.post(f"/instances/{instance_id}/cancel", headers={"Prefer": "wait=20"})
    assert (answer.status_code, answer.json["status"]) == (200, "cancelled")

    api.engine.settle()
    other = api.start()
    answer, seconds = timed(lambda: api.post(f"/instances/{other}/cancel"))
    assert answer.status_code == 202
    assert seconds > 1.9
    assert_within(seconds, 20)
    assert "Preference-Applied" not in answer.headers, "nobody had asked"


def test_a_failure_settles_an_instance(api: Api) -> None:
    api.engine.handler("CRASH", crash)
    api.apply(CRASHING)
    with engine_running(api):
        answer = api.post("/instances", {"definitionKey": "crashing"}, headers={"Prefer": "wait=20"})

    assert (answer.status_code, answer.json["status"]) == (201, "failed")


def test_an_open_task_is_waited_for_and_an_open_human_task_is_not(api: Api) -> None:
    for kind, settles in (("MACHINE", False), ("HUMAN", True)):
        document = {
            "id": kind.lower(),
            "initial": "busy",
            "states": {
                "busy": {
                    "entry": {
                        "type": "createTask",
                        "task": {"type": kind, "name": "x", "completionEvent": "GONE"},
                    },
                    "on": {"GONE": "done"},
                },
                "done": {"type": "final"},
            },
        }
        api.start(document)
        answer = api.post("/instances", {"definitionKey": kind.lower()})
        api.engine.settle()

        path = f"/instances/{answer.json['id']}/history"
        api.post(path, {"note": "look"})
        with engine_running(api):
            noted = api.post(path, {"note": "look"}, headers={"Prefer": "wait=1"})

        assert noted.status_code == (200 if settles else 202), kind


@pytest.mark.parametrize("path", ["/instances", "/instances/{id}/events"])
def test_without_workers_the_state_so_far_is_the_answer(api: Api, path: str) -> None:
    instance_id = api.start()
    body = START if path == "/instances" else {"type": "LOOKED"}

    answer, seconds = timed(
        lambda: api.post(path.format(id=instance_id), body, headers={"Prefer": "wait=0.4"})
    )

    assert answer.status_code == 202
    assert answer.headers["Preference-Applied"] == "wait=0.4"
    assert seconds >= 0.4
    assert_within(seconds, 15)


def test_a_repeat_gets_the_answer_that_was_given_after_the_wait(api: Api) -> None:
    api.apply()
    headers = {"Prefer": "wait=20", "Idempotency-Key": "k"}
    with engine_running(api):
        first = api.post("/instances", START, headers=headers)

    again = api.post("/instances", START, headers=headers)

    assert first.json["status"] == "waiting"
    assert (again.status_code, again.json) == (first.status_code, first.json)
    assert again.headers["Idempotency-Replayed"] == "true"


def test_a_refusal_is_not_waited_for(api: Api) -> None:
    answer, seconds = timed(
        lambda: api.post("/instances", {"definitionKey": "nothing"}, headers={"Prefer": "wait=20"})
    )

    problem_of(answer, 404, "definition.not_found")
    assert_within(seconds, 15)


def test_those_who_wait_are_answered_when_the_process_is_about_to_end(api: Api) -> None:
    api.apply()
    answers: list[TestResponse] = []
    thread = threading.Thread(
        target=lambda: answers.append(api.post("/instances", START, headers={"Prefer": "wait=60"}))
    )
    thread.start()
    wait_until(lambda: api.get("/instances").json["items"], what="the start to be accepted")

    services_of(api.app).waiter.stop()
    thread.join(10)

    assert [answer.status_code for answer in answers] == [202]


def test_more_than_may_wait_are_answered_at_once(api: Api, database_url: str) -> None:
    api.apply()
    narrow = create_app(
        Settings(database_url=database_url, secret=api.secret, redis_url="", doorbells=False), threads=2
    )
    slow = threading.Thread(
        target=lambda: narrow.test_client().post(
            "/api/v1/instances",
            json={**START, "businessKey": "first"},
            headers={"Authorization": f"Bearer {api.keys['admin']}", "Prefer": "wait=60"},
        )
    )
    slow.start()
    wait_until(lambda: api.get("/instances").json["items"], what="the first to wait")

    answer, seconds = timed(
        lambda: narrow.test_client().post(
            "/api/v1/instances",
            json=START,
            headers={"Authorization": f"Bearer {api.keys['admin']}", "Prefer": "wait=60"},
        )
    )

    assert answer.status_code == 201
    assert "Preference-Applied" not in answer.headers
    assert_within(seconds, 30, "and it had asked for 60")
    services_of(narrow).close()
    slow.join(10)


def test_a_change_that_is_published_ends_the_wait(api: Api, database_url: str, valkey_url: str) -> None:
    """The waiter listens: each published change makes it look, more often than its own look each 250 ms would."""
    api.apply()
    listening = create_app(
        Settings(database_url=database_url, secret=api.secret, redis_url=valkey_url, doorbells=False)
    )
    looks: list[float] = []
    waiter = services_of(listening).waiter
    instance_id = api.post("/instances", START).json["id"]
    changes = Changes.open(valkey_url)
    statements = services_of(listening).tenants.of(api.engine.tenant_id).engine

    def note(_tx: object, _cursor: object, statement: str, *_rest: object) -> None:
        if "family" in statement:
            looks.append(time.monotonic())

    event.listen(statements, "before_cursor_execute", note)
    thread = threading.Thread(target=lambda: waiter.wait(api.engine.tenant_id, instance_id, 60))
    thread.start()
    wait_until(lambda: len(looks) >= 2, what="the waiter to look by itself")

    def published_look() -> bool:
        before = len(looks)
        changes.publish([instance_id])
        deadline = time.monotonic() + 0.1
        while time.monotonic() < deadline:
            if len(looks) - before >= 2:
                return True
            if len(looks) > before:
                changes.publish([instance_id])
            time.sleep(0.005)
        return False

    try:
        wait_until(
            published_look, what="two looks within 100 ms, which the look alone never makes", seconds=20
        )
    finally:
        waiter.stop()
        thread.join(10)
        changes.close()
        services_of(listening).close()
