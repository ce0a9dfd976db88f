"""What undoes work, in the kernel: when it is registered, with what, in which order it runs, and what is awaited first."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

import statechart
from statechart import Env, Step, compensating
from statechart.compensation import is_there_to_undo
from tests.integration.engine.sagas import step, trip

ENV = Env(datetime(2026, 3, 1, 12, tzinfo=UTC), {}, "seed")


def done(chart: statechart.Chart, snapshot: dict[str, Any], output: Any = None) -> Step:
    """The one open task has succeeded."""
    [(key, task)] = snapshot["tasks"].items()
    event = {"type": task["completionEvent"], "output": {"receipt": 1} if output is None else output}
    return statechart.step(chart, snapshot, event, ENV, obligation=key)


def at_car(**root: Any) -> tuple[statechart.Chart, dict[str, Any]]:
    """A trip with a flight and a hotel, whose car is being booked."""
    chart = statechart.load(trip(**root))
    snapshot = statechart.start(chart, None, ENV).snapshot
    for _ in range(2):
        snapshot = done(chart, snapshot).snapshot
    return chart, snapshot


def begun(chart: statechart.Chart, snapshot: dict[str, Any], **more: Any) -> Step:
    return compensating.compensate(chart, snapshot, ENV, ends="cancelled", why={"reason": "no"}, **more)


def undoing(snapshot: dict[str, Any]) -> list[str]:
    return [task["name"] for task in snapshot["tasks"].values()]


def test_a_chart_without_compensation_has_none_in_its_snapshot() -> None:
    document = trip()
    for name in ("flight", "hotel", "car"):
        del document["states"][name]["invoke"]["compensate"]
    chart = statechart.load(document)
    assert chart.compensation is None
    snapshot = statechart.start(chart, None, ENV).snapshot
    assert "compensation" not in done(chart, snapshot).snapshot
    assert not is_there_to_undo(chart, snapshot)


def test_work_registers_when_it_has_ended_with_its_values_of_that_moment() -> None:
    chart = statechart.load(trip())
    first = statechart.start(chart, None, ENV).snapshot
    assert "compensation" not in first

    stepped = done(chart, first, {"receipt": "LH-1"})
    [item] = stepped.snapshot["compensation"]["registered"]
    assert item["task"] == {"type": "undo.flight", "input": {"of": "LH-1"}, "retry": {"maxAttempts": 1}}
    assert (item["id"], item["undoes"], item["order"], item["onFailure"]) == (1, "do.flight", 0, "incident")
    assert next(change["type"] for change in stepped.changes) == "compensation.registered"


def test_it_waits_for_what_was_taken_back_and_then_runs_the_last_first() -> None:
    chart, snapshot = at_car()
    step_ = begun(chart, snapshot)
    assert step_.snapshot["status"] == "compensating"
    assert list(step_.snapshot["compensation"]["awaited"]) == list(snapshot["tasks"])
    assert undoing(step_.snapshot) == []
    [taken_back] = [effect for effect in step_.effects if isinstance(effect, statechart.CancelTask)]
    assert taken_back.tells

    [key] = snapshot["tasks"]
    told = compensating.tell(chart, step_.snapshot, ENV, key, None)
    assert undoing(told.snapshot) == ["undo.hotel"]
    assert compensating.tell(chart, told.snapshot, ENV, key, None).reason == "obligation_closed"


def test_what_had_succeeded_meanwhile_is_the_first_to_be_undone() -> None:
    chart, snapshot = at_car()
    [(key, task)] = snapshot["tasks"].items()
    event = {"type": task["completionEvent"], "output": {"receipt": "car-9"}}
    told = compensating.tell(chart, begun(chart, snapshot).snapshot, ENV, key, event)
    assert undoing(told.snapshot) == ["undo.car"]


def test_one_after_another_until_it_ends_as_it_was_to() -> None:
    chart, snapshot = at_car()
    snapshot = compensating.tell(
        chart, begun(chart, snapshot).snapshot, ENV, *snapshot["tasks"], None
    ).snapshot
    order = []
    while snapshot["tasks"]:
        [(key, task)] = snapshot["tasks"].items()
        order.append(task["name"])
        snapshot = compensating.answer(chart, snapshot, ENV, key, "done").snapshot
    assert order == ["undo.hotel", "undo.flight"]
    assert snapshot["status"] == "stopped"


@pytest.mark.parametrize(("covers", "first"), [("completed", "undo.hotel"), ("attempted", "undo.car")])
def test_a_failure_registers_only_what_covers_attempts(covers: str, first: str) -> None:
    document = trip()
    document["states"]["car"] = step("car", "booked", covers=covers, input={})
    chart = statechart.load(document)
    snapshot = statechart.start(chart, None, ENV).snapshot
    for _ in range(2):
        snapshot = done(chart, snapshot).snapshot
    [(key, task)] = snapshot["tasks"].items()
    failed = {"type": task["failureEvent"], "error": {"code": "gone"}}
    step_ = compensating.compensate(
        chart, snapshot, ENV, ends="failed", why={"error": {"code": "gone"}}, answered=(key, failed)
    )
    assert undoing(step_.snapshot) == [first]


def test_instant_types_are_done_in_the_step() -> None:
    document = trip(wait=True)
    for name, then in (("flight", "hotel"), ("hotel", "waiting")):
        told = {"event": {"type": "UNDONE", "what": name}}
        document["states"][name] = step(name, then, type="EMIT", input=told)
        document["states"][name]["invoke"]["compensate"].pop("retry")
    chart = statechart.load(document)
    snapshot = statechart.start(chart, None, ENV).snapshot
    for _ in range(2):
        snapshot = done(chart, snapshot).snapshot
    ended = begun(chart, snapshot)
    emitted = [effect.event["what"] for effect in ended.effects if isinstance(effect, statechart.Emit)]
    assert emitted == ["hotel", "flight"]
    assert ended.snapshot["status"] == "stopped"


def test_the_snapshot_that_came_in_is_never_changed() -> None:
    chart, snapshot = at_car()
    before = repr(snapshot)
    begun(chart, snapshot)
    compensating.stop_compensating(chart, begun(chart, snapshot).snapshot, ENV)
    assert repr(snapshot) == before
