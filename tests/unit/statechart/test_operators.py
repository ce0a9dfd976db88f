"""Oven's guard operators: its truth table, its paths, and refusals where it guessed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statechart.expressions import ExpressionFailed, ExpressionInvalid, Scope
from statechart.operators import OPERATORS, compile_guard_operator

MISSING = object()


def holds(actual, operator, value=None) -> bool:
    context = {} if actual is MISSING else {"x": actual}
    return compile_guard_operator("x", operator, value).evaluate(Scope(context=context))


@pytest.mark.parametrize(
    ("actual", "value", "equal"),
    [
        (1, 1, True),
        (1, 1.0, True),
        (1, "1", True),
        ("1", 1, True),
        (" 1 ", 1, True),
        ("1.50", 1.5, True),
        ("", 0, True),
        ("a", 0, False),
        ("a", "a", True),
        ("1", "1.0", False),
        (True, 1, True),
        (True, "1", True),
        (False, 0, True),
        (False, "", True),
        (True, "true", False),
        (True, True, True),
        (None, None, True),
        (MISSING, None, True),
        (None, 0, False),
        (MISSING, 0, False),
        (MISSING, "", False),
        (None, False, False),
        (0, None, False),
        ([1], [1], True),
        ([1], [2], False),
        ({"a": 1}, {"a": 1}, True),
        ([1], 1, False),
        ([], "", False),
    ],
)
def test_equality_is_loose(actual, value, equal):
    assert holds(actual, "==", value) is equal
    assert holds(actual, "!=", value) is not equal
    assert holds(actual, None, value) is equal


@pytest.mark.parametrize(
    ("actual", "operator", "value", "answer"),
    [
        (2, ">", 1, True),
        (1, ">", 1, False),
        (1, ">=", 1, True),
        (1, "<", 2, True),
        (2, "<=", 1, False),
        ("10", ">", 9, True),
        ("10", ">", "9", True),
        ("0x10", ">", 9, False),
        ("a", ">", 1, False),
        ("a", "<=", "b", False),
        (True, ">", 0, True),
        ("", ">=", 0, True),
        (None, ">=", 0, True),
        (MISSING, ">=", 0, False),
        (MISSING, "<", 1, False),
        ([5], ">", 1, False),
        ({}, "<", 1, False),
        (1, "<", None, False),
    ],
)
def test_order_compares_numbers(actual, operator, value, answer):
    assert holds(actual, operator, value) is answer


@pytest.mark.parametrize(
    ("actual", "value", "answer"),
    [
        ("abc", "b", True),
        ("abc", "x", False),
        ("abc", "", True),
        ("a1b", 1, True),
        (2026, "02", True),
        ([1, 2], 2, True),
        ([1, 2], "2", False),
        ([1, 2], 2.0, True),
        ([[1]], [1], True),
        ([], None, False),
        ([None], None, True),
        ({"a": 1}, "a", False),
        (None, "null", False),
        (MISSING, "x", False),
        ("[1]", [1], False),
    ],
)
def test_contains_looks_into_texts_and_lists(actual, value, answer):
    assert holds(actual, "contains", value) is answer


@pytest.mark.parametrize("actual", [0, False, "", [], {}, 1, "a"])
def test_anything_but_null_exists(actual):
    assert holds(actual, "exists") is True


@pytest.mark.parametrize("nothing", [None, MISSING])
def test_null_and_missing_do_not_exist(nothing):
    assert holds(nothing, "exists") is False


@pytest.mark.parametrize("key", ["a.b.0.c", "$.a.b.0.c"])
def test_keys_are_paths_with_or_without_the_dollar(key):
    guard = compile_guard_operator(key, "==", 7)

    assert guard.evaluate(Scope(context={"a": {"b": [{"c": 7}]}}))
    assert guard.paths == {"context.a.b.0.c"}
    assert guard.actual(Scope(context={"a": {"b": [{"c": 7}]}})) == 7
    assert guard.actual(Scope(context={})) is None


def test_the_length_of_a_list_can_be_compared():
    assert compile_guard_operator("items.length", ">", 1).evaluate(Scope(context={"items": [1, 2]}))


def test_the_value_may_be_a_template():
    guard = compile_guard_operator("spent", ">=", "${config.limit * 2}")

    assert guard.evaluate(Scope(context={"spent": 20}, config={"limit": 10}))
    assert guard.paths == {"context.spent", "config.limit"}
    assert compile_guard_operator("a", "==", "$.b").evaluate(Scope(context={"a": 1, "b": "1"}))


def test_a_template_that_fails_fails_the_guard():
    with pytest.raises(ExpressionFailed):
        compile_guard_operator("a", "==", "${context.missing}").evaluate(Scope(context={"a": 1}))


def test_an_unknown_operator_is_refused_with_a_suggestion():
    with pytest.raises(ExpressionInvalid) as caught:
        compile_guard_operator("amount", "contain", 1)

    assert caught.value.code == "expression.unknown_operator"
    assert caught.value.suggestion == "contains"


@pytest.mark.parametrize("key", ["", "$.", "a..b", ".a"])
def test_a_key_that_is_no_path_is_refused(key):
    with pytest.raises(ExpressionInvalid) as caught:
        compile_guard_operator(key, "==", 1)

    assert caught.value.code == "expression.syntax"


JSONS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(actual=JSONS | st.just(MISSING), operator=st.sampled_from(sorted(OPERATORS)), literal=JSONS)
def test_a_comparison_of_anything_with_anything_is_true_or_false(actual, operator, literal):
    value = json.loads(json.dumps(literal).replace("$", "S"))

    assert isinstance(holds(actual, operator, value), bool)


@given(one=JSONS, other=JSONS)
def test_loose_equality_is_symmetric(one, other):
    one, other = (json.loads(json.dumps(value).replace("$", "S")) for value in (one, other))

    assert holds(one, "==", other) is holds(other, "==", one)
