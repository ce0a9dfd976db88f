"""Cron by brute force, for tests: walk over every UTC minute and ask the wall clock. Shares nothing with the engine's code."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
_BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def _values(field: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for part in field.split(","):
        body, _, step = part.partition("/")
        first, _, last = body.partition("-")
        start, end = (low, high) if body == "*" else (int(first), int(last or (high if step else first)))
        found.update(range(start, end + 1, int(step or 1)))
    return found


class BruteCron:
    """Five fields of numbers, `*`, ranges, lists and steps, in the wall time of a zone."""

    def __init__(self, text: str, zone: str) -> None:
        self.fields = text.split()
        self.zone = ZoneInfo(zone)
        parts = [_values(field, *bounds) for field, bounds in zip(self.fields, _BOUNDS, strict=True)]
        self.minutes, self.hours, self.days, self.months, weekdays = parts
        self.weekdays = {day % 7 for day in weekdays}
        self.runs = self.fields[0][0] == "*" or self.fields[1][0] == "*"

    def matches(self, wall: datetime) -> bool:
        if wall.minute not in self.minutes or wall.hour not in self.hours or wall.month not in self.months:
            return False
        is_day, is_weekday = wall.day in self.days, wall.isoweekday() % 7 in self.weekdays
        both = self.fields[2][0] == "*" or self.fields[4][0] == "*"
        return (is_day and is_weekday) if both else (is_day or is_weekday)

    def between(self, start: datetime, end: datetime) -> Iterator[datetime]:
        """Every instant after `start` and up to `end`; both whole minutes."""
        before = start.astimezone(self.zone).replace(tzinfo=None)
        seen: set[datetime] = set()
        # What the wall clock has shown within the last day counts as seen.
        for minutes in range(24 * 60, -1, -1):
            seen.add((start - minutes * MINUTE).astimezone(self.zone).replace(tzinfo=None, fold=0))
        instant = start
        while instant < end:
            instant += MINUTE
            wall = instant.astimezone(self.zone).replace(tzinfo=None, fold=0)
            if self.runs:
                if self.matches(wall):
                    yield instant
            else:
                passed = [wall] if wall not in seen else []
                jumped = before + MINUTE
                while jumped < wall:
                    passed.append(jumped)
                    jumped += MINUTE
                if any(self.matches(one) for one in passed):
                    yield instant
            seen.add(wall)
            before = wall


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]
