"""What holds for every chart that XState would take and for any events."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import statechart
from statechart import Chart, Env, StepFailed
from statechart.compile import compile_document
from statechart.configuration import is_legal, with_ancestors
from statechart.select import matches_wildcard
from statechart.simulate import Simulation
from tests.conformance.charts import EXTERNAL, INTERNAL, random_case

EXAMPLES = int(os.environ.get("EXAMPLES", "60"))  # raise it for a long look
SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
CASES = st.integers(0, 2**32 - 1).map(lambda seed: random_case(Random(seed), str(seed)))


def simulated(case, *, stored=lambda snapshot: snapshot) -> Iterator[Simulation]:
    """The simulation at its start and after each event; `stored` stands between the steps."""
    simulation = Simulation(compile_document(case["spec"]))
    yield simulation
    for event in case["events"]:
        simulation.snapshot = stored(simulation.snapshot)
        simulation.take(event)
        yield simulation


@SETTINGS
@given(CASES)
def test_any_events_leave_a_legal_configuration(case):
    for simulation in simulated(case):
        if simulation.error is None:
            snapshot = simulation.snapshot
            tips = snapshot.get("entered") or snapshot["configuration"]
            active = with_ancestors([simulation.chart.by_path[path] for path in tips])
            assert is_legal(simulation.chart.root, active)


@SETTINGS
@given(CASES)
def test_a_snapshot_that_was_stored_as_text_goes_on_as_if_it_had_not_been(case):
    straight = [(simulation.view(), simulation.snapshot) for simulation in simulated(case)]
    restored = [
        (simulation.view(), simulation.snapshot)
        for simulation in simulated(case, stored=lambda snapshot: json.loads(json.dumps(snapshot)))
    ]

    assert straight == restored


@SETTINGS
@given(CASES)
def test_explain_names_exactly_the_events_that_a_step_then_takes(case):
    case["spec"] = without_eventless(case["spec"])  # these may answer to an event that no state takes
    for simulation in simulated(case):
        if simulation.snapshot["status"] != "active" or simulation.error is not None:
            return
        chart, snapshot, env = simulation.chart, simulation.snapshot, Env(simulation.now, seed="explained")
        events = statechart.explain(chart, snapshot, env)["events"]
        accepted = {event["type"]: event["accepted"] for event in events}
        for event_type in (*EXTERNAL, *INTERNAL):
            if event_type in accepted:
                assert accepted[event_type] in (None, is_taken(chart, snapshot, event_type, env))
            elif not any(matches_wildcard(event_type, name) for name in accepted if name.endswith("*")):
                assert not is_taken(chart, snapshot, event_type, env)


def without_eventless(body):
    inner = {key: without_eventless(child) for key, child in body.get("states", {}).items()}
    return {key: value for key, value in {**body, "states": inner}.items() if key != "always" and value != {}}


def is_taken(chart: Chart, snapshot, event_type: str, env: Env) -> bool:
    """Is a transition taken, be it one that ends badly?"""
    try:
        return statechart.step(chart, snapshot, {"type": event_type}, env).outcome == "applied"
    except StepFailed:
        return True
