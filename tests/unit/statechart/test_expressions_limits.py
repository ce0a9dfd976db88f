"""No expression, however hostile, costs more than a second or unbounded memory: limits are met before the work is done."""

from __future__ import annotations

import contextlib
import sys
import time

import pytest

from statechart.expressions import (
    MAX_BYTES,
    MAX_LENGTH,
    MAX_OPERATIONS,
    ExpressionFailed,
    ExpressionInvalid,
    Meter,
    Scope,
    compile_expression,
)
from tests.support.slowdown import assert_within

TOO_EXPENSIVE = "expression.too_expensive"
MEGABYTE = 1_000_000

DATA = {
    "big": "x" * MEGABYTE,
    "same": "x" * (MEGABYTE - 1) + "y",
    "accents": "é" * 400_000,
    "numbers": list(range(50_000)),
    "texts": [str(number) for number in range(50_000)],
    "wide": {f"k{number}": number for number in range(50_000)},
    "wider": {f"k{number}": number for number in range(1, 50_001)},
    "bigs": ["x" * MEGABYTE, "x" * (MEGABYTE - 1) + "y"] * 1_000,
}

BOMBS = {
    "concatenation": "context.big + context.big",
    "doubling texts": '["x"]' + ".map(x, [x + x, x + x])" * 60,
    "doubling references": '[["x"]]' + ".map(x, [x, x, x, x, x, x, x, x])" * 30,
    "nested quantifiers": "[0, 1].all(a, " * 20 + "true" + ")" * 20,
    "nested ranges": "lists.range(100).map(a, " * 8 + "1" + ")" * 8,
    "a list of a billion": "lists.range(1000000000)",
    "absorbed errors": "context.numbers.exists(x, context.missing == 1)",
    "a chain of absorbed errors": " || ".join(["context.numbers.exists(x, 1 / 0 == 1)"] * 20),
    "comparing long texts": "context.numbers.exists(x, context.big == context.same)",
    "ordering long texts": "context.numbers.exists(x, context.big > context.same)",
    "comparing wide maps": "context.numbers.exists(x, context.wide == context.wider)",
    "searching long texts": 'context.numbers.exists(x, context.big.contains("yx"))',
    "replacing by something longer": 'context.big.replace("x", context.big)',
    "splitting into characters": 'context.big.split("")',
    "joining by something long": "context.bigs.join(context.big)",
    "sorting long texts": "context.bigs.sort()",
    "distinct of many": "context.numbers.distinct()",
    "membership in a loop": "context.numbers.filter(x, x in context.numbers)",
    "rendering in a loop": "context.numbers.map(x, string(context.wide))",
    "upper case in a loop": "context.numbers.map(x, context.accents.upper())",
    "a pattern over a long text": 'context.big.matches("(a{0,500}){0,2}b")',
    "a pattern in a loop": 'context.numbers.exists(x, context.big.matches("(x+x+)+y"))',
    "many patterns": r'context.texts.exists(x, "a".matches("(\\pL{1,2})" + x))',
    "many time zones": 'context.texts.exists(x, now.getHours("A/" + x) == 1)',
    "a large result": "context",
    "a large list": "[context.numbers, context.numbers, context.numbers, context.numbers, context.numbers]",
    "one operation an element": "context.numbers.map(x, x).map(x, x)",
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_before_it_goes_off(text):
    scope = Scope(context=DATA)
    expression = compile_expression(text)

    started = time.process_time()
    with pytest.raises(ExpressionFailed) as caught:
        expression.evaluate(scope)
    spent = time.process_time() - started

    assert caught.value.code == TOO_EXPENSIVE
    assert "more than" in caught.value.message or "larger than" in caught.value.message
    assert_within(spent, 1, clock=time.process_time)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "(",
            "[",
            "{",
            "!",
            "-",
            "a.",
            "a[",
            '"',
            '"""',
            "''' ",
            'r"',
            "\\",
            "true?",
            "true?true:",
            "1+",
            ".5",
            "1e",
        ),
        *(
            "//",
            "// \n",
            "`",
            "context.a.",
            "has(",
            "size(",
            "[1].map(x,",
            '{"":',
            '"\\x41',
            "||",
            "1 in ",
            "9",
            "é",
        ),
        *(
            "context.b==1||",
            '"".matches("(a{0,500}){0,2}b")||',
            "uuid()+",
            "$",
            "\0",
            "\ud800",
            "context.a+",
            "in ",
        ),
    ],
)
def test_a_hostile_text_is_compiled_or_refused_within_a_second(text):
    whole = (text * MAX_LENGTH)[:MAX_LENGTH]

    started = time.process_time()
    with contextlib.suppress(ExpressionInvalid):
        compile_expression(whole)
    spent = time.process_time() - started

    assert_within(spent, 1, clock=time.process_time)


