"""Machines as XState exports them: `simulate` passes over what XState would pass over, a definition does not."""

from __future__ import annotations

import json

import pytest

import statechart
from statechart import DefinitionInvalid
from tests.unit.statechart.charts import configurations, document_of, last

NAMED = [
    "beep",
    ["beep", "boop"],
    {"type": "track", "params": {"a": 1}},
    [{"type": ""}, None],
    {"type": "xstate.raise"},  # its event was a function
    {"type": "xstate.sendTo", "params": {"to": "somebody", "event": {"type": "HELLO"}}},
    [{"type": "xstate.assign"}, {"type": "xstate.spawnChild", "params": {"src": "x"}}],
]


@pytest.mark.parametrize("named", NAMED, ids=json.dumps)
def test_an_action_that_is_only_a_name_does_nothing(named):
    document = document_of(
        {
            "a": {"entry": named, "exit": named, "on": {"GO": {"target": "b", "actions": named}}},
            "b": {"initial": {"target": "c", "actions": named}, "states": {"c": {}}},
        }
    )

    assert configurations(document, "GO") == [["a"], ["b.c"]]
    with pytest.raises(DefinitionInvalid):
        statechart.load(document)


@pytest.mark.parametrize(
    "action", [{"type": "raise"}, {"type": "assign", "vlaue": 1}, {"tpye": "raise"}, 7], ids=json.dumps
)
def test_an_action_of_ours_that_is_written_wrongly_is_refused_all_the_same(action):
    with pytest.raises(DefinitionInvalid):
        statechart.simulate(document_of({"a": {"entry": action}}), [])


def test_keys_that_xstate_does_not_know_are_passed_over_everywhere():
    document = document_of(
        {
            "a": {
                "junk": 1,
                "on": {"GO": [{"target": "b", "color": "red"}]},
                "invoke": {"src": "work", "logger": None, "onDone": {"target": "b", "junk": 1}},
            },
            "b": {"after": {"10": {"target": "c", "junk": 1}}},
            "c": {"initial": {"target": "d", "junk": 1}, "states": {"d": {"x": {"y": 1}}}},
        },
        author="me",
        strict=True,
    )

    assert configurations(document, "GO", 10) == [["a"], ["b"], ["c.d"]]


def test_what_is_null_is_as_if_it_were_not_there():
    document = document_of(
        {
            "a": {"states": None, "always": None, "entry": None, "on": {"GO": "b", "NO": None}},
            "b": {"type": None, "on": None, "description": None},
        },
        context=None,
        on={"NO": ".b"},
    )

    assert configurations(document, "NO", "GO") == [["a"], ["a"], ["b"]]
    assert last(document)["context"] == {}


@pytest.mark.parametrize(
    ("body", "suggestion"),
    [
        ({"on": {"GO": {"target": "a", "cond": "isReady"}}}, "guard"),
        ({"onEntry": "beep"}, "entry"),
        ({"activities": []}, "invoke"),
    ],
)
def test_what_xstate_has_renamed_is_refused_and_not_passed_over(body, suggestion):
    with pytest.raises(DefinitionInvalid) as invalid:
        statechart.simulate(document_of({"a": body}), [])

    assert [problem.suggestion for problem in invalid.value.problems] == [suggestion]


def test_an_id_may_have_dots_written_with_a_backslash_or_as_they_are():
    states = {"a": {"on": {"ONE": r"#my\.id.c", "TWO": "#my.id"}}, "b": {"id": "my.id", "initial": "c"}}
    states["b"] |= {"states": {"c": {}}, "on": {"BACK": "a"}}

    assert configurations(document_of(states), "ONE", "BACK", "TWO")[1::2] == [["b.c"], ["b.c"]]


@pytest.mark.parametrize("broken", [7, [], "text", {"a": 7}, {"a": {"on": 7, "entry": {"type": 3}}}])
def test_what_is_no_machine_is_refused_and_breaks_nothing(broken):
    document = {"id": "m", "initial": "a", "states": broken}

    with pytest.raises(DefinitionInvalid):
        statechart.simulate(document, [])
