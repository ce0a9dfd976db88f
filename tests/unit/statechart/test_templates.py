"""Values of a definition: what is a template, what it becomes, and what stays text."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statechart.expressions import ExpressionFailed, ExpressionInvalid, Meter, Scope
from statechart.templates import compile_value, is_template

CONTEXT = {
    "name": "Ada",
    "count": 3,
    "ratio": 2.0,
    "nothing": None,
    "flag": True,
    "order": {"lines": [{"sku": "a"}, {"sku": "b"}], "b": 1, "a": [1, None]},
    "0": {"id": "first"},
}


def evaluate(value, **roots):
    names = roots.get("extra", {})
    return compile_value(value, extra_names=names).evaluate(Scope(**({"context": CONTEXT} | roots)))


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("${context.count}", 3),
        ("${context.order.lines}", [{"sku": "a"}, {"sku": "b"}]),
        ("${context.nothing}", None),
        ("${context.count > 2}", True),
        ("${ context.count }", 3),
        ("${'a' + \"}\"}", "a}"),
        ("${{'k': {'deep': context.count}}}", {"k": {"deep": 3}}),
        ("${{'k': '{'}}", {"k": "{"}),
        ("${r'\\}' + '\\'}'}", "\\}'}"),
        ("${'''}'''}", "}"),
        ('${"""a"}"""}', 'a"}'),
        ("${1 // }\n}", 1),
        ("${'$' + '{x}'}", "${x}"),
    ],
)
def test_one_expression_alone_keeps_its_type(template, value):
    found = evaluate(template)

    assert json.dumps(found) == json.dumps(value)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("Hello ${context.name}!", "Hello Ada!"),
        ("${context.name}${context.count}", "Ada3"),
        (" ${context.count}", " 3"),
        ("ratio ${context.ratio}, half ${context.ratio / 4}", "ratio 2, half 0.5"),
        ("is ${context.nothing}", "is null"),
        ("is ${context.flag}", "is true"),
        ("got ${context.order}", 'got {"a":[1,null],"b":1,"lines":[{"sku":"a"},{"sku":"b"}]}'),
        ('got ${[1.0, \'é\', "q\\""]}', 'got [1,"é","q\\""]'),
        ("at ${timestamp(0)}", "at 1970-01-01T00:00:00.000000Z"),
        ("for ${duration('90s')}", "for 90s"),
        ("costs 5$", "costs 5$"),
        ("$5 and ${context.count}", "$5 and 3"),
        ("{not} one ${'yes'}", "{not} one yes"),
    ],
)
def test_expressions_inside_text_are_rendered(template, text):
    assert evaluate(template) == text


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("$.name", "Ada"),
        ("$.order.lines.1.sku", "b"),
        ("$.order.lines.length", 2),
        ("$.0.id", "first"),
        ("$.missing", None),
        ("$.missing.deeper", None),
        ("$.name.first", None),
        ("$.order.lines.9", None),
        ("$.order.lines.-1", None),
        ("$.order.lines.1.0", None),
        ("$.order.lines.٣", None),
        ("$.nothing.x", None),
        ("$.nothing", None),
        ("$.odd name", None),
    ],
)
def test_a_path_reads_the_context_or_is_null(path, value):
    assert evaluate(path) == value


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("$${context.name}", "${context.name}"),
        ("a $${b} ${context.count}", "a ${b} 3"),
        ("$$.name", "$.name"),
        ("$$$.name", "$$.name"),
        ("$$$${context.name}", "$$${context.name}"),
        ("$$.a ${context.count}", "$.a 3"),
        ("$config.orders.limit", "$config.orders.limit"),
        ("text $.name text", "text $.name text"),
        ("$name", "$name"),
        ("$", "$"),
        ("", ""),
        ("${secret.API_KEY}", "${secret.API_KEY}"),
        ("Bearer ${secret.API_KEY}", "Bearer ${secret.API_KEY}"),
        ("${ secret.api-key.v2 }", "${ secret.api-key.v2 }"),
    ],
)
def test_what_stays_text(written, meant):
    assert evaluate(written) == meant


def test_values_are_evaluated_at_any_depth_and_the_rest_is_kept():
    value = {
        "a": [1, {"b": ["${context.count}", None, "x ${context.name}"]}],
        "${k}": "$.flag",
        "c": {"d": [True]},
    }

    compiled = compile_value(value)

    assert compiled.evaluate(Scope(context=CONTEXT)) == {
        "a": [1, {"b": [3, None, "x Ada"]}],
        "${k}": True,
        "c": {"d": [True]},
    }
    assert compiled.paths == {"context.count", "context.name", "context.flag"}
    assert not compiled.is_literal


@pytest.mark.parametrize(
    "literal", [None, 1, 2.5, True, "text", [], {}, {"a": [1, "b", {"c": None}]}, "${secret.A}"]
)
def test_a_literal_is_returned_as_it_stands(literal):
    compiled = compile_value(literal)

    assert compiled.is_literal
    assert not compiled.paths
    assert compiled.evaluate(Scope()) is literal


def test_an_escaped_text_is_a_literal_too():
    assert compile_value("$${a}").is_literal
    assert compile_value("$$.a").is_literal


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain", False),
        ("${context.a}", True),
        ("$.a", True),
        ("$$.a", True),
        ({"a": [{"b": "x ${context.a}"}]}, True),
        ({"${a}": [1, None, "$a"]}, False),
        (7, False),
    ],
)
def test_is_template_looks_inside(value, expected):
    assert is_template(value) is expected


