"""The closed list of functions: what each takes, charges and returns.

A function gets the meter, the place of its call and its evaluated arguments (a method's target first). It checks the
kinds of its arguments, charges what it is about to do or build, and raises `ExpressionFailed` otherwise. What needs the
scope (`uuid`, `random`) or unevaluated arguments (`has`, `map`, …) stands in the compiler.
"""

# ruff: noqa: ARG001 - all entries of the table take the same arguments

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any, NamedTuple

from statechart.cel import patterns, times
from statechart.cel.errors import INDEX, NUMBER, TYPE, VALUE, Place
from statechart.cel.meter import SCANNED_PER_OPERATION, Meter, weight
from statechart.cel.values import (
    TYPES,
    check_ordered,
    equal,
    kind,
    need_int,
    need_list,
    need_number,
    need_string,
    settled,
    to_text,
)

MANY = 1_000


class Function(NamedTuple):
    """`run(meter, place, *arguments)` takes `fewest` to `most` arguments, a method's target among them."""

    run: Callable[..., Any]
    fewest: int
    most: int


def _size(meter: Meter, place: Place, value: Any) -> int:
    if isinstance(value, str | list | dict):
        return len(value)
    raise place.failed(TYPE, f"size needs a string, a list or a map, found {kind(value)}")


def _type(meter: Meter, place: Place, value: Any) -> Any:
    return TYPES.get(kind(value), TYPES["null_type"])


def _dyn(meter: Meter, place: Place, value: Any) -> Any:
    return value


# Conversions.

_INTEGER = re.compile(r"[+-]?\d{1,20}", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?", re.ASCII)
_TRUTHS = dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True) | dict.fromkeys(
    ("0", "f", "F", "false", "FALSE", "False"), False
)


def _int(meter: Meter, place: Place, value: Any) -> int:
    match value:
        case str():
            if not _INTEGER.fullmatch(value):
                raise place.failed(VALUE, f"int needs the text of an integer, found {value[:40]!r}")
            return int(settled(int(value), place))
        case datetime():
            return (value - times.EPOCH) // timedelta(seconds=1)
        case _:
            return int(settled(math.trunc(need_number(value, place, "int")), place))


def _uint(meter: Meter, place: Place, value: Any) -> int:
    converted = _int(meter, place, value)
    if converted < 0:
        raise place.failed(NUMBER, f"uint needs a number of at least 0, found {converted}")
    return converted


def _double(meter: Meter, place: Place, value: Any) -> int | float:
    if type(value) is str:
        if len(value) > 400 or not _DECIMAL.fullmatch(value):
            raise place.failed(VALUE, f"double needs the text of a number, found {value[:40]!r}")
        return settled(float(value), place)
    return settled(need_number(value, place, "double"), place)


def _string(meter: Meter, place: Place, value: Any) -> str:
    text = times.shortest(value) if type(value) is datetime else to_text(value, meter, place)
    if text is not value:
        meter.charge_bytes(weight(text), place)
    return text


def _bool(meter: Meter, place: Place, value: Any) -> bool:
    if type(value) is bool:
        return value
    if type(value) is str:
        if value in _TRUTHS:
            return _TRUTHS[value]
        raise place.failed(VALUE, f'bool needs "true" or "false", found {value[:40]!r}')
    raise place.failed(TYPE, f"bool needs a string or a bool, found {kind(value)}")


def _timestamp(meter: Meter, place: Place, value: Any) -> datetime:
    match value:
        case str():
            return times.read_instant(value, place)
        case datetime():
            return value
        case _:
            return times.instant_of_seconds(need_number(value, place, "timestamp"), place)


def _duration(meter: Meter, place: Place, value: Any) -> timedelta:
    match value:
        case str():
            return times.read_duration(value, place)
        case timedelta():
            return value
        case _:
            milliseconds = need_int(value, place, "duration")
            return times.bounded(timedelta(milliseconds=settled(milliseconds, place)), place)


# Numbers.


def _numbers(place: Place, what: str, values: tuple[Any, ...]) -> list[Any]:
    listed = (
        need_list(values[0], place, what) if len(values) == 1 and type(values[0]) is list else list(values)
    )
    if not listed:
        raise place.failed(VALUE, f"{what} of an empty list has no value")
    return listed


def _greatest(meter: Meter, place: Place, *values: Any) -> Any:
    return _extreme(meter, place, "max", values, lambda new, best: bool(new > best))


def _least(meter: Meter, place: Place, *values: Any) -> Any:
    return _extreme(meter, place, "min", values, lambda new, best: bool(new < best))


