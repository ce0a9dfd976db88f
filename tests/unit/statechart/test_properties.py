"""What holds for every chart and any events."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from datetime import timedelta

from hypothesis import HealthCheck, given, settings

import statechart
from statechart import ArmTimer, CancelTask, CancelTimer, CreateTask, Env, Step, StepFailed
from statechart.configuration import NOTHING_REMEMBERED, compute_entry_set, is_legal, with_ancestors
from tests.unit.statechart.charts import NOW
from tests.unit.statechart.random_charts import documents, events

EXAMPLES = int(os.environ.get("EXAMPLES", "100"))  # raise it for a long look
SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def steps(chart, script, *, stored=lambda snapshot: snapshot) -> Iterator[tuple[dict, str | None, Step]]:
    """Run a script; each item is the snapshot before, the obligation that was answered, and the step.

    Numbers move the clock and fire what is due. Open tasks are answered now and then, in a fixed order. Ends where a
    step fails, as an uncaught error or an endless circle does.
    """
    now = NOW
    try:
        step = statechart.start(chart, {"i": 1}, Env(now, seed="start"))
        yield {}, None, step
        for ordinal, event in enumerate(script):
            asked: list[tuple[dict, str | None]] = []
            if isinstance(event, int):
                now += timedelta(seconds=event)
                due = now.isoformat(timespec="microseconds").replace("+00:00", "Z")
                asked += [
                    (timer["event"], key)
                    for key, timer in sorted(step.snapshot["timers"].items())
                    if timer["dueAt"] <= due
                ]
                asked += [
                    ({"type": task["completionEvent"], "output": ordinal}, key)
                    for key, task in sorted(step.snapshot["tasks"].items())[:1]
                ]
            else:
                asked.append((event, None))
            for one, obligation in asked:
                before = stored(step.snapshot)
                step = statechart.step(chart, before, one, Env(now, seed=str(ordinal)), obligation=obligation)
                yield before, obligation, step
    except StepFailed as failed:
        if failed.code not in ("step.uncaught", "step.endless", "step.too_large"):
            raise


def through_json(snapshot):
    return json.loads(json.dumps(snapshot, sort_keys=True))


@SETTINGS
@given(documents(), events())
def test_any_events_leave_a_legal_configuration(document, script):
    chart = statechart.load(document)

    for _, _, step in steps(chart, script):
        leaves = [chart.by_path[path] for path in step.snapshot["configuration"]]
        assert is_legal(chart.root, with_ancestors(leaves))
        assert leaves == sorted(leaves, key=lambda leaf: leaf.order)


@SETTINGS
@given(documents())
def test_what_a_start_enters_is_planned_as_it_would_be_worked_out(document):
    initial = statechart.load(document).initial_transition
    planned = compute_entry_set({initial: None}, NOTHING_REMEMBERED, {})
    initial.plan = None

    assert compute_entry_set({initial: None}, NOTHING_REMEMBERED, {}) == planned


@SETTINGS
@given(documents(), events())
def test_storing_and_restoring_after_every_step_changes_nothing(document, script):
    chart = statechart.load(document)

    straight = [step for _, _, step in steps(chart, script)]
    stored = [step for _, _, step in steps(chart, script, stored=through_json)]

    assert straight == stored


@SETTINGS
@given(documents(), events())
def test_a_step_writes_into_nothing_that_it_was_given(document, script):
    chart = statechart.load(document)
    kept = copy.deepcopy(document)
    copies: list[dict] = []

    def remembered(snapshot):
        copies.append(copy.deepcopy(snapshot))
        return snapshot

    for before, _, step in steps(chart, script, stored=remembered):
        if copies:
            assert before == copies[-1]
        json.dumps(step.snapshot, allow_nan=False)

    assert document == kept


@SETTINGS
@given(documents(), events())
def test_every_obligation_is_asked_for_once_and_withdrawn_or_answered(document, script):
    chart = statechart.load(document)

    for before, answered, step in steps(chart, script):
        for holder, created, cancelled in (
            ("tasks", CreateTask, CancelTask),
            ("timers", ArmTimer, CancelTimer),
        ):
            open_before = set(before.get(holder, ())) - {answered}
            asked = [effect.key for effect in step.effects if isinstance(effect, created)]
            withdrawn = [effect.key for effect in step.effects if isinstance(effect, cancelled)]
            assert len(set(asked)) == len(asked)
            assert set(withdrawn) <= open_before
            assert set(step.snapshot[holder]) == open_before - set(withdrawn) | set(asked)


@SETTINGS
@given(documents(eventless=False), events())
def test_explain_names_exactly_the_events_that_a_step_accepts(document, script):
    chart = statechart.load(document)

    for _, _, step in steps(chart, script):
        explanation = statechart.explain(chart, step.snapshot, Env(NOW))
        for event in explanation["events"]:
            if "*" in event["type"]:
                continue
            try:
                outcome = statechart.step(chart, step.snapshot, {"type": event["type"]}, Env(NOW)).outcome
            except StepFailed:
                outcome = "applied"
            assert event["accepted"] is (outcome == "applied")


@SETTINGS
@given(documents(), events())
def test_a_machine_can_be_stopped_at_any_moment(document, script):
    chart = statechart.load(document)

    for _, _, step in steps(chart, script):
        if step.snapshot["status"] == "active":
            stopped = statechart.stop(chart, step.snapshot, Env(NOW)).snapshot
            assert stopped["status"] == "stopped"
            assert (stopped["tasks"], stopped["timers"], stopped["children"]) == ({}, {}, {})
