"""What a caller of `compile_expression` sees: paths, names, places of errors, draws, and that data is never converted."""

from __future__ import annotations

import pickle
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from statechart.expressions import ExpressionFailed, ExpressionInvalid, Meter, Scope, compile_expression


def evaluate(text: str, **roots):
    extra_names = roots.get("extra", {})
    return compile_expression(text, extra_names=extra_names).evaluate(Scope(**roots))


def refusal(text: str, **names) -> ExpressionInvalid:
    with pytest.raises(ExpressionInvalid) as caught:
        compile_expression(text, **names)
    return caught.value


def failure(text: str, **roots) -> ExpressionFailed:
    with pytest.raises(ExpressionFailed) as caught:
        evaluate(text, **roots)
    return caught.value


# Paths


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("1 + 1", set()),
        ("context", {"context"}),
        ("context.order.id == event.id && now > timestamp(0)", {"context.order.id", "event.id", "now"}),
        ('context["order"].id', {"context.order.id"}),
        ("context.`a.b`.c", {"context.`a.b`.c"}),
        ("context.lines[0].sku", {"context.lines"}),
        ("context.lines[event.at].sku", {"context.lines", "event.at"}),
        ("context.lines.map(l, l.price * config.rate)", {"context.lines", "config.rate"}),
        ("has(config.orders.limit)", {"config.orders.limit"}),
        ("context.?order.id.orValue(input.id)", {"context.order.id", "input.id"}),
        ("context.name.size()", {"context.name"}),
        ("item.price", {"item.price"}),
        ("[1].map(context, context.a)", set()),
    ],
)
def test_paths_name_what_is_read(text, paths):
    assert compile_expression(text, extra_names=["item"]).paths == paths


# Names


def test_extra_names_are_read_from_extra():
    assert evaluate("item.price * index", extra={"item": {"price": 3}, "index": 2}) == 6


def test_an_extra_name_without_a_value_is_missing():
    expression = compile_expression("output.total", extra_names=["output"])

    with pytest.raises(ExpressionFailed) as caught:
        expression.evaluate(Scope())

    assert caught.value.code == "expression.missing"


def test_names_that_only_another_place_defines_are_unknown():
    compile_expression("item.a", extra_names=["item"])

    assert refusal("item.a").code == "expression.unknown_name"


def test_a_macro_variable_hides_an_extra_name_only_inside_its_macro():
    assert evaluate("[1].map(item, item)[0] + item", extra={"item": 10}) == 11


# Errors


def test_an_error_shows_the_place():
    error = failure("context.order.amont > 3", context={"order": {"amount": 5}})

    assert (error.line, error.column) == (1, 15)
    assert error.suggestion == "amount"
    assert error.message == (
        'context.order has no member "amont"; did you mean "amount"? (line 1, column 15)\n'
        "  context.order.amont > 3\n"
        "                ^"
    )
    assert str(error) == error.message


def test_an_error_shows_only_its_line():
    error = refusal('event.type == "PAY" &&\n  context.amount >> 3')

    assert (error.line, error.column) == (2, 19)
    assert error.message.splitlines()[1:] == ["    context.amount >> 3", "                    ^"]


def test_an_error_shows_only_the_surroundings_in_a_long_line():
    error = refusal("context.a == 1 || " * 20 + "? || " + "context.b == 2 || " * 20 + "true")

    _, excerpt, caret = error.message.splitlines()
    assert len(excerpt) < 100
    assert excerpt[caret.index("^")] == "?"


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("contxt.a", "context"),
        ("[1].map(item, itm)", "item"),
        ("'a'.startWith('b')", "startsWith"),
        ("tiemstamp('2026-01-01T00:00:00Z')", "timestamp"),
        ("context.lines.exist(l, true)", "exists"),
        ("math.greates(1, 2)", "math.greatest"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(text, suggestion):
    error = refusal(text)

    assert error.suggestion == suggestion
    assert f'did you mean "{suggestion}"?' in error.message


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("context.a = 1", 'did you mean "=="?'),
        ("context.a === 1", 'did you mean "=="?'),
        ("true and false", 'did you mean "&&"?'),
        ("true | false", 'did you mean "||"?'),
        ("contains('a', 'b')", "x.contains(…)"),
        ("context.a.int()", "int(x)"),
        ("'a", "is not closed"),
        ("size('a', 'b')", "takes 1 argument, found 2"),
        ("'a'.split()", "takes 1 to 2 arguments, found 0"),
        ("min()", "takes at least 1 argument"),
        ("context.if(1)", 'unknown function "if"'),
        ("while", "reserved word"),
        ("order.id", "there are context, event, input, instance, config, steps, now"),
        ("Order{id: 1}", "messages are not part of this language"),
    ],
)
def test_a_refusal_says_what_to_do(text, hint):
    assert hint in refusal(text).message


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("'a' + 1", "string(…)"),
        ("now > '2026-01-01T00:00:00Z'", "timestamp(…)"),
        ("duration('1h') > '1h'", "duration(…)"),
        ("context.count > 3", "double(…)"),
        ("context.list.length > 3", "size(…)"),
        ("context.list.contains(1)", '"x in list"'),
        ("'a' in context.count", "text.contains(part)"),
        ("context.count[0]", "charAt(…)"),
    ],
)
def test_a_failure_says_what_to_do(text, hint):
    assert hint in failure(text, context={"count": "7", "list": [1]}).message


