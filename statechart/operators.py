"""Oven's guard operators: `{key, operator, value}`, compared as JavaScript compares.

`key` is a path in the context, with or without `$.`; `value` may be a template. The rules are Oven's: `==` and `!=`
are loose (`1 == "1"`, null and missing are equal to each other and to nothing else), `<` and its kind compare both
sides as numbers and are false where one is none, `contains` looks into texts and lists, `exists` asks for anything but
null. An operator that Oven does not know meant `==` there; here it is refused when the definition is applied.
"""

# ruff: noqa: ARG001 - all entries of the table take the same arguments

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from statechart.cel.errors import SYNTAX, Place
from statechart.cel.meter import Meter
from statechart.cel.values import equal, to_text
from statechart.env import Json
from statechart.expressions import Scope
from statechart.templates import Evaluate, Value, compile_value, path_reader

UNKNOWN_OPERATOR = "expression.unknown_operator"

# What a path that leads nowhere reads: equal to null, but no number, while null is the number 0.
_MISSING = object()

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)", re.ASCII)


@dataclass(frozen=True, slots=True)
class OperatorGuard:
    """A compiled guard; `evaluate` answers true or false, `actual` what the key reads (for explanations)."""

    key: str
    operator: str
    value: Value
    paths: frozenset[str]
    _read: Evaluate
    _place: Place

    def actual(self, scope: Scope) -> Json:
        """What the key reads now; null where it leads nowhere."""
        found = self._read(scope)
        return None if found is _MISSING else found

    def evaluate(self, scope: Scope) -> bool:
        """Raises `ExpressionFailed` where the template in `value` fails; the comparison itself never does."""
        meter = scope.meter or Meter()
        return OPERATORS[self.operator](self._read(scope), self.value.evaluate(scope), meter, self._place)


def compile_guard_operator(
    key: str, operator: str | None = None, value: Json = None, *, extra_names: Collection[str] = ()
) -> OperatorGuard:
    """Compile `{key, operator, value}`; without an operator it is `==`.

    Raises `ExpressionInvalid` (`expression.unknown_operator`, or what the template in `value` raises).
    """
    name = "==" if operator is None else operator
    place = Place(f"{key} {name}", len(key) + 1)
    if name not in OPERATORS:
        raise place.invalid(
            UNKNOWN_OPERATOR, f'unknown operator "{name}"; there are {", ".join(OPERATORS)}', name, OPERATORS
        )
    segments = key.removeprefix("$.").split(".")
    if "" in segments:
        raise Place(key, 0).invalid(
            SYNTAX, f'expected a path in the context such as "order.amount", found {key!r}'
        )
    compiled = compile_value(value, extra_names=extra_names)
    paths = compiled.paths | {".".join(("context", *segments))}
    return OperatorGuard(key, name, compiled, paths, path_reader(segments, missing=_MISSING), place)


def loosely_equal(left: Json, right: Json, meter: Meter, place: Place) -> bool:
    """JavaScript's `==` over JSON; objects and lists are equal when their contents are."""
    if _is_nothing(left) or _is_nothing(right):
        return _is_nothing(left) and _is_nothing(right)
    if isinstance(left, dict | list) or isinstance(right, dict | list):
        return equal(left, right, meter, place)
    if isinstance(left, str) and isinstance(right, str):
        return equal(left, right, meter, place)
    return as_number(left) == as_number(right)


def _is_nothing(value: Json) -> bool:
    return value is None or value is _MISSING


def as_number(value: Json) -> float:
    """JavaScript's `Number(value)` over JSON: null and the empty text are 0, what is missing or no number is NaN."""
    match value:
        case None:
            return 0
        case bool() | int() | float():
            return value
        case str():
            text = value.strip()
            if not text:
                return 0
            return float(text) if len(text) <= 400 and _NUMBER.fullmatch(text) else math.nan
        case _:
            return math.nan


def _unequal(left: Json, right: Json, meter: Meter, place: Place) -> bool:
    return not loosely_equal(left, right, meter, place)


def _comparing(test: Callable[[float, float], bool]) -> Callable[[Json, Json, Meter, Place], bool]:
    def compare(left: Json, right: Json, meter: Meter, place: Place) -> bool:
        return bool(test(as_number(left), as_number(right)))

    return compare


def _contains(left: Json, right: Json, meter: Meter, place: Place) -> bool:
    if isinstance(left, list):
        meter.charge(len(left), place)
        return any(equal(item, right, meter, place) for item in left)
    if _is_nothing(left) or isinstance(left, dict) or isinstance(right, dict | list):
        return False
    text = to_text(left, meter, place)
    meter.charge_scan(text, place)
    return to_text(right, meter, place) in text


def _exists(left: Json, right: Json, meter: Meter, place: Place) -> bool:
    return not _is_nothing(left)


OPERATORS: dict[str, Callable[[Json, Json, Meter, Place], bool]] = {
    "==": loosely_equal,
    "!=": _unequal,
    ">": _comparing(operator.gt),
    "<": _comparing(operator.lt),
    ">=": _comparing(operator.ge),
    "<=": _comparing(operator.le),
    "contains": _contains,
    "exists": _exists,
}
