"""Time-outs and policies as definitions write them: what holds where several places say something."""

from __future__ import annotations

from typing import Any

import pytest

import statechart
from statechart.effects import CreateTask
from statechart.timeouts import TIMEOUTS
from tests.unit.statechart.charts import begin

FIELDS = ("start_within_ms", "timeout_ms", "heartbeat_ms", "finish_within_ms")


def created(entry: dict[str, Any], **document: Any) -> CreateTask:
    states = {"a": {**entry, "on": {"*": "b"}}, "b": {"type": "final"}}
    chart = statechart.load({"id": "one", "initial": "a", "states": states, **document})
    step = begin(chart, input={"ms": 70})
    [task] = [effect for effect in step.effects if isinstance(effect, CreateTask)]
    return task


def invoking(**options: Any) -> dict[str, Any]:
    return {"invoke": {"src": "work", **options}}


def creating(task: dict[str, Any], **beside: Any) -> dict[str, Any]:
    return {"entry": {"type": "createTask", "task": {"type": "work", **task}, **beside}}


def bounds(task: CreateTask) -> tuple[int | None, ...]:
    return tuple(getattr(task, name) for name in FIELDS)


@pytest.mark.parametrize("write", [lambda **options: creating(options), invoking])
def test_each_time_out_has_its_place(write: Any) -> None:
    written = dict(zip(TIMEOUTS, ("1s", 2, "PT3S", "${input.ms}"), strict=True))
    assert bounds(created(write(timeouts=written))) == (1_000, 2, 3_000, 70)
    assert bounds(created(write())) == (None,) * 4


def test_the_short_form_is_the_time_of_one_attempt() -> None:
    assert created(invoking(timeout="5s")) == created(invoking(timeouts={"startToClose": 5_000}))


def test_of_the_time_outs_each_is_taken_from_the_innermost_place_that_names_it() -> None:
    defaults = {"timeout": "1s", "timeouts": {"heartbeat": "1s", "scheduleToClose": "1s"}}
    task = creating({"timeouts": {"heartbeat": "3s"}}, timeout="2s")

    assert bounds(created(task, defaults=defaults)) == (None, 2_000, 3_000, 1_000)


def test_of_the_policies_the_innermost_is_taken_as_a_whole() -> None:
    outer, beside, inner = {"interval": "9s"}, {"maxAttempts": 8}, {"jitter": 0}
    assert created(invoking(), defaults={"retry": outer}).retry == outer
    assert created(creating({}, retry=beside), defaults={"retry": outer}).retry == beside
    assert created(creating({"retry": inner}, retry=beside), defaults={"retry": outer}).retry == inner
    assert created(invoking()).retry is None


@pytest.mark.parametrize(
    ("options", "code", "path"),
    [
        ({"timeout": "1s", "timeouts": {"startToClose": "1s"}}, "timeout.twice", ""),
        ({"timeout": 0}, "duration.invalid", ".timeout"),
        ({"timeouts": {"heartbeat": "soon"}}, "duration.invalid", ".timeouts.heartbeat"),
        ({"timeouts": {"startToFinish": "1s"}}, "document.unknown_key", ".timeouts.startToFinish"),
        ({"retry": {"maxAttempt": 3}}, "retry.unknown", ".retry.maxAttempt"),
        ({"retry": {"interval": "soon"}}, "duration.invalid", ".retry.interval"),
        ({"retry": {"maxAttempts": 0}}, "retry.invalid", ".retry.maxAttempts"),
    ],
)
@pytest.mark.parametrize("place", ["defaults", "invoke"])
def test_what_is_written_wrong_is_found_at_the_door(
    place: str, options: dict[str, Any], code: str, path: str
) -> None:
    entry = invoking(**(options if place == "invoke" else {}))
    document = {
        "id": "one",
        "initial": "a",
        "states": {"a": {**entry, "on": {"*": "b"}}, "b": {"type": "final"}},
    }
    if place == "defaults":
        document["defaults"] = options

    problems = statechart.check(document)

    at = "defaults" if place == "defaults" else "states.a.invoke"
    assert [(problem.code, problem.path) for problem in problems] == [(code, at + path)]


def test_a_computed_time_out_of_nothing_is_refused_where_it_shows() -> None:
    entry = invoking(timeout="${input.ms - 70}")
    with pytest.raises(statechart.StepFailed, match="at least 1 ms"):
        created(entry)