def _extreme(
    meter: Meter, place: Place, what: str, values: tuple[Any, ...], wins: Callable[[Any, Any], bool]
) -> Any:
    best, *others = _numbers(place, what, values)
    meter.charge(len(others), place)
    check_ordered(best, best, meter, place)
    for value in others:
        check_ordered(value, best, meter, place)
        if wins(value, best):
            best = value
    return best


def _sum(meter: Meter, place: Place, values: Any) -> int | float:
    items = need_list(values, place, "sum")
    meter.charge(len(items), place)
    return settled(sum(need_number(item, place, "sum") for item in items), place)


def _abs(meter: Meter, place: Place, value: Any) -> int | float:
    return settled(abs(need_number(value, place, "abs")), place)


def _sign(meter: Meter, place: Place, value: Any) -> int:
    number = need_number(value, place, "math.sign")
    return (number > 0) - (number < 0)


def _floor(meter: Meter, place: Place, value: Any) -> int | float:
    return settled(math.floor(need_number(value, place, "floor")), place)


def _ceil(meter: Meter, place: Place, value: Any) -> int | float:
    return settled(math.ceil(need_number(value, place, "ceil")), place)


def _trunc(meter: Meter, place: Place, value: Any) -> int | float:
    return settled(math.trunc(need_number(value, place, "math.trunc")), place)


# A context of our own: 16 digits before the point and 15 behind it are more than the ambient one writes out.
_ROUNDING = Context(prec=40, rounding=ROUND_HALF_UP)


def _round(meter: Meter, place: Place, value: Any, digits: Any = 0) -> int | float:
    """Half away from zero, of the number as it is written: `round(2.675, 2)` is 2.68."""
    number = settled(need_number(value, place, "round"), place)
    places = need_int(digits, place, "round")
    if not 0 <= places <= 15:
        raise place.failed(VALUE, f"round keeps 0 to 15 digits, found {places}")
    if type(number) is int:
        return number
    exact = Decimal(repr(number)).quantize(Decimal(1).scaleb(-places), context=_ROUNDING)
    return settled(float(exact), place)


def _sqrt(meter: Meter, place: Place, value: Any) -> int | float:
    number = need_number(value, place, "math.sqrt")
    if number < 0:
        raise place.failed(NUMBER, f"math.sqrt needs a number of at least 0, found {number}")
    return settled(math.sqrt(number), place)


# Strings. Positions and lengths count characters.


def _two_texts(meter: Meter, place: Place, what: str, text: Any, other: Any) -> tuple[str, str]:
    checked = need_string(text, place, what)
    meter.charge_scan(checked, place)
    return checked, need_string(other, place, what)


def _contains(meter: Meter, place: Place, text: Any, part: Any) -> bool:
    if type(text) is list:
        raise place.failed(TYPE, 'contains needs a string, found list; for lists write "x in list"')
    whole, piece = _two_texts(meter, place, "contains", text, part)
    return piece in whole


def _starts_with(meter: Meter, place: Place, text: Any, part: Any) -> bool:
    whole, piece = _two_texts(meter, place, "startsWith", text, part)
    return whole.startswith(piece)


def _ends_with(meter: Meter, place: Place, text: Any, part: Any) -> bool:
    whole, piece = _two_texts(meter, place, "endsWith", text, part)
    return whole.endswith(piece)


def _matches(meter: Meter, place: Place, text: Any, pattern: Any) -> bool:
    return patterns.matches(
        meter, place, need_string(text, place, "matches"), need_string(pattern, place, "matches")
    )


def _position(value: Any, size: int, place: Place, what: str) -> int:
    position = need_int(value, place, what)
    if 0 <= position <= size:
        return position
    raise place.failed(INDEX, f"{what}: position {position} is outside 0 to {size}")


def _index_of(meter: Meter, place: Place, text: Any, part: Any, start: Any = 0) -> int:
    if type(text) is list:
        return _list_index_of(meter, place, text, part)
    whole, piece = _two_texts(meter, place, "indexOf", text, part)
    return whole.find(piece, _position(start, len(whole), place, "indexOf"))


def _list_index_of(meter: Meter, place: Place, items: list[Any], wanted: Any) -> int:
    for position, item in enumerate(items):
        meter.charge(1, place)
        if equal(item, wanted, meter, place):
            return position
    return -1


def _last_index_of(meter: Meter, place: Place, text: Any, part: Any, start: Any = None) -> int:
    whole, piece = _two_texts(meter, place, "lastIndexOf", text, part)
    if start is None:
        return whole.rfind(piece)
    return whole.rfind(piece, 0, _position(start, len(whole), place, "lastIndexOf") + len(piece))


