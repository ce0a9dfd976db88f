"""Properties of any text over any data: a value or one of our two errors, always the same, never too expensive."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statechart.expressions import (
    MAX_OPERATIONS,
    ExpressionFailed,
    ExpressionInvalid,
    Meter,
    Scope,
    compile_expression,
)

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
JSONS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abc") | TEXTS, inner, max_size=4)
    ),
    max_leaves=8,
)

WORDS = [
    *(
        "context",
        "event",
        "input",
        "now",
        "x",
        "y",
        "a",
        "b",
        "true",
        "false",
        "null",
        "int",
        "string",
        "math",
    ),
    *(
        "has",
        "all",
        "exists",
        "exists_one",
        "map",
        "filter",
        "size",
        "matches",
        "min",
        "max",
        "round",
        "uuid",
        "random",
    ),
    *(
        "timestamp",
        "duration",
        "getHours",
        "split",
        "join",
        "replace",
        "substring",
        "indexOf",
        "sort",
        "flatten",
    ),
    *(
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ".",
        ".?",
        ",",
        ":",
        "?",
        "!",
        "-",
        "+",
        "*",
        "/",
        "%",
        "==",
        "!=",
        "<",
        ">=",
    ),
    *(
        "&&",
        "||",
        "in",
        "0",
        "1",
        "2.5",
        "1e3",
        "0x1f",
        "'a'",
        '"b"',
        "r'\\d'",
        "'2026-01-01T00:00:00Z'",
        "'1h'",
        "//",
    ),
]
SOUP = st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join)

LEAVES = st.sampled_from(
    [
        *(
            "context",
            "context.a",
            "context.b.c",
            "event.type",
            "now",
            "null",
            "true",
            "false",
            "0",
            "1",
            "-3",
            "2.5",
            "''",
        ),
        *(
            "'ab'",
            "'1h'",
            "[]",
            "{}",
            "[1, 2, 3]",
            "{'a': 1, 'b': [2]}",
            "duration('1h')",
            "random()",
            "uuid()",
            "x",
        ),
    ]
)


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Well-formed expressions around smaller ones, so that evaluation is reached more often than syntax errors."""
    binary = st.sampled_from(["+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "in", "&&", "||"])
    macro = st.sampled_from(["all", "exists", "exists_one", "map", "filter"])
    one = st.sampled_from(
        ["size", "type", "int", "double", "string", "bool", "timestamp", "duration", "abs", "round"]
    )
    method = st.sampled_from(
        ["lower", "trim", "reverse", "sort", "distinct", "flatten", "sum", "getHours", "hasValue"]
    )
    two = st.sampled_from(
        ["contains", "split", "join", "matches", "indexOf", "charAt", "orValue", "startsWith"]
    )
    return st.one_of(
        st.tuples(inner, binary, inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(inner, inner, inner).map(lambda t: f"({t[0]} ? {t[1]} : {t[2]})"),
        st.tuples(inner, macro, inner).map(lambda t: f"({t[0]}).{t[1]}(x, {t[2]})"),
        st.tuples(one, inner).map(lambda t: f"{t[0]}({t[1]})"),
        st.tuples(inner, method).map(lambda t: f"({t[0]}).{t[1]}()"),
        st.tuples(inner, two, inner).map(lambda t: f"({t[0]}).{t[1]}({t[2]})"),
        st.tuples(inner, inner).map(lambda t: f"({t[0]})[{t[1]}]"),
        st.tuples(inner, st.sampled_from("ab")).map(lambda t: f"({t[0]}).{t[1]}"),
        st.tuples(inner, st.sampled_from("ab")).map(lambda t: f"({t[0]}).?{t[1]}"),
        st.tuples(inner, st.sampled_from("ab")).map(lambda t: f"has(({t[0]}).{t[1]})"),
        st.tuples(st.sampled_from("!-"), inner).map(lambda t: f"{t[0]}({t[1]})"),
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.lists(inner, max_size=2).map(
            lambda items: (
                "{" + ", ".join(f"'k{position}': {item}" for position, item in enumerate(items)) + "}"
            )
        ),
    )


WELL_FORMED = st.recursive(LEAVES, _grown, max_leaves=12)


def error_of(text: str, context) -> ExpressionInvalid | ExpressionFailed | None:
    try:
        compile_expression(text, extra_names=["x"]).evaluate(Scope(context=context, extra={"x": 1}))
    except (ExpressionInvalid, ExpressionFailed) as error:
        return error
    return None


def outcome(text: str, context, meter: Meter | None = None):
    """The value as JSON text, or the code and message of the error."""
    try:
        expression = compile_expression(text, extra_names=["x"])
        scope = Scope(context=context, event={"type": "E"}, extra={"x": 1}, seed="s", meter=meter)
        return json.dumps(expression.evaluate(scope), allow_nan=False)
    except (ExpressionInvalid, ExpressionFailed) as error:
        return error.code, error.message


@given(text=st.text(max_size=60) | SOUP, context=JSONS)
def test_any_text_gives_a_value_or_an_error_of_ours(text, context):
    assert outcome(text, context) == outcome(text, context)


@given(text=WELL_FORMED, context=JSONS)
def test_any_well_formed_text_gives_the_same_each_time_within_its_account(text, context):
    meter = Meter()

    first = outcome(text, context, meter)

    assert first == outcome(text, json.loads(json.dumps(context)))
    assert meter.operations <= MAX_OPERATIONS or first[0] == "expression.too_expensive"


@given(text=st.text(max_size=60) | SOUP | WELL_FORMED, context=JSONS)
def test_an_error_lies_in_its_text(text, context):
    error = error_of(text, context)

    if error is not None:
        assert error.text == text
        assert 0 <= error.offset <= len(text)
        assert 1 <= error.line <= text.count("\n") + 1


@given(text=WELL_FORMED, context=JSONS)
def test_an_evaluation_does_not_change_its_data(text, context):
    before = json.dumps(context)

    outcome(text, context)

    assert json.dumps(context) == before


@given(left=WELL_FORMED, right=WELL_FORMED, context=JSONS)
def test_and_and_or_are_commutative_but_for_the_error_they_report(left, right, context):
    # Draws are consumed in order of evaluation, so an expression with draws is another one when it is turned around.
    if "random" in left + right or "uuid" in left + right:
        return
    for operator in ("&&", "||"):
        one = outcome(f"({left}) {operator} ({right})", context)
        other = outcome(f"({right}) {operator} ({left})", context)
        assert isinstance(one, str) == isinstance(other, str)
        if isinstance(one, str):
            assert one == other


def _key(value) -> str:
    """JSON text in which numbers of equal value have equal text and nothing else does."""
    match value:
        case bool() | None | str():
            return json.dumps(value)
        case int() | float():
            return f"#{value.as_integer_ratio()}"
        case list():
            return f"[{','.join(map(_key, value))}]"
        case _:
            return "{" + ",".join(f"{json.dumps(name)}:{_key(value[name])}" for name in sorted(value)) + "}"


@given(one=JSONS, other=JSONS)
def test_equality_is_that_of_the_json_values(one, other):
    equal = compile_expression("context.one == context.other")

    assert equal.evaluate(Scope(context={"one": one, "other": json.loads(json.dumps(one))})) is True
    assert equal.evaluate(Scope(context={"one": one, "other": other})) is (_key(one) == _key(other))


NUMBERS = st.integers(-(2**53), 2**53) | st.floats(-(2.0**53), 2.0**53)


@given(a=NUMBERS, b=NUMBERS, operator=st.sampled_from("+-*/%"))
def test_arithmetic_is_exact_or_refused(a, b, operator):
    found = outcome(f"context.a {operator} context.b", {"a": a, "b": b})

    if operator in "/%" and b == 0:
        assert found[0] == "expression.number"
        return
    expected = {
        "+": lambda: a + b,
        "-": lambda: a - b,
        "*": lambda: a * b,
        "/": lambda: a / b,
        "%": lambda: math.fmod(a, b),
    }[operator]()
    if abs(expected) <= 2**53:
        value = json.loads(found)
        assert value == expected
        assert isinstance(value, int) == (expected == int(expected))
    else:
        assert found[0] == "expression.number"


@given(text=st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=40))
def test_a_string_literal_means_its_text(text):
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")

    assert compile_expression(f'"{escaped}"').evaluate(Scope()) == text


@given(members=st.dictionaries(TEXTS, st.integers(), max_size=8))
def test_maps_iterate_by_key_whatever_their_order(members):
    turned = dict(reversed(list(members.items())))

    for text in ("context.map(k, [k, context[k]])", "context.filter(k, k > 'b')"):
        assert outcome(text, members) == outcome(text, turned)
    assert json.loads(outcome("context.map(k, k)", members)) == sorted(members)


@pytest.mark.parametrize("seed", ["", "s", "\ud800"])
def test_any_seed_will_do(seed):
    assert len(compile_expression("uuid()").evaluate(Scope(seed=seed))) == 36
