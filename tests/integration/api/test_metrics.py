"""`/metrics`: what a monitor reads, and who may."""

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.api.conftest import Api, problem_of
from tests.integration.api.test_breakers import broken
from tests.integration.api.test_instances import CRASHING, crash


def gauges(answer: Any) -> dict[tuple[str, str], float]:
    """Each sample by its name and its one label's value, "" without a label."""
    assert answer.status_code == 200, answer.text
    assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_every_status_is_a_series_and_nothing_is_stalled(api: Api) -> None:
    api.engine.handler("CRASH", crash)
    api.start()
    api.start()
    api.start(CRASHING)
    read = gauges(api.send_raw("GET", "/metrics", key=""))

    assert read["signalbox_instances", "waiting"] == 2
    assert read["signalbox_instances", "failed"] == 1
    assert read["signalbox_instances", "timed_out"] == 0
    assert read["signalbox_tasks", "failed"] == 1
    assert read["signalbox_incidents_open", ""] == 1
    assert read["signalbox_stalled_instances", ""] == 0
    assert read["signalbox_workers", "orchestrator"] == 0


@pytest.mark.breaks_promises
def test_an_instance_that_nothing_will_wake_is_counted(api: Api) -> None:
    instance_id = api.start(CRASHING)  # its task waits for a runner
    api.engine.execute("DELETE FROM attempts")
    api.engine.execute(f"DELETE FROM tasks WHERE instance_id = '{instance_id}'")
    api.engine.execute(f"UPDATE instances SET accepts_events = false WHERE id = '{instance_id}'")
    assert gauges(api.send_raw("GET", "/metrics", key=""))["signalbox_stalled_instances", ""] == 1
    assert api.get("/stats").json["stalled"] == 1


def test_open_breakers_and_who_waits_for_a_place_are_counted(api: Api) -> None:
    alone = {
        "id": "alone", "initial": "a", "concurrency": {"max": 1},
        "states": {"a": {"on": {"GO": "b"}}, "b": {"type": "final"}},
    }  # fmt: skip
    api.engine.apply(alone)
    for _ in range(3):
        api.engine.start("alone")
    api.engine.settle()
    api.post("/breakers:open", {"type": "HTTP", "target": "https://a.example:443"}, key=api.keys["operator"])
    api.post("/breakers:close", {"type": "AI", "target": "https://b.example:443"}, key=api.keys["operator"])

    read = gauges(api.send_raw("GET", "/metrics", key=""))
    theirs = gauges(api.send_raw("GET", "/metrics", key=api.other_key))

    assert read["signalbox_queued_instances", ""] == 2
    assert read["signalbox_breakers", "open"] == read["signalbox_breakers", "closed"] == 1
    assert read["signalbox_breakers", "half_open"] == 0
    assert theirs["signalbox_queued_instances", ""] == theirs["signalbox_breakers", "open"] == 0


def test_tasks_that_wait_for_a_breaker_are_counted(api: Api) -> None:
    broken(api)

    read = gauges(api.send_raw("GET", "/metrics", key=""))

    assert read["signalbox_breakers", "open"] == 1
    assert read["signalbox_tasks_behind_breakers", ""] == api.get("/breakers").json["items"][0]["waiting"] > 0


def test_a_key_shows_its_own_tenant_and_no_more(api: Api) -> None:
    api.start()
    theirs = gauges(api.send_raw("GET", "/metrics", key=api.other_key))
    assert theirs["signalbox_instances", "waiting"] == 0
    assert ("signalbox_workers", "orchestrator") not in theirs
    ours = gauges(api.send_raw("GET", "/metrics", key=api.keys["viewer"]))
    assert ours["signalbox_instances", "waiting"] == 1
    problem_of(api.send_raw("GET", "/metrics", key=api.keys["worker"]), 403, "auth.forbidden")


@pytest.mark.parametrize(
    "asked",
    [
        {"environ_overrides": {"REMOTE_ADDR": "192.0.2.7"}},
        {"headers": {"X-Forwarded-For": "192.0.2.7"}},
        {"headers": {"Forwarded": "for=192.0.2.7"}},
        {"headers": {"X-Real-IP": "192.0.2.7"}},
        {"headers": {"X-Forwarded-Proto": "https"}},
        {"headers": {"Via": "1.1 proxy"}},
        {"headers": {"Host": "signalbox.example.com"}},
        {"headers": {"Host": "signalbox.example.com:8000"}},
        {"headers": {"Host": "localhost.example.com"}},
        {"headers": {"Host": "192.0.2.7"}},
        {"headers": {"Host": "[::1"}},
    ],
)
def test_who_is_not_on_this_machine_needs_a_key(api: Api, asked: dict[str, Any]) -> None:
    problem_of(api.send_raw("GET", "/metrics", key="", **asked), 401, "auth.required")


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "127.0.0.2", "[::1]:8000"])
def test_who_asks_by_a_name_of_this_machine_needs_none(api: Api, host: str) -> None:
    assert api.send_raw("GET", "/metrics", key="", headers={"Host": host}).status_code == 200