def _char_at(meter: Meter, place: Place, text: Any, position: Any) -> str:
    whole = need_string(text, place, "charAt")
    at = _position(position, len(whole), place, "charAt")
    return whole[at : at + 1]


def _substring(meter: Meter, place: Place, text: Any, start: Any, end: Any = None) -> str:
    whole = need_string(text, place, "substring")
    first = _position(start, len(whole), place, "substring")
    last = len(whole) if end is None else _position(end, len(whole), place, "substring")
    if first > last:
        raise place.failed(INDEX, f"substring: the start {first} is behind the end {last}")
    meter.charge_bytes(last - first, place)
    return whole[first:last]


def _built(meter: Meter, place: Place, what: str, text: Any) -> str:
    """A text that a new one of about the same size is made of."""
    whole = need_string(text, place, what)
    meter.charge_scan(whole, place)
    meter.charge_bytes(weight(whole), place)
    return whole


def _lower(meter: Meter, place: Place, text: Any) -> str:
    return _built(meter, place, "lower", text).lower()


def _upper(meter: Meter, place: Place, text: Any) -> str:
    return _built(meter, place, "upper", text).upper()


_ASCII_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
_ASCII_UPPER = {code + 32: code for code in _ASCII_LOWER}


def _lower_ascii(meter: Meter, place: Place, text: Any) -> str:
    return _built(meter, place, "lowerAscii", text).translate(_ASCII_LOWER)


def _upper_ascii(meter: Meter, place: Place, text: Any) -> str:
    return _built(meter, place, "upperAscii", text).translate(_ASCII_UPPER)


# Unicode's property White_Space; Python's own strip() would also take four control characters.
_SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


def _trim(meter: Meter, place: Place, text: Any) -> str:
    return _built(meter, place, "trim", text).strip(_SPACES)


def _replace(meter: Meter, place: Place, text: Any, old: Any, new: Any, limit: Any = -1) -> str:
    whole, piece = _two_texts(meter, place, "replace", text, old)
    other = need_string(new, place, "replace")
    most = need_int(limit, place, "replace")
    found = whole.count(piece)
    times_replaced = found if most < 0 else min(found, most)
    # Counted before it is built: ten characters may become a gigabyte.
    meter.charge_bytes(weight(whole) + times_replaced * weight(other), place)
    return whole.replace(piece, other, times_replaced)


def _split(meter: Meter, place: Place, text: Any, separator: Any, limit: Any = -1) -> list[str]:
    whole, between = _two_texts(meter, place, "split", text, separator)
    most = need_int(limit, place, "split")
    pieces = len(whole) if between == "" else whole.count(between) + 1
    kept = pieces if most < 0 else min(pieces, most)
    meter.charge(kept, place)
    meter.charge_bytes(weight(whole), place)
    if kept == 0:
        return []
    if between:
        return whole.split(between, kept - 1)
    return [*whole[: kept - 1], whole[kept - 1 :]]


def _join(meter: Meter, place: Place, items: Any, separator: Any = "") -> str:
    texts = need_list(items, place, "join")
    between = need_string(separator, place, "join")
    meter.charge(len(texts), place)
    meter.charge_bytes(weight(between) * max(0, len(texts) - 1), place)
    for text in texts:
        meter.charge_bytes(weight(need_string(text, place, "join")), place)
    return between.join(texts)


def _reverse(meter: Meter, place: Place, value: Any) -> Any:
    if type(value) is str:
        return _built(meter, place, "reverse", value)[::-1]
    items = need_list(value, place, "reverse")
    meter.charge(len(items), place)
    return items[::-1]


# Lists.


def _range(meter: Meter, place: Place, count: Any) -> list[int]:
    size = max(0, need_int(count, place, "lists.range"))
    meter.charge(size, place)
    return list(range(size))


