"""What the values mean: kinds, equality, order, numbers, and how each becomes JSON and text.

Values are the JSON values themselves, never converted; beside them stand instants (`datetime`), durations
(`timedelta`) and types (`Type`), which exist only while an expression runs.

Invariants: a bool is never a number, though Python says so; a number that arithmetic returns is finite, within
±2^53, and an `int` where it is integral.
"""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from statechart.cel.errors import NUMBER, TOO_DEEP, TOO_EXPENSIVE, TYPE, Place
from statechart.cel.meter import SCANNED_PER_OPERATION, Meter, weight
from statechart.cel.syntax import MAX_EXACT
from statechart.env import Json, format_instant

# The depth to which a value is compared, rendered or returned.
MAX_VALUE_DEPTH = 100

# Walking over a value is cheaper than running a node of an expression.
_WALKED_PER_OPERATION = 4


class Type(NamedTuple):
    """A type as a value: `type(1) == int`."""

    name: str


_NAMES: dict[type, str] = {
    type(None): "null_type",
    bool: "bool",
    int: "int",
    float: "double",
    str: "string",
    list: "list",
    dict: "map",
    datetime: "timestamp",
    timedelta: "duration",
    Type: "type",
}
TYPES = {name: Type(name) for name in _NAMES.values()} | {"uint": Type("int")}
_FOREIGN = frozenset((datetime, timedelta, Type))
_ORDERED = frozenset((str, bool, datetime, timedelta))


def kind(value: Any) -> str:
    """The name of the value's type, for messages and `type()`; 2.0 is an `int`, as 2 is."""
    found = type(value)
    if found is float and value.is_integer():
        return "int"
    return _NAMES.get(found, found.__name__)


def is_number(value: Any) -> bool:
    found = type(value)
    return found is int or found is float


def equal(left: Any, right: Any, meter: Meter, place: Place) -> bool:
    """Deep equality over JSON: values of different types are not equal, and no comparison is an error."""
    found = type(left)
    if found is not type(right):
        return is_number(left) and is_number(right) and bool(left == right)
    if found is list or found is dict:
        return _equal_inside(left, right, meter, place)
    if found is str and len(left) == len(right):
        meter.charge_scan(left, place)
    return bool(left == right)


def _equal_inside(left: Any, right: Any, meter: Meter, place: Place) -> bool:
    """Walks with a stack of its own: values may be deeper than Python's."""
    pending = [(left, right)]
    while pending:
        one, other = pending.pop()
        if type(one) is list and type(other) is list:
            if len(one) != len(other):
                return False
            meter.charge(len(one), place)
            pending.extend(zip(one, other, strict=True))
        elif type(one) is dict and type(other) is dict:
            meter.charge(min(len(one), len(other)), place)
            if one.keys() != other.keys():
                return False
            # In sorted order, so that the charge up to the first difference is the same in each replay.
            pending.extend((one[key], other[key]) for key in sorted(one))
        elif type(one) is type(other):
            if type(one) is str and len(one) == len(other):
                meter.charge_scan(one, place)
            if one != other:
                return False
        elif not (is_number(one) and is_number(other) and one == other):
            return False
    return True


