"""Instants and durations: reading, arithmetic and the parts of a date.

Instants are aware UTC with microseconds, years 1 to 9999. Durations are written as in CEL (`1h30m`, `1.5s`), as
elsewhere in a definition (`7d`, milliseconds as an integer) or in ISO 8601 (`PT5M`). Time zones are fixed offsets or
names of the IANA database, read from the `tzdata` package that the lock file pins, never from the machine: two
workers must not disagree about an hour.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from importlib import resources
from typing import Any
from zoneinfo import ZoneInfo

from statechart.cel.errors import TYPE, VALUE, Place
from statechart.cel.meter import Meter
from statechart.cel.values import kind, need_string
from statechart.env import format_instant

# Operations that looking for a zone costs, which takes 0.1 ms where there is none.
_ZONE_READING = 200

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# CEL's range of durations: ten thousand years.
MAX_DURATION = timedelta(seconds=315_576_000_000)

_INSTANT = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?([Zz]|[+-]\d{2}:\d{2})", re.ASCII
)
_UNITS = {
    "w": timedelta(weeks=1),
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
    "us": timedelta(microseconds=1),
    "µs": timedelta(microseconds=1),
    "ns": timedelta(),  # below the resolution; see `_amount`
}
_PART = re.compile(r"(\d{1,15})(?:\.(\d{1,9}))?(ms|us|µs|ns|w|d|h|m|s)", re.ASCII)
_DURATION = re.compile(rf"([+-]?)((?:{_PART.pattern})+)", re.ASCII)
_ISO_DURATION = re.compile(
    r"([+-]?)P(?:(\d{1,9})W)?(?:(\d{1,9})D)?(?:T(?:(\d{1,12})H)?(?:(\d{1,12})M)?(?:(\d{1,12})(?:\.(\d{1,9}))?S)?)?",
    re.ASCII,
)
_OFFSET = re.compile(r"([+-]?)(\d{1,2}):(\d{2})", re.ASCII)
_ZONE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_+-]{0,30}(?:/[A-Za-z0-9_+-]{1,30}){0,2}", re.ASCII)


def read_instant(text: str, place: Place) -> datetime:
    """An RFC 3339 instant as aware UTC; digits beyond the microsecond are cut."""
    found = _INSTANT.fullmatch(text)
    if found is None:
        raise place.failed(VALUE, f"expected an instant such as 2026-03-01T09:12:00Z, found {text[:40]!r}")
    day, clock, fraction, offset = found.groups()
    try:
        instant = datetime.fromisoformat(
            f"{day}T{clock}.{(fraction or '0'):0<6.6}{'+00:00' if offset in 'Zz' else offset}"
        )
        return instant.astimezone(UTC)
    except (ValueError, OverflowError):
        raise place.failed(VALUE, f"{text[:40]!r} is no instant of the years 1 to 9999") from None


def shortest(instant: datetime) -> str:
    """The instant as CEL's `string()` writes it: without the zeros that end a fraction."""
    whole, _, fraction = format_instant(instant).removesuffix("Z").partition(".")
    kept = fraction.rstrip("0")
    return f"{whole}.{kept}Z" if kept else f"{whole}Z"


def instant_of_seconds(seconds: float, place: Place) -> datetime:
    """The instant so many seconds after 1970."""
    try:
        return EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        raise place.failed(VALUE, "the instant is beyond the years 1 to 9999") from None


def read_duration(text: str, place: Place) -> timedelta:
    """A duration as the module's docstring lists them."""
    total = _iso_duration(text) if "P" in text else _unit_duration(text)
    if total is None:
        raise place.failed(VALUE, f'expected a duration such as "1h30m" or "PT5M", found {text[:40]!r}')
    return bounded(total, place)


def _unit_duration(text: str) -> timedelta | None:
    if text in {"0", "+0", "-0"}:
        return timedelta()
    whole = _DURATION.fullmatch(text) if len(text) <= 100 else None
    if whole is None:
        return None
    try:
        total = sum(
            (_amount(number, fraction, _UNITS[unit]) for number, fraction, unit in _PART.findall(whole[2])),
            timedelta(),
        )
    except OverflowError:
        return timedelta.max
    return -total if whole[1] == "-" else total


def _iso_duration(text: str) -> timedelta | None:
    found = _ISO_DURATION.fullmatch(text)
    if found is None or text[-1] in "PT":
        return None
    sign, weeks, days, hours, minutes, seconds, fraction = found.groups()
    try:
        total = timedelta(
            weeks=int(weeks or 0), days=int(days or 0), hours=int(hours or 0), minutes=int(minutes or 0)
        ) + _amount(seconds or "0", fraction, _UNITS["s"])
    except OverflowError:
        return timedelta.max
    return -total if sign == "-" else total


