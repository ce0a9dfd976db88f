"""The page on statecharts says what is true: its example runs, its limits are those of the source."""

from __future__ import annotations

import json
import re
from pathlib import Path

import statechart
from statechart import compile_guards, document, draft, expressions, findings, reading, tasks, values
from statechart.compile import MAX_TARGETS
from statechart.step import MAX_MICROSTEPS
from tests.unit.statechart.charts import begin, send

PAGE = (Path(__file__).parents[3] / "docs/statecharts.md").read_text()


def test_the_example_is_sound_and_runs_as_it_reads():
    (text,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    order = json.loads(text)
    chart = statechart.load(order)

    small = begin(chart, input={"total": 5}, instance={"businessKey": "o-7"})
    large = begin(chart, input={"total": 5_000}, instance={"businessKey": "o-7"})
    shipped = send(
        chart, small, {"type": "xstate.done.actor.ship", "output": {"parcel": 1}}, obligation="approved/1/1"
    )

    assert chart.warnings == []
    assert small.snapshot["configuration"] == ["approved"]
    assert large.snapshot["configuration"] == ["review"]
    assert shipped.snapshot["output"] == {"parcel": 1}


def test_the_limits_are_those_of_the_source():
    rows = re.findall(
        r"^\| [^|]+ \| ([\d,]+(?:, [\d,]+)?)(?:, 1 MiB)? \| `([a-z_.]+)` \|$", PAGE, re.MULTILINE
    )
    told = {code: [int(number.replace(",", "")) for number in numbers.split(", ")] for numbers, code in rows}

    assert told == {
        "document.too_many_states": [reading.MAX_STATES],
        "document.too_nested": [reading.MAX_NESTING],
        "document.too_deep": [reading.MAX_DEPTH],
        "document.too_large": [reading.MAX_VALUES],
        "config.too_many": [values.MAX_CONFIG_NAMES],
        "document.too_many_expressions": [findings.MAX_EXPRESSIONS, findings.MAX_CHARACTERS],
        "guard.too_large": [compile_guards.MAX_CONDITIONS, compile_guards.MAX_GUARD_DEPTH],
        "target.conflict": [MAX_TARGETS],
        "step.endless": [MAX_MICROSTEPS],
        "step.too_large": [draft.MAX_WORK],
        "expression.too_expensive": [expressions.MAX_OPERATIONS],
    }


def test_every_action_and_instant_type_is_on_the_page():
    for kind in (*document.ACTION_KINDS, *tasks.INSTANT_TYPES):
        assert f"`{kind}`" in PAGE


def test_every_key_of_a_snapshot_is_on_the_page():
    chart = statechart.load({"id": "m", "initial": "a", "states": {"a": {}}})

    for key in begin(chart).snapshot:
        assert f"`{key}`" in PAGE
