"""Guards: named, inline, compared, combined, and asking which states are active."""

from __future__ import annotations

import pytest

from tests.unit.statechart.charts import document_of, last


def passes(guard, *, guards=None, context=None, event=None) -> bool:
    """Does this guard let GO through?"""
    document = document_of(
        {"a": {"on": {"GO": {"target": "b", "guard": guard}}}, "b": {}},
        context=context or {},
        **({"guards": guards} if guards else {}),
    )
    return last(document, {"type": "GO", **(event or {})})["configuration"] == ["b"]


@pytest.mark.parametrize(
    ("guard", "expected"),
    [
        ("context.n > 1", True),
        ("context.n > 2", False),
        (True, True),
        (False, False),
        ("true", True),
        ({"key": "n", "operator": ">", "value": 1}, True),
        ({"key": "$.n", "value": "2"}, True),
        ({"key": "missing", "operator": "exists"}, False),
        ({"type": "condition", "params": {"key": "n", "operator": "exists"}}, True),
        ({"type": "and", "guards": ["context.n > 1", "context.n < 3"]}, True),
        ({"type": "and", "guards": ["context.n > 1", "context.n < 2"]}, False),
        ({"type": "or", "guards": ["context.n > 9", "context.n < 3"]}, True),
        ({"type": "not", "guard": "context.n > 9"}, True),
        ({"type": "xstate.not", "params": {"guards": ["context.n > 9"]}}, True),
        (
            {
                "type": "xstate.and",
                "params": {"guards": ["context.n > 1", {"type": "not", "guard": "false"}]},
            },
            True,
        ),
        ({"type": "and", "guards": []}, True),
        ({"type": "or", "guards": []}, False),
    ],
)
def test_what_a_guard_answers(guard, expected):
    assert passes(guard, context={"n": 2}) is expected


def test_a_name_leads_to_the_guards_of_the_document():
    guards = {"rich": "context.money > 100", "poor": {"type": "not", "guard": "rich"}}

    assert passes("poor", guards=guards, context={"money": 5})
    assert not passes({"type": "rich"}, guards=guards, context={"money": 5})


def test_a_name_wins_over_an_expression_of_the_same_text():
    assert passes("false", guards={"false": "true"})


def test_a_named_guard_reads_the_params_of_whoever_names_it():
    guards = {"atLeast": "context.n >= params.least"}

    assert passes(
        {"type": "atLeast", "params": {"least": "${event.n}"}},
        guards=guards,
        context={"n": 5},
        event={"n": 5},
    )
    assert not passes({"type": "atLeast", "params": {"least": 6}}, guards=guards, context={"n": 5})
    assert not passes("atLeast", guards=guards, context={"n": 5})


@pytest.mark.parametrize(
    ("guard", "expected"),
    [
        ({"type": "or", "guards": ["context.missing == 1", "true"]}, True),
        ({"type": "and", "guards": ["context.missing == 1", "false"]}, False),
        ({"type": "and", "guards": ["context.missing == 1", "true"]}, False),
        ({"type": "not", "guard": "context.missing == 1"}, False),
        ({"type": "not", "guard": {"type": "or", "guards": ["context.missing == 1", "false"]}}, False),
    ],
)
def test_a_failure_inside_decides_only_where_nothing_else_does(guard, expected):
    assert passes(guard) is expected


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("p.x", True),
        ("p.x.two", False),
        ("#one", True),
        ("#m.p.y", True),
        ({"p": {"x": "one"}}, True),
        ({"p": {"x": "one", "y": {}}}, True),
        ({"p": {"x": "two"}}, False),
        ("other", False),
    ],
)
def test_state_in_asks_which_states_are_active(state, expected):
    document = document_of(
        {
            "p": {
                "type": "parallel",
                "states": {
                    "x": {"initial": "one", "states": {"one": {"id": "one"}, "two": {}}},
                    "y": {"on": {"GO": {"target": "#m.other", "guard": {"type": "stateIn", "state": state}}}},
                },
            },
            "other": {},
        }
    )

    assert (last(document, "GO")["configuration"] == ["other"]) is expected