def test_extra_names_reach_every_expression():
    assert evaluate({"a": ["${item}", "n ${index}"]}, extra={"item": {"x": 1}, "index": 0}) == {
        "a": [{"x": 1}, "n 0"]
    }


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("${", "expression.syntax"),
        ("${context.a", "expression.syntax"),
        ("${'}", "expression.syntax"),
        ("${}", "expression.syntax"),
        ("a ${context.a +} b", "expression.syntax"),
        ("${nowhere}", "expression.unknown_name"),
        ("${secret.a + 1}", "expression.unknown_name"),
        ("$.", "expression.syntax"),
        ("$.a..b", "expression.syntax"),
        ("$.a.${b}", "expression.syntax"),
        ([{"a": "${x y}"}], "expression.syntax"),
    ],
)
def test_a_template_that_cannot_run_is_refused(value, code):
    with pytest.raises(ExpressionInvalid) as caught:
        compile_value(value)

    assert caught.value.code == code


def test_a_failing_expression_fails_the_value():
    with pytest.raises(ExpressionFailed) as caught:
        evaluate({"a": 1, "b": "${context.missing}"})

    assert caught.value.code == "expression.missing"
    assert caught.value.text == "context.missing"


def test_the_places_of_secrets_are_known():
    value = {
        "headers": ["${secret.A}", {"x": "Bearer ${secret.B} for ${context.name}"}],
        "body": "${context.name}",
    }

    assert compile_value(value).secrets == (("headers", 0), ("headers", 1, "x"))


def test_data_cannot_name_a_secret_beside_one():
    compiled = compile_value("${secret.A} ${context.name}")

    with pytest.raises(ExpressionFailed) as caught:
        compiled.evaluate(Scope(context={"name": "${secret.B}"}))

    assert caught.value.code == "expression.value"
    assert compile_value("${context.name}").secrets == ()


def test_data_cannot_name_a_secret_in_several_pieces():
    compiled = compile_value("${context.a}${context.b} ${secret.A}")

    assert compiled.evaluate(Scope(context={"a": "${", "b": "x}"})) == "${x} ${secret.A}"
    with pytest.raises(ExpressionFailed, match="cannot take in data"):
        compiled.evaluate(Scope(context={"a": "${", "b": "secret.B}"}))


@pytest.mark.parametrize(
    "text", ["$${secret.A} is ${secret.A}", "${secret.A} and $${ secret.B }${context.x}"]
)
def test_a_text_with_secrets_holds_no_literal_one(text):
    with pytest.raises(ExpressionInvalid, match="cannot hold a literal"):
        compile_value(text)

    assert compile_value("$${secret.A}").secrets == ()


def test_one_value_has_one_account():
    context = {"list": list(range(9_000))}
    one = "${context.list.all(x, x >= 0)}"

    assert evaluate([one] * 2, context=context) == [True] * 2
    with pytest.raises(ExpressionFailed) as caught:
        evaluate([one] * 10, context=context)
    assert caught.value.code == "expression.too_expensive"


def test_many_references_to_something_large_are_too_large_together():
    context = {"big": "x" * 400_000}

    assert len(evaluate(["${context.big}"] * 2, context=context)) == 2
    for value in (["${context.big}"] * 3, "${context.big}${context.big}${context.big}"):
        with pytest.raises(ExpressionFailed) as caught:
            evaluate(value, context=context)
        assert caught.value.code == "expression.too_expensive"


def test_a_shared_meter_stays_in_the_scope():
    meter = Meter()
    scope = Scope(context=CONTEXT, meter=meter)

    compile_value(["${context.count}", "a ${context.name}"]).evaluate(scope)

    assert scope.meter is meter
    assert meter.operations > 0
    assert compile_value(["${context.count}"]).evaluate(Scope(context=CONTEXT)) == [3]


def test_a_value_that_nests_too_deep_is_refused():
    value: list = []
    for _ in range(5_000):
        value = [value]

    with pytest.raises(ExpressionInvalid) as caught:
        compile_value(value)

    assert caught.value.code == "expression.too_deep"
    assert is_template(value) is False


JSONS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PIECES = st.lists(
    st.sampled_from(
        [
            "${",
            "}",
            "{",
            "$",
            "$$",
            "$.",
            ".",
            "a",
            "context",
            "'",
            '"',
            " ",
            "secret.A",
            "1",
            "\\",
            "//",
            "\n",
        ]
    ),
    max_size=12,
).map("".join)


@given(value=JSONS)
def test_data_passes_through_a_template_unchanged(value):
    assert evaluate("${context.x}", context={"x": value}) is value
    assert evaluate(["${context.x}"], context={"x": value}) == [value]


@given(text=PIECES | st.text(max_size=30))
def test_any_text_is_compiled_or_refused(text):
    try:
        found = compile_value(text).evaluate(Scope(context={"a": 1}))
    except (ExpressionInvalid, ExpressionFailed):
        return
    assert is_template(text) or found == text
    assert compile_value(text).evaluate(Scope(context={"a": 1})) == found


@given(text=PIECES)
def test_one_dollar_more_makes_any_text_a_literal(text):
    escaped = re.sub(r"(\$+)\{", r"$\1{", text)
    if re.match(r"\$+\.", escaped):
        escaped = "$" + escaped

    assert evaluate(escaped) == text
