"""Configuration in expressions: which values a chart names, its own defaults, and what is read where nothing is set."""

from __future__ import annotations

import pytest

import statechart
from statechart import DefinitionInvalid, StepFailed
from tests.unit.statechart.charts import chart_of, env


def reading(value, **root):
    """Evaluates `value` into `context.found` on GO."""
    action = {"type": "assign", "path": "found", "value": value}
    return chart_of({"a": {"on": {"GO": {"actions": [action]}}}}, **root)


def found(chart, config=None):
    begun = statechart.start(chart, None, env())
    stepped = statechart.step(chart, begun.snapshot, {"type": "GO"}, env(config=config))
    return stepped.snapshot["context"]["found"]


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("${config.orders.limit}", {"orders.limit"}),
        ("${config.orders.limit.amount + config.maps.radius}", {"orders.limit", "maps.radius"}),
        ("${config.orders['http.timeout']}", {"orders.http.timeout"}),
        ("${config.orders[context.kind]}", {"orders"}),
        ("${config.orders}", {"orders"}),
        ("${has(config.orders.limit)}", {"orders.limit"}),
        ("${config.?orders.limit}", {"orders.limit"}),
        ("$config.orders.limit", set()),
        ("${context.config}", set()),
    ],
)
def test_a_chart_names_the_values_that_its_expressions_read(value, names):
    assert reading(value).config_names == names


def test_names_are_found_in_guards_operators_and_what_tasks_are_asked():
    chart = chart_of(
        {
            "a": {
                "entry": {"type": "createTask", "task": {"type": "T", "input": {"x": "${config.a.x}"}}},
                "on": {
                    "GO": {"target": "b", "guard": {"key": "n", "operator": ">", "value": "${config.b.x}"}},
                    "OR": {"target": "b", "guard": "named"},
                },
                "after": {"${config.d.x}": "b"},
            },
            "b": {"type": "final", "output": "${config.e.x}"},
        },
        guards={"named": "config.c.x"},
    )

    assert chart.config_names == {"a.x", "b.x", "c.x", "d.x", "e.x"}


def test_what_is_found_comes_before_the_definitions_default():
    chart = reading("${config.orders.limit}", config={"orders": {"limit": 5, "other": 1}})

    assert found(chart) == 5
    assert found(chart, {"orders": {"limit": 7}}) == 7
    assert found(chart, {"maps": {"limit": 9}}) == 5


def test_a_module_that_is_read_whole_has_what_is_found_and_the_defaults():
    chart = reading("${config.orders}", config={"orders": {"limit": 5, "other": 1}})

    assert found(chart, {"orders": {"limit": 7, "more": [1]}}) == {"limit": 7, "more": [1], "other": 1}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("${config.orders.?limit}", None),
        ("${config.?orders.?limit}", None),
        ("${has(config.orders.limit)}", False),
        ("${config.orders}", {}),
    ],
)
def test_what_is_set_nowhere_is_missing_as_any_member_is(value, expected):
    assert found(reading(value)) == expected


def test_a_guard_that_reads_what_is_set_nowhere_is_false_on_record():
    chart = chart_of({"a": {"on": {"GO": {"target": "b", "guard": "config.orders.open"}}}, "b": {}})
    begun = statechart.start(chart, None, env())

    stepped = statechart.step(chart, begun.snapshot, {"type": "GO"}, env())

    assert stepped.snapshot["configuration"] == ["a"]
    assert [change["type"] for change in stepped.changes] == ["guard.failed"]


def test_defaults_are_values_and_no_templates():
    assert (
        found(reading("${config.orders.text}", config={"orders": {"text": "${context.x}"}})) == "${context.x}"
    )


@pytest.mark.parametrize("value", ["${config}", "${config[context.module].x}", "${'a' in config}"])
def test_configuration_without_a_module_is_refused(value):
    with pytest.raises(DefinitionInvalid) as refused:
        reading(value)

    assert [problem.code for problem in refused.value.problems] == ["config.unnamed"]


@pytest.mark.parametrize(
    "config",
    [{"a.b": {"x": 1}}, {"": {"x": 1}}, {"a": {"": 1}}, {"a": {"x y": 1}}, {"a": {"`": 1}}, {"é": {"x": 1}}],
)
def test_a_default_that_nobody_could_name_is_refused(config):
    with pytest.raises(DefinitionInvalid) as refused:
        chart_of({"a": {}}, config=config)

    assert [problem.code for problem in refused.value.problems] == ["config.name"]


def test_simulate_takes_configuration():
    document = {
        "id": "m",
        "context": {},
        "initial": "a",
        "states": {"a": {"on": {"GO": {"target": "b", "guard": "config.m.open == true"}}}, "b": {}},
    }
    events = [{"type": "GO"}]

    assert statechart.simulate(document, events)[-1]["configuration"] == ["a"]
    assert statechart.simulate(document, events, config={"m": {"open": True}})[-1]["configuration"] == ["b"]
    with pytest.raises(StepFailed, match="expected config to be"):
        statechart.simulate(document, events, config={"m": 1})