def check_ordered(left: Any, right: Any, meter: Meter, place: Place) -> None:
    """Raise unless `left` and `right` have an order: numbers, strings, bools, instants or durations of one kind."""
    found = type(left)
    if found is str and type(right) is str:
        meter.charge(1 + min(len(left), len(right)) // SCANNED_PER_OPERATION, place)
        return
    if (found is type(right) and found in _ORDERED) or (is_number(left) and is_number(right)):
        return
    hint = ""
    if {kind(left), kind(right)} == {"timestamp", "string"}:
        hint = "; convert the text with timestamp(…)"
    elif {kind(left), kind(right)} == {"duration", "string"}:
        hint = "; convert the text with duration(…)"
    elif "string" in {kind(left), kind(right)} and (is_number(left) or is_number(right)):
        hint = "; convert the text with double(…)"
    raise place.failed(TYPE, f"cannot order {kind(left)} and {kind(right)}{hint}")


def settled(result: float, place: Place) -> int | float:
    """A result of arithmetic as our one number type; raises where it is not finite or not exact."""
    if type(result) is float and result.is_integer():
        result = int(result)
    # A NaN fails this comparison, as it must.
    if not -MAX_EXACT <= result <= MAX_EXACT:
        raise place.failed(NUMBER, f"the result is beyond ±2^53 ({MAX_EXACT:,}), where numbers are not exact")
    return result


def need_number(value: Any, place: Place, what: str) -> int | float:
    if type(value) is int:
        if -MAX_EXACT <= value <= MAX_EXACT:
            return value
        raise place.failed(NUMBER, f"{what} needs a number within ±2^53 ({MAX_EXACT:,})")
    if type(value) is float:
        if math.isfinite(value):
            return value
        raise place.failed(NUMBER, f"{what} needs a finite number, found {value}")
    raise place.failed(TYPE, f"{what} needs a number, found {kind(value)}")


def need_int(value: Any, place: Place, what: str) -> int:
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():
        return int(value)
    raise place.failed(TYPE, f"{what} needs an integer, found {kind(value)}")


def need_string(value: Any, place: Place, what: str) -> str:
    if type(value) is str:
        return value
    raise place.failed(TYPE, f"{what} needs a string, found {kind(value)}")


def need_list(value: Any, place: Place, what: str) -> list[Any]:
    if type(value) is list:
        return value
    raise place.failed(TYPE, f"{what} needs a list, found {kind(value)}")


def to_json(value: Any, meter: Meter, place: Place) -> Json:
    """The value as plain JSON within the bounds of a result: instants, durations and types become text."""
    found = type(value)
    if value is None or found is bool or found is int:
        return value
    if found is list or found is dict:
        weighed = weigh(value, meter, place)
        meter.charge_result(weighed.bytes, place)
        return _rebuilt(value) if weighed.has_foreign else value
    if found is str:
        size = len(value) if len(value) > meter.max_bytes else weight(value)
        refuse_large(size, meter, place)
        meter.charge_result(size, place)
        return value
    return _leaf(value, place)


class Weight(NamedTuple):
    """About how many bytes the text of a value takes, how many values it holds, and whether any is unknown to JSON."""

    bytes: int
    values: int
    has_foreign: bool


def weigh(value: Any, meter: Meter, place: Place) -> Weight:
    """Weigh a value, refusing what is too large or too deep.

    Parts may be shared, so that a small expression can stand for an exponentially large text: what is measured is the
    text, and the walk stops at the limit.
    """
    # Two lists in step: a pair for each of a million values would take longer than all the rest.
    pending: list[Any] = [value]
    depths = [1]
    size = values = 0
    has_foreign = False
    while pending:
        part, depth = pending.pop(), depths.pop()
        values += 1
        found = type(part)
        if found is str:
            size += weight(part) + 2
        elif found is list or found is dict:
            if depth > MAX_VALUE_DEPTH:
                raise place.failed(TOO_DEEP, f"the value nests deeper than {MAX_VALUE_DEPTH} levels")
            meter.charge(len(part) // _WALKED_PER_OPERATION, place)
            size += 2 + 2 * len(part)
            refuse_large(size, meter, place)
            if found is dict:
                size += sum(map(weight, part))
                part = part.values()
            pending.extend(part)
            depths.extend([depth + 1] * len(part))
        elif found is float and not math.isfinite(part):
            raise place.failed(NUMBER, f"JSON has no number {part}")
        else:
            size += 4
            has_foreign = has_foreign or found in _FOREIGN
        refuse_large(size, meter, place)
    return Weight(size, values, has_foreign)


def refuse_large(size: int, meter: Meter, place: Place) -> None:
    """Raise where a result of `size` bytes is more than one evaluation may return."""
    if size > meter.max_bytes:
        raise place.failed(TOO_EXPENSIVE, f"the result is larger than {meter.max_bytes:,} bytes")


def _rebuilt(value: Any) -> Json:
    match value:
        case list():
            return [_rebuilt(item) for item in value]
        case dict():
            return {key: _rebuilt(item) for key, item in value.items()}
        case _:
            return _foreign_text(value)


def _leaf(value: Any, place: Place) -> Json:
    if type(value) is float and not math.isfinite(value):
        raise place.failed(NUMBER, f"JSON has no number {value}")
    return _foreign_text(value)


def _foreign_text(value: Any) -> Any:
    match value:
        case datetime():
            return format_instant(value)
        case timedelta():
            return format_duration(value)
        case Type():
            return value.name
        case _:
            return value


def to_text(value: Any, meter: Meter, place: Place) -> str:
    """The value inside a text: strings as they are, everything else as canonical JSON (sorted keys, no spaces,
    integral numbers without fraction), so null is `null`. Instants and durations are their text.
    """
    match value:
        case str():
            return value
        case list() | dict():
            plain = _integral(to_json(value, meter, place))
            return json.dumps(plain, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        case bool() | None:
            return json.dumps(value)
        case int():
            return _digits(value, place)
        case float() if value.is_integer() and abs(value) < 1e21:
            return str(int(value))
        case _:
            return str(_leaf(value, place))


def _digits(value: int, place: Place) -> str:
    # Python refuses to write integers of thousands of digits with a ValueError.
    if value.bit_length() > 1_024:
        raise place.failed(NUMBER, "the number has more than 300 digits")
    return str(value)


def _integral(value: Json) -> Json:
    match value:
        case list():
            return [_integral(item) for item in value]
        case dict():
            return {key: _integral(item) for key, item in value.items()}
        case float() if value.is_integer() and abs(value) < 1e21:
            return int(value)
        case _:
            return value


def format_duration(length: timedelta) -> str:
    """Seconds with up to six digits of fraction and `s`, as CEL writes durations: `90s`, `-0.5s`."""
    micros = length // timedelta(microseconds=1)
    sign = "-" if micros < 0 else ""
    seconds, rest = divmod(abs(micros), 1_000_000)
    fraction = f".{rest:06d}".rstrip("0") if rest else ""
    return f"{sign}{seconds}{fraction}s"