def _amount(number: str, fraction: str | None, unit: timedelta) -> timedelta:
    """`number.fraction` units, exact: integers all the way down to the microsecond, which is cut."""
    if not unit:
        return timedelta(microseconds=int(number) // 1_000)
    micros = unit // timedelta(microseconds=1)
    part = int(fraction) * micros // 10 ** len(fraction) if fraction else 0
    return timedelta(microseconds=int(number) * micros + part)


def bounded(length: timedelta, place: Place) -> timedelta:
    """`length`, if CEL's range holds it."""
    if abs(length) > MAX_DURATION:
        raise place.failed(VALUE, "the duration is longer than ten thousand years")
    return length


def shifted(instant: datetime, length: timedelta, place: Place) -> datetime:
    """`instant` plus `length`."""
    try:
        return instant + length
    except OverflowError:
        raise place.failed(VALUE, "the instant is beyond the years 1 to 9999") from None


@lru_cache(maxsize=128)
def _named_zone(name: str) -> tzinfo | None:
    source = resources.files("tzdata").joinpath("zoneinfo", *name.split("/"))
    if not source.is_file():
        return None
    with source.open("rb") as data:
        try:
            return ZoneInfo.from_file(data, key=name)
        except ValueError:
            return None  # a table of the package that is no zone, such as `tzdata.zi`


def _zone(name: str, meter: Meter, place: Place) -> tzinfo:
    """`UTC`, `+02:00` or an IANA name such as `Europe/Paris`; reading one is charged once an account."""
    if name == "UTC":
        return UTC
    known = meter.zones.get(name)
    if known is None:
        meter.charge(_ZONE_READING, place)
        known = meter.zones[name] = _read_zone(name, place)
    return known


def _read_zone(name: str, place: Place) -> tzinfo:
    found: tzinfo | None = None
    if offset := _OFFSET.fullmatch(name):
        away = timedelta(hours=int(offset[2]), minutes=int(offset[3]))
        if away < timedelta(days=1):
            found = timezone(-away if offset[1] == "-" else away)
    elif _ZONE_NAME.fullmatch(name):
        found = _named_zone(name)
    if found is None:
        raise place.failed(
            VALUE, f'expected a time zone such as "+02:00" or "Europe/Paris", found {name[:40]!r}'
        )
    return found


_DATE_PARTS: dict[str, Callable[[datetime], int]] = {
    "getFullYear": lambda at: at.year,
    "getMonth": lambda at: at.month - 1,
    "getDate": lambda at: at.day,
    "getDayOfMonth": lambda at: at.day - 1,
    "getDayOfWeek": lambda at: at.isoweekday() % 7,
    "getDayOfYear": lambda at: at.timetuple().tm_yday - 1,
    "getHours": lambda at: at.hour,
    "getMinutes": lambda at: at.minute,
    "getSeconds": lambda at: at.second,
    "getMilliseconds": lambda at: at.microsecond // 1_000,
}
_DURATION_PARTS: dict[str, timedelta] = {
    "getHours": timedelta(hours=1),
    "getMinutes": timedelta(minutes=1),
    "getSeconds": timedelta(seconds=1),
}
PARTS = tuple(_DATE_PARTS)


def part(name: str, value: Any, zone_name: Any, meter: Meter, place: Place) -> int:
    """One of CEL's `get…` functions over an instant (in a zone, UTC by default) or a duration (in whole units)."""
    if type(value) is datetime:
        if zone_name is not None:
            try:
                value = value.astimezone(_zone(need_string(zone_name, place, name), meter, place))
            except OverflowError:
                raise place.failed(VALUE, "the instant is beyond the years 1 to 9999 in that zone") from None
        return _DATE_PARTS[name](value)
    if type(value) is timedelta and zone_name is None:
        # Towards zero on both sides, as integers are cut elsewhere.
        sign = -1 if value < timedelta() else 1
        if name == "getMilliseconds":
            return sign * (abs(value) % timedelta(seconds=1) // timedelta(milliseconds=1))
        if name in _DURATION_PARTS:
            return int(sign * (abs(value) // _DURATION_PARTS[name]))
    hint = "; convert the text with timestamp(…)" if type(value) is str else ""
    raise place.failed(TYPE, f"{name} needs a timestamp, found {kind(value)}{hint}")
