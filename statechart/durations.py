"""Durations as definitions write them, in milliseconds: `1500`, `"30s"`, `"5m"`, `"2h"`, `"7d"`, `"1h30m"`, `"PT5M"`.

Months and years are refused, in ISO 8601 too: they have no fixed length.
"""

from __future__ import annotations

import math
import re

from statechart.env import Json

MAX_DURATION_MS = 100 * 365 * 24 * 3_600_000  # a century; beyond it instants leave the calendar
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_PLAIN = re.compile(r"(?:\d{1,15}(?:\.\d{1,6})?(?:ms|[smhdw]))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")
_ISO = re.compile(
    r"P(?:(?P<w>\d{1,9})W)?(?:(?P<d>\d{1,9})D)?"
    r"(?:T(?:(?P<h>\d{1,9})H)?(?:(?P<m>\d{1,9})M)?(?:(?P<s>\d{1,9}(?:\.\d{1,6})?)S)?)?"
)


def parse_duration(value: Json) -> int:
    """Milliseconds, at least 0 and at most a century. Raises `ValueError` saying what was expected and found."""
    match value:
        case bool():
            milliseconds = None
        case int() | float():
            milliseconds = _whole(value)
        case str():
            milliseconds = _parse_text(value.strip())
        case _:
            milliseconds = None
    if milliseconds is None:
        raise ValueError(
            f'expected a duration such as 1500 (milliseconds), "30s", "5m", "2h", "7d" or "PT5M", found {_show(value)}'
        )
    if not 0 <= milliseconds <= MAX_DURATION_MS:
        raise ValueError(f"expected a duration between 0 and 100 years, found {_show(value)}")
    return milliseconds


def _parse_text(text: str) -> int | None:
    if text.isascii() and text.isdigit() and len(text) <= 15:
        return int(text)
    if _PLAIN.fullmatch(text):
        return _whole(sum(float(number) * _UNIT_MS[unit] for number, unit in _PART.findall(text)))
    iso = _ISO.fullmatch(text)
    if iso and any(iso.groups()) and not text.endswith("T"):
        return _whole(sum(float(number) * _UNIT_MS[unit] for unit, number in iso.groupdict("0").items()))
    return None


def _whole(milliseconds: float) -> int | None:
    if not math.isfinite(milliseconds):
        return None
    return round(milliseconds)


def _show(value: Json) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
