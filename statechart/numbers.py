"""Numbers as definitions write them: JSON numbers within bounds. A text is none, whatever stands in it."""

from __future__ import annotations

from statechart.env import Json


def read_number(value: Json, low: float, high: float) -> float:
    """A number from `low` to `high`. Raises `ValueError` saying what was expected and found."""
    if not _is_within(value, low, high):
        raise ValueError(f"expected a number from {low:,} to {high:,}, found {_show(value)}")
    number: float = value
    return number


def read_whole(value: Json, low: int, high: int) -> int:
    """The same of a whole number, which JSON may also write 3.0."""
    if not _is_within(value, low, high) or value != int(value):
        raise ValueError(f"expected a whole number from {low:,} to {high:,}, found {_show(value)}")
    return int(value)


def _is_within(value: Json, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _show(value: Json) -> str:
    return f"{value!r:.80}"