def test_a_text_may_be_ten_thousand_characters_long():
    longest = "1 //".ljust(MAX_LENGTH, "x")

    assert compile_expression(longest).evaluate(Scope()) == 1
    with pytest.raises(ExpressionInvalid) as caught:
        compile_expression(longest + "x")
    assert caught.value.code == "expression.too_long"


def test_long_flat_chains_need_no_depth():
    assert compile_expression(" || ".join(["context.a"] * 700)).evaluate(Scope(context={"a": False})) is False
    assert compile_expression("context" + ".a" * 400 + " == 1").paths == {"context" + ".a" * 400}


TALLEST = "(true && (false || 1 == 1 + 1 * " * 18 + "[0]" + ".map(x, [x])" * 5 + "))" * 18
DEEPEST = "(true || true && 1 == 1 + 1 * [" * 20 + "0" + "])" * 20
DEEPER = "(true || true && 1 == 1 + 1 * [" * 21 + "0" + "])" * 21


@pytest.mark.parametrize(
    ("text", "code"),
    [(TALLEST, "expression.type"), (DEEPEST, "expression.too_deep"), (DEEPER, "expression.too_deep")],
    ids=["tallest", "deepest", "deeper"],
)
def test_half_of_python_s_stack_is_enough_for_the_deepest_expression(text, code):
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(_depth() + limit // 2)
    try:
        with pytest.raises((ExpressionFailed, ExpressionInvalid)) as caught:
            compile_expression(text).evaluate(Scope())
    finally:
        sys.setrecursionlimit(limit)
    assert caught.value.code == code


def _depth() -> int:
    frame, depth = sys._getframe(), 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1
    return depth


def test_data_deeper_than_python_s_stack_is_compared_and_refused_as_a_result():
    deep: list = []
    other: list = []
    for _ in range(50_000):
        deep, other = [deep], [other]
    scope = Scope(context={"deep": deep, "other": other})

    assert compile_expression("context.deep == context.other").evaluate(scope) is True
    for text in ("context.deep", "string(context.deep)", "[context.deep].flatten(100)"):
        with pytest.raises(ExpressionFailed) as caught:
            compile_expression(text).evaluate(scope)
        assert caught.value.code == "expression.too_deep"


def test_untaken_branches_are_charged_at_the_start():
    meter = Meter()

    compile_expression("true ? 1 : context.a + context.b").evaluate(Scope(meter=meter))

    assert meter.operations == 8


def test_a_result_up_to_the_limit_is_returned():
    fits = "x" * (MAX_BYTES // 2)

    assert len(compile_expression("context.a + context.a").evaluate(Scope(context={"a": fits}))) == MAX_BYTES
    with pytest.raises(ExpressionFailed):
        compile_expression("context.a + context.a + 'x'").evaluate(Scope(context={"a": fits}))


def test_bytes_are_counted_in_utf_8():
    context = {"a": "é" * (MAX_BYTES // 4)}

    assert compile_expression("context.a + context.a").evaluate(Scope(context=context))
    with pytest.raises(ExpressionFailed):
        compile_expression("context.a + context.a + 'x'").evaluate(Scope(context=context))


def test_an_expression_of_everyday_size_is_far_from_the_limit():
    meter = Meter()
    context = {"lines": [{"price": 10, "count": number} for number in range(200)]}

    total = compile_expression("context.lines.filter(l, l.count > 3).map(l, l.price * l.count).sum()")

    assert total.evaluate(Scope(context=context, meter=meter)) == 198_940
    assert meter.operations < MAX_OPERATIONS / 20


@pytest.mark.parametrize("pattern", ["a" * 1_001, r"\\pL{1000}", "((a{100}){100}){100}", r"\\w{1000}"])
def test_a_pattern_too_large_is_refused_at_compile(pattern):
    with pytest.raises(ExpressionInvalid) as caught:
        compile_expression(f"'a'.matches('{pattern}')")

    assert caught.value.code == "expression.pattern"


def test_the_patterns_of_one_expression_are_bounded_together():
    text = " || ".join(f"context.a.matches('x{{{900 + number}}}')" for number in range(30))

    with pytest.raises(ExpressionInvalid) as caught:
        compile_expression(text)

    assert caught.value.code == TOO_EXPENSIVE


def test_a_pattern_is_charged_once_however_often_it_is_used():
    meter = Meter()
    context = {"texts": ["a"] * 100, "pattern": "^b?a"}

    compile_expression("context.texts.all(t, t.matches(context.pattern))").evaluate(
        Scope(context=context, meter=meter)
    )

    assert 2_000 < meter.operations < 3_500