def test_errors_survive_pickling():
    error = failure("context.amont", context={"amount": 1})

    again = pickle.loads(pickle.dumps(error))

    assert (again.code, again.message) == (error.code, error.message)


def test_a_literal_that_never_works_is_refused_at_compile():
    assert refusal("timestamp('tomorrow')").code == "expression.value"
    assert refusal("duration('soon')").code == "expression.value"
    assert refusal("'a'.matches('(')").code == "expression.pattern"


# Data


def test_data_is_returned_as_it_stands():
    order = {"lines": [1, 2.0, {"a": None}]}

    assert evaluate("context.order", context={"order": order}) is order


def test_a_result_is_built_anew_each_time():
    expression = compile_expression("[1, {'a': 2}]")

    first = expression.evaluate(Scope())
    first[1]["a"] = 3

    assert expression.evaluate(Scope()) == [1, {"a": 2}]


def test_an_expression_does_not_change_the_data():
    context = {"b": [3, 1], "a": {"x": 1}}

    evaluate(
        "[context.b.sort(), context.b + [4], context.map(k, context[k]), context.b.reverse()]",
        context=context,
    )

    assert context == {"b": [3, 1], "a": {"x": 1}}


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_json_has_no_number_for_is_no_result(number):
    assert failure("context.x", context={"x": number}).code == "expression.number"
    assert failure("[context.x]", context={"x": number}).code == "expression.number"
    assert failure("context.x + 1", context={"x": number}).code == "expression.number"


def test_half_of_a_surrogate_pair_is_no_accident():
    assert failure("context.x.matches('a')", context={"x": "\ud800"}).code == "expression.pattern"
    assert evaluate("context.x + 'a'", context={"x": "\ud800"}) == "\ud800a"


# Draws


def test_draws_differ_within_a_scope_and_repeat_with_its_seed():
    def draws(seed: str):
        scope = Scope(seed=seed)
        return [
            compile_expression(text).evaluate(scope) for text in ("uuid()", "uuid()", "random()", "random()")
        ]

    first = draws("instance-7/3")

    assert len(set(map(str, first))) == 4
    assert draws("instance-7/3") == first
    assert draws("instance-7/4") != first


def test_a_replaced_scope_goes_on_counting():
    scope = Scope(seed="s")
    first = compile_expression("uuid()").evaluate(scope)

    again = compile_expression("uuid()").evaluate(replace(scope, context={"a": 1}))

    assert again != first


def test_draws_are_spread_over_the_unit_interval():
    scope = Scope(seed="s")
    draw = compile_expression("random()")

    drawn = [draw.evaluate(scope) for _ in range(2_000)]

    assert all(0 <= number < 1 for number in drawn)
    assert 0.45 < sum(drawn) / len(drawn) < 0.55


def test_now_is_the_scope_s():
    at = datetime(2026, 3, 1, 9, 12, 0, 5, tzinfo=UTC)

    assert evaluate("now", now=at) == "2026-03-01T09:12:00.000005Z"


# Meters


def test_a_shared_meter_counts_all_evaluations():
    meter = Meter(max_operations=1_200)
    scope = Scope(context={"list": list(range(100))}, meter=meter)
    expression = compile_expression("context.list.all(x, x >= 0)")

    expression.evaluate(scope)
    counted = meter.operations

    assert 300 < counted < 600
    expression.evaluate(scope)
    with pytest.raises(ExpressionFailed) as caught:
        expression.evaluate(scope)
    assert caught.value.code == "expression.too_expensive"


def test_without_a_meter_each_evaluation_has_its_own():
    scope = Scope(context={"list": list(range(20_000))})
    expression = compile_expression("context.list.all(x, x >= 0)")

    assert [expression.evaluate(scope) for _ in range(3)] == [True] * 3


def test_size_grows_with_nodes_and_patterns():
    small = compile_expression("context.a.matches('a')").size
    large = compile_expression("context.a.matches('a{500}')").size

    assert small < 50
    assert large > 500
