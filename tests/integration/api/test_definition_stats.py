"""How the instances of a definition have fared: counts and times worked out by hand."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from api.app import services_of
from common.clock import instant_text
from signalbox import Retryable
from tests.integration.api.cli import Cli, served
from tests.integration.api.conftest import Api, problem_of
from tests.integration.engine.documents import ON_SQLITE
from tests.support.manual_clock import ManualClock

ORDER: dict[str, Any] = {
    "id": "order",
    "initial": "working",
    "states": {
        "working": {
            "invoke": {
                "src": "work",
                "retry": {"maxAttempts": 3, "interval": "10s", "jitter": 0},
                "onDone": "open",
                "onError": "lost",
            }
        },
        "open": {"on": {"GO": "done"}},
        "done": {"type": "final"},
        "lost": {"type": "final"},
    },
}


def worker(failing: int) -> Any:
    """A handler whose first calls fail, and which then succeeds."""
    calls = iter([True] * failing)

    def work(_input: Any) -> None:
        if next(calls, False):
            raise Retryable("not yet")

    return work


def let_go_by(api: Api, clock: ManualClock, seconds: int) -> None:
    clock.advance(timedelta(seconds=seconds))
    services_of(api.app).tenants.dispose()  # a session of PostgreSQL knows the time that it began with
    api.engine.settle()


def finish(api: Api, instance_id: str) -> None:
    api.post(f"/instances/{instance_id}/events", {"type": "GO"})
    api.engine.settle()


@pytest.fixture
def orders(api: Api, clock: ManualClock) -> None:
    """Of version 1 one that took 30 s, of which its task took 10, one that took 10 s, and one that waits; of version 2 a cancelled one."""
    api.engine.handler("work", worker(1))
    first = api.start(ORDER)
    let_go_by(api, clock, 10)
    let_go_by(api, clock, 20)
    finish(api, first)
    second = api.start(ORDER)
    let_go_by(api, clock, 10)
    finish(api, second)
    api.start(ORDER)
    last = api.start({**ORDER, "description": "another edition"})
    let_go_by(api, clock, 5)
    api.post(f"/instances/{last}/cancel", {})
    api.engine.settle()


def stats_of(api: Api, **query: Any) -> Any:
    answer = api.get("/definitions/order/stats", **query)
    assert answer.status_code == 200, answer.text
    return answer.json


@pytest.mark.usefixtures("orders")
def test_counts_and_times_are_those_of_the_instances(api: Api, clock: ManualClock) -> None:
    found = stats_of(api)

    latest = instant_text(clock.now() - timedelta(seconds=5))
    assert found["since"] == instant_text(clock.now() - timedelta(days=30))
    together = {"total": 4, "instances": {"cancelled": 1, "completed": 2, "waiting": 1}}
    times = {"meanMs": 20_000, "longestMs": 30_000, "lastCreatedAt": latest}
    assert found.items() >= {"key": "order", **together, **times}.items()
    assert found["versions"] == [
        {
            "version": 2, "total": 1, "instances": {"cancelled": 1}, "meanMs": None, "longestMs": None,
            "lastCreatedAt": latest,
        },
        {"version": 1, "total": 3, "instances": {"completed": 2, "waiting": 1}, **times},
    ]  # fmt: skip
    assert found["tasks"] == [
        {
            "name": "work", "type": "work", "total": 4, "succeeded": 4, "failed": 0, "open": 0, "meanAttempts": 1.25,
            "meanMs": 2_500, "longestMs": 10_000,
        }
    ]  # fmt: skip


@pytest.mark.usefixtures("orders")
def test_older_instances_are_left_out(api: Api, clock: ManualClock) -> None:
    recent = stats_of(api, since=instant_text(clock.now() - timedelta(seconds=5)))
    assert (recent["total"], recent["tasks"][0]["total"]) == (2, 2)

    nothing = stats_of(api, since=instant_text(clock.now()))
    assert (nothing["total"], nothing["meanMs"], nothing["versions"], nothing["tasks"]) == (0, None, [], [])


def test_tasks_that_failed_or_are_open_are_counted_by_name_and_type(api: Api) -> None:
    api.engine.handler("work", worker(1))
    once = {**ORDER, "defaults": {"retry": {"maxAttempts": 1}}}
    states = once["states"]
    failing = {**states["working"]["invoke"], "retry": {"maxAttempts": 1}}
    asking = {"src": "HUMAN", "name": "look", "onDone": "done"}
    api.start({**once, "states": {**states, "working": {"invoke": failing}, "lost": {"invoke": asking}}})

    tasks = stats_of(api)["tasks"]

    told = [(one["name"], one["type"], one["failed"], one["open"], one["meanMs"]) for one in tasks]
    assert told == [("look", "HUMAN", 0, 1, None), ("work", "work", 1, 0, None)]


def test_only_what_is_there_has_figures(api: Api) -> None:
    api.apply(ORDER)

    assert stats_of(api)["total"] == 0
    problem_of(api.get("/definitions/none/stats"), 404, "definition.not_found")
    problem_of(api.get("/definitions/order/stats", key=api.other_key), 404, "definition.not_found")
    problem_of(api.get("/definitions/order/stats", since="yesterday"), 422, "request.invalid")


@ON_SQLITE
def test_the_command_shows_them(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.engine.handler("work", worker(0))
    finish(api, api.start(ORDER))
    api.start({**ORDER, "description": "another edition"})

    with served(api) as url:
        cli = Cli(api, url, monkeypatch)
        told = cli.text("definitions", "stats", "order", "--days", "1")
        found = cli.json("definitions", "stats", "order")

    assert (found["total"], found["instances"]) == (2, {"completed": 1, "waiting": 1})
    lines = [" ".join(line.split()) for line in told.splitlines()]
    assert lines[0].startswith("order since ")
    assert [line[: len(start)] for line in lines for start in ("2 1 1 waiting", "1 1 1 completed", "all 2 1 completed, 1 waiting", "work work 2 2") if line.startswith(start)] == [
        "2 1 1 waiting", "1 1 1 completed", "all 2 1 completed, 1 waiting", "work work 2 2",
    ]  # fmt: skip
