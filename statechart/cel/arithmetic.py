"""The operators `+ - * / %` over numbers, texts, lists, instants and durations."""

# ruff: noqa: ARG001 - all entries of the table take the same arguments

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from statechart.cel.errors import NUMBER, TYPE, Place
from statechart.cel.meter import Meter, weight
from statechart.cel.syntax import MAX_EXACT
from statechart.cel.times import bounded, shifted
from statechart.cel.values import is_number, kind, settled

Operation = Callable[[Any, Any, Meter, Place], Any]


def add(left: Any, right: Any, meter: Meter, place: Place) -> Any:
    if is_number(left) and is_number(right):
        return _exact(operator.add, left, right, place)
    match left, right:
        case str(), str():
            meter.charge_bytes(weight(left) + weight(right), place)
            return left + right
        case list(), list():
            meter.charge(len(left) + len(right), place)
            return left + right
        case datetime(), timedelta():
            return shifted(left, right, place)
        case timedelta(), datetime():
            return shifted(right, left, place)
        case timedelta(), timedelta():
            return bounded(left + right, place)
    hint = "; convert the number with string(…)" if str in (type(left), type(right)) else ""
    raise _no_operator("+", left, right, place, hint)


def subtract(left: Any, right: Any, meter: Meter, place: Place) -> Any:
    if is_number(left) and is_number(right):
        return _exact(operator.sub, left, right, place)
    match left, right:
        case datetime(), timedelta():
            return shifted(left, -right, place)
        case (datetime(), datetime()) | (timedelta(), timedelta()):
            return bounded(left - right, place)
    raise _no_operator("-", left, right, place)


def multiply(left: Any, right: Any, meter: Meter, place: Place) -> Any:
    if is_number(left) and is_number(right):
        return _exact(operator.mul, left, right, place)
    raise _no_operator("*", left, right, place)


def divide(left: Any, right: Any, meter: Meter, place: Place) -> Any:
    """True division: 7 / 2 is 3.5, 6 / 2 is 3."""
    if is_number(left) and is_number(right):
        if right == 0:
            raise place.failed(NUMBER, "division by zero")
        return _exact(operator.truediv, left, right, place)
    raise _no_operator("/", left, right, place)


def remainder(left: Any, right: Any, meter: Meter, place: Place) -> Any:
    """What a division cut towards zero leaves; it has the sign of `left`: -7 % 2 is -1."""
    if is_number(left) and is_number(right):
        if right == 0:
            raise place.failed(NUMBER, "remainder of a division by zero")
        if type(left) is int and type(right) is int:
            rest = abs(left) % abs(right)
            return settled(-rest if left < 0 else rest, place)
        return _exact(math.fmod, left, right, place)
    raise _no_operator("%", left, right, place)


def negate(value: Any, place: Place) -> Any:
    if is_number(value):
        return settled(-value, place)
    if type(value) is timedelta:
        return -value
    raise place.failed(TYPE, f"- needs a number, found {kind(value)}")


def _exact(compute: Callable[[Any, Any], Any], left: Any, right: Any, place: Place) -> int | float:
    try:
        return settled(compute(left, right), place)
    except (OverflowError, ValueError):
        # An integer of the data that no float holds, or an infinity in it.
        raise place.failed(NUMBER, f"an operand is beyond ±2^53 ({MAX_EXACT:,})") from None


def _no_operator(symbol: str, left: Any, right: Any, place: Place, hint: str = "") -> Exception:
    return place.failed(TYPE, f"{symbol} cannot combine {kind(left)} and {kind(right)}{hint}")


OPERATIONS: dict[str, Operation] = {
    "+": add,
    "-": subtract,
    "*": multiply,
    "/": divide,
    "%": remainder,
}