def _sort(meter: Meter, place: Place, items: Any) -> list[Any]:
    values = need_list(items, place, "sort")
    rounds = max(1, len(values).bit_length())
    meter.charge(len(values) * rounds, place)
    for value in values:
        check_ordered(value, values[0], meter, place)
        if type(value) is str:
            meter.charge(rounds * (len(value) // SCANNED_PER_OPERATION), place)
    return sorted(values)


def _distinct(meter: Meter, place: Place, items: Any) -> list[Any]:
    kept: list[Any] = []
    for item in need_list(items, place, "distinct"):
        meter.charge(1 + len(kept), place)
        if not any(equal(item, other, meter, place) for other in kept):
            kept.append(item)
    return kept


def _slice(meter: Meter, place: Place, items: Any, start: Any, end: Any) -> list[Any]:
    values = need_list(items, place, "slice")
    first = _position(start, len(values), place, "slice")
    last = _position(end, len(values), place, "slice")
    if first > last:
        raise place.failed(INDEX, f"slice: the start {first} is behind the end {last}")
    meter.charge(last - first, place)
    return values[first:last]


def _flatten(meter: Meter, place: Place, items: Any, depth: Any = 1) -> list[Any]:
    values = need_list(items, place, "flatten")
    levels = need_int(depth, place, "flatten")
    if not 0 <= levels <= 100:
        raise place.failed(VALUE, f"flatten goes 0 to 100 levels deep, found {levels}")
    for _ in range(levels):
        flatter: list[Any] = []
        for value in values:
            piece = value if type(value) is list else [value]
            meter.charge(1 + len(piece), place)
            flatter.extend(piece)
        if len(flatter) == len(values) and not any(type(value) is list for value in flatter):
            return flatter
        values = flatter
    return values


# A missing member read with `.?` is null.


def _or_value(meter: Meter, place: Place, value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value


def _has_value(meter: Meter, place: Place, value: Any) -> bool:
    return value is not None


def _date_part(name: str) -> Callable[..., int]:
    def run(meter: Meter, place: Place, value: Any, zone: Any = None) -> int:
        return times.part(name, value, zone, meter, place)

    return run


GLOBALS: dict[str, Function] = {
    "size": Function(_size, 1, 1),
    "type": Function(_type, 1, 1),
    "dyn": Function(_dyn, 1, 1),
    "int": Function(_int, 1, 1),
    "uint": Function(_uint, 1, 1),
    "double": Function(_double, 1, 1),
    "string": Function(_string, 1, 1),
    "bool": Function(_bool, 1, 1),
    "timestamp": Function(_timestamp, 1, 1),
    "duration": Function(_duration, 1, 1),
    "matches": Function(_matches, 2, 2),
    "min": Function(_least, 1, MANY),
    "max": Function(_greatest, 1, MANY),
    "sum": Function(_sum, 1, 1),
    "abs": Function(_abs, 1, 1),
    "round": Function(_round, 1, 2),
    "floor": Function(_floor, 1, 1),
    "ceil": Function(_ceil, 1, 1),
    "math.least": Function(_least, 1, MANY),
    "math.greatest": Function(_greatest, 1, MANY),
    "math.abs": Function(_abs, 1, 1),
    "math.round": Function(_round, 1, 2),
    "math.floor": Function(_floor, 1, 1),
    "math.ceil": Function(_ceil, 1, 1),
    "math.trunc": Function(_trunc, 1, 1),
    "math.sign": Function(_sign, 1, 1),
    "math.sqrt": Function(_sqrt, 1, 1),
    "lists.range": Function(_range, 1, 1),
}

METHODS: dict[str, Function] = {
    "size": Function(_size, 1, 1),
    "contains": Function(_contains, 2, 2),
    "startsWith": Function(_starts_with, 2, 2),
    "endsWith": Function(_ends_with, 2, 2),
    "matches": Function(_matches, 2, 2),
    "indexOf": Function(_index_of, 2, 3),
    "lastIndexOf": Function(_last_index_of, 2, 3),
    "charAt": Function(_char_at, 2, 2),
    "substring": Function(_substring, 2, 3),
    "lower": Function(_lower, 1, 1),
    "upper": Function(_upper, 1, 1),
    "lowerAscii": Function(_lower_ascii, 1, 1),
    "upperAscii": Function(_upper_ascii, 1, 1),
    "trim": Function(_trim, 1, 1),
    "replace": Function(_replace, 3, 4),
    "split": Function(_split, 2, 3),
    "join": Function(_join, 1, 2),
    "reverse": Function(_reverse, 1, 1),
    "sort": Function(_sort, 1, 1),
    "distinct": Function(_distinct, 1, 1),
    "slice": Function(_slice, 3, 3),
    "flatten": Function(_flatten, 1, 2),
    "sum": Function(_sum, 1, 1),
    "min": Function(_least, 1, 1),
    "max": Function(_greatest, 1, 1),
    "orValue": Function(_or_value, 2, 2),
    "hasValue": Function(_has_value, 1, 1),
} | {name: Function(_date_part(name), 1, 2) for name in times.PARTS}
