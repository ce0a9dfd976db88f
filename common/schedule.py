"""When a schedule fires: pure arithmetic on instants, no database and no clock.

Three kinds: `cron` (five fields, six with seconds first, or a word such as `@daily`) in the wall time of a zone, `every`
(an interval from an anchor on), `at` (once). `Recurrence.after` and `before` walk along the instants, always in UTC.

Daylight saving, as in Debian's cron, and the same with seconds as without:

- Where minutes and hours are both given as times of day (neither field starts with `*`), a wall time that the clock jumps
  over is taken at the jump, once, however many are jumped over; one that comes twice is taken the first time only.
- Where minutes or hours run (`*`, `*/15`), every real instant counts whose wall time matches: in the hour that comes twice
  both times, in the hour that is jumped over never.

`cronsim` says which wall times match, without any zone; what they are in UTC is worked out here, because its own answers
are wrong beside changes of other sizes than an hour (Lord Howe) and for midnights that do not exist (Cairo, Santiago).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache, lru_cache
from hashlib import sha256
from itertools import islice
from typing import Protocol
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from statechart.durations import parse_duration
from statechart.problems import nearest

GRACE = timedelta(seconds=60)
"""How late a run may be and still count as on time: what is later was missed, and the catch-up policy decides."""
SHORTEST = timedelta(seconds=1)
LONGEST_TEXT = 200
LAST_YEAR = 9000  # beyond it instants leave the calendar while they are looked for
_SECOND = timedelta(seconds=1)
_INSTANT = timedelta(microseconds=1)
_DAY = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

WORDS: Mapping[str, str] = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class ScheduleKind(StrEnum):
    CRON = "cron"
    EVERY = "every"
    AT = "at"


class Overlap(StrEnum):
    """What happens to a run whose time comes while an instance that its schedule started still lives."""

    SKIP = "skip"
    QUEUE = "queue"  # it waits until the one before has ended
    CANCEL = "cancel"  # the one before is cancelled, then it starts
    ALLOW = "allow"


class CatchUp(StrEnum):
    """What happens to runs whose time came while nobody could start them."""

    NONE = "none"
    LAST = "last"
    ALL = "all"  # the newest, up to a limit


class ScheduleInvalid(ValueError):
    """A schedule that cannot be read. `member` is the part at fault, `suggestion` what may have been meant."""

    def __init__(self, member: str, message: str, suggestion: str | None = None) -> None:
        super().__init__(message)
        self.member = member
        self.message = message
        self.suggestion = suggestion


class Recurrence(Protocol):
    """The instants of one schedule, in UTC and in order."""

    def after(self, instant: datetime) -> datetime | None:
        """The first one after `instant`; None where there is none (of a cron text: within 50 years)."""

    def before(self, instant: datetime) -> datetime | None:
        """The last one before `instant`."""


@lru_cache(maxsize=4_096)
def read_recurrence(kind: ScheduleKind, text: str, timezone: str, anchor_at: datetime) -> Recurrence:
    """Read a schedule; intervals begin at `anchor_at`. Raises `ScheduleInvalid`."""
    zone = _zone(timezone)
    if len(text) > LONGEST_TEXT:
        raise ScheduleInvalid(kind.value, f"expected at most {LONGEST_TEXT} characters, found {len(text)}")
    match kind:
        case ScheduleKind.CRON:
            return _Cron.read(text, zone)
        case ScheduleKind.EVERY:
            return _Every(anchor_at, _interval(text))
        case ScheduleKind.AT:
            return _At(_instant(text, zone))


def upcoming(recurrence: Recurrence, after: datetime) -> Iterator[datetime]:
    """The instants after `after`, one by one."""
    instant = recurrence.after(after)
    while instant is not None:
        yield instant
        instant = recurrence.after(instant)


# -- intervals and single instants --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Every:
    """`anchor + n * interval` for n = 1, 2, …"""

    anchor: datetime
    interval: timedelta

    def after(self, instant: datetime) -> datetime | None:
        return self._at(max((instant - self.anchor) // self.interval + 1, 1))

    def before(self, instant: datetime) -> datetime | None:
        turn = -((self.anchor - instant) // self.interval) - 1
        return self._at(turn) if turn >= 1 else None

    def _at(self, turn: int) -> datetime | None:
        try:
            found = self.anchor + turn * self.interval
        except OverflowError:
            return None
        return found if found.year < LAST_YEAR else None


@dataclass(frozen=True, slots=True)
class _At:
    instant: datetime

    def after(self, instant: datetime) -> datetime | None:
        return self.instant if self.instant > instant else None

    def before(self, instant: datetime) -> datetime | None:
        return self.instant if self.instant < instant else None


def _interval(text: str) -> timedelta:
    try:
        interval = timedelta(milliseconds=parse_duration(text))
    except ValueError as error:
        raise ScheduleInvalid("every", str(error)) from None
    if interval < SHORTEST:
        raise ScheduleInvalid("every", f"expected an interval of at least 1 s, found {text!r}")
    return interval


def _instant(text: str, zone: ZoneInfo) -> datetime:
    """An instant with its offset, or a wall time in `zone`."""
    try:
        found = datetime.fromisoformat(text)
        instant = instant_of(found, zone) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ScheduleInvalid(
            "at",
            f"expected an instant such as 2026-03-01T09:00:00Z, or without an offset a time in the zone, found {text!r}",
        ) from None
    if not 1970 <= instant.year < LAST_YEAR:
        raise ScheduleInvalid("at", f"expected a year from 1970 to {LAST_YEAR - 1}, found {text!r}")
    return instant


# -- cron ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Cron:
    """`text` in cronsim's form. `is_fixed`: minutes and hours are times of day."""

    text: str
    zone: ZoneInfo
    is_fixed: bool

    @classmethod
    def read(cls, text: str, zone: ZoneInfo) -> _Cron:
        fields = _fields(text)
        minute, hour = fields[-5], fields[-4]
        return cls(" ".join(fields), zone, not (minute.startswith("*") or hour.startswith("*")))

    def after(self, instant: datetime) -> datetime | None:
        return self._after_fixed(instant) if self.is_fixed else self._after_running(instant)

    def before(self, instant: datetime) -> datetime | None:
        return self._before_fixed(instant) if self.is_fixed else self._before_running(instant)

    def _after_fixed(self, instant: datetime) -> datetime | None:
        # In the hour that comes twice, later wall times may be past already: they were taken the first time.
        found = (instant_of(wall, self.zone) for wall in self._walls(_wall(instant, self.zone)))
        return next((one for one in found if one > instant), None)

    def _before_fixed(self, instant: datetime) -> datetime | None:
        local = instant.astimezone(self.zone)
        # The second time that an hour comes, all of its wall times have been taken, also later ones.
        wall = (instant + _offset(local.replace(fold=0))).replace(tzinfo=None)
        found = (instant_of(wall, self.zone) for wall in self._walls(wall, backwards=True))
        return next((one for one in found if one < instant), None)

    def _after_running(self, instant: datetime) -> datetime | None:
        wall = _wall(instant, self.zone)
        while True:
            offset = _offset(instant.astimezone(self.zone))
            matching = next(self._walls(wall), None)
            if matching is None:
                return None
            found = matching.replace(tzinfo=UTC) - offset
            change = _first_change(self.zone, instant, found)
            if change is None:
                return found
            # From the change on, the wall clock shows something else: its very instant may match as well.
            instant, wall = change, _wall(change, self.zone) - _SECOND

    def _before_running(self, instant: datetime) -> datetime | None:
        while True:
            last = instant - _INSTANT
            offset = _offset(last.astimezone(self.zone))
            matching = next(self._walls((instant + offset).replace(tzinfo=None), backwards=True), None)
            if matching is None:
                return None
            found = matching.replace(tzinfo=UTC) - offset
            change = _last_change(self.zone, found, last)
            if change is None:
                return found
            instant = change

    def _walls(self, wall: datetime, *, backwards: bool = False) -> Iterator[datetime]:
        """Matching wall times after `wall`, or before it, whatever any zone makes of them."""
        try:
            for found in CronSim(self.text, wall, reverse=backwards):
                if not 1900 < found.year < LAST_YEAR:
                    return
                yield found
        except OverflowError:
            return


def _fields(text: str) -> list[str]:
    """The five or six fields, checked. Raises `ScheduleInvalid`."""
    word = text.strip().lower()
    if word.startswith("@") and word not in WORDS:
        known = ", ".join(WORDS)
        raise ScheduleInvalid("cron", f"unknown word {text!r}; known are {known}", nearest(word, WORDS))
    fields = WORDS.get(word, text).upper().split()
    if len(fields) not in (5, 6):
        raise ScheduleInvalid(
            "cron",
            f"expected 5 fields (minute hour day month weekday), 6 with seconds first, or @daily; found {len(fields)} in {text!r}",
        )
    try:
        first = next(iter(CronSim(" ".join(fields), datetime(2000, 1, 1))), None)  # noqa: DTZ001 - a wall time
    except CronSimError:
        _check_fields(fields)
        first = None  # each field is right, and no month has the day
    if first is None:
        raise ScheduleInvalid("cron", f"expected a time that comes, found {text!r}, which matches no date")
    return fields


_FIELDS = (
    "a second from 0 to 59",
    "a minute from 0 to 59",
    "an hour from 0 to 23",
    "a day of the month from 1 to 31",
    "a month from 1 to 12, or JAN to DEC",
    "a day of the week from 0 to 7, or SUN to SAT",
)


def _check_fields(fields: Sequence[str]) -> None:
    """Find the field that cannot be read. Raises `ScheduleInvalid`."""
    for place, field in enumerate(fields, start=len(_FIELDS) - len(fields)):
        alone = ["*"] * len(_FIELDS)
        alone[place] = field
        try:
            CronSim(" ".join(alone), datetime(2000, 1, 1))  # noqa: DTZ001 - a wall time
        except CronSimError:
            found = field if field.isdecimal() else repr(field)
            raise ScheduleInvalid("cron", f"expected {_FIELDS[place]}, found {found}") from None


# -- zones --------------------------------------------------------------------------------------------------------


@cache
def _zones() -> frozenset[str]:
    # These two mean another zone on each machine.
    return frozenset(available_timezones()) - {"localtime", "Factory"}


def _zone(name: str) -> ZoneInfo:
    if name not in _zones():
        raise ScheduleInvalid(
            "timezone",
            f'expected the name of a time zone such as "Europe/Berlin", found {name[:80]!r}',
            _nearest_zone(name),
        )
    return ZoneInfo(name)


def _nearest_zone(name: str) -> str | None:
    region = name.partition("/")[0].lower()
    near = [known for known in sorted(_zones()) if known.lower().startswith(region)]
    return nearest(name, near or sorted(_zones())) if len(name) <= LONGEST_TEXT else None


def instant_of(wall: datetime, zone: ZoneInfo) -> datetime:
    """The instant of a wall time: the first of two, or for one that the clock jumps over, the jump."""
    first = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if _wall(first, zone) == wall:
        return first
    return _change(zone, wall.replace(tzinfo=zone, fold=1).astimezone(UTC), first)


def _wall(instant: datetime, zone: ZoneInfo) -> datetime:
    return instant.astimezone(zone).replace(tzinfo=None, fold=0)


def _offset(local: datetime) -> timedelta:
    return local.utcoffset() or timedelta(0)


def _offset_at(zone: ZoneInfo, instant: datetime) -> timedelta:
    return _offset(instant.astimezone(zone))


def _change(zone: ZoneInfo, low: datetime, high: datetime) -> datetime:
    """The first whole second after `low` at which the offset is not that of `low`; at `high` it is not."""
    before = _offset_at(zone, low)
    start = low.replace(microsecond=0)
    known, wanted = 0, -((start - high) // _SECOND)
    while wanted - known > 1:
        middle = (known + wanted) // 2
        if _offset_at(zone, start + middle * _SECOND) == before:
            known = middle
        else:
            wanted = middle
    return start + wanted * _SECOND


def _first_change(zone: ZoneInfo, low: datetime, high: datetime) -> datetime | None:
    """When the offset changes for the first time after `low`, up to and with `high`."""
    offset, here = _offset_at(zone, low), low
    while here < high:
        there = min(here + _DAY, high)
        if _offset_at(zone, there) != offset:
            return _change(zone, here, there)
        here = there
    return None


def _last_change(zone: ZoneInfo, low: datetime, high: datetime) -> datetime | None:
    """When the offset changed for the last time after `low`, up to and with `high`."""
    offset, here = _offset_at(zone, high), high
    while here > low:
        there = max(here - _DAY, low)
        if _offset_at(zone, there) != offset:
            return _change(zone, there, here)
        here = there
    return None


# -- when a run is due --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Timing:
    """The instants of the schedule `id`, each put off by up to `jitter_ms`.

    The delay of an instant is always the same, never negative, and never reaches the instant after it: runs keep their order.
    """

    id: str
    recurrence: Recurrence
    jitter_ms: int = 0

    def due_at(self, instant: datetime) -> datetime:
        """When the run of `instant` is due."""
        if self.jitter_ms <= 0:
            return instant
        following = self.recurrence.after(instant)
        room_ms = self.jitter_ms + 1
        if following is not None:
            room_ms = min(room_ms, max((following - instant) // timedelta(milliseconds=1), 1))
        seed = f"{self.id}/{(instant - _EPOCH) // _INSTANT}".encode()
        return instant + timedelta(milliseconds=int.from_bytes(sha256(seed).digest()[:8]) % room_ms)

    def next_after(self, instant: datetime) -> Run | None:
        """The first run whose instant is after `instant`."""
        found = self.recurrence.after(instant)
        return None if found is None else Run(found, self.due_at(found))


@dataclass(frozen=True, slots=True)
class Run:
    """One run: the instant that it is for, and when it is due."""

    scheduled_at: datetime
    due_at: datetime


@dataclass(frozen=True, slots=True)
class Turn:
    """What a schedule does now: runs to start, oldest first, and the one to wait for. `has_missed`: some were late."""

    runs: tuple[datetime, ...]
    next: Run | None
    has_missed: bool


def take_turn(
    timing: Timing,
    waiting_for: Run,
    now: datetime,
    *,
    catch_up: CatchUp,
    catch_up_limit: int,
    at_once: int,
) -> Turn:
    """Which runs to start of a schedule that waited for `waiting_for`, which is due.

    Runs that are late by up to `GRACE` are on time and all start. Where older ones were missed: `none` starts those on
    time, `last` the newest alone, `all` the newest `catch_up_limit`. At most `at_once` are named; the next turn goes on.
    """
    newest = timing.recurrence.before(now + _INSTANT)
    while newest is not None and newest > waiting_for.scheduled_at and timing.due_at(newest) > now:
        newest = timing.recurrence.before(newest)
    if newest is None or newest < waiting_for.scheduled_at:
        newest = waiting_for.scheduled_at
    has_missed = waiting_for.due_at < now - GRACE
    taken: list[datetime] = []
    for instant in _back(timing.recurrence, newest, waiting_for.scheduled_at):
        is_late = timing.due_at(instant) < now - GRACE
        if is_late and (catch_up is CatchUp.NONE or len(taken) >= _allowed(catch_up, catch_up_limit)):
            break
        taken.append(instant)
        if has_missed and catch_up is CatchUp.LAST:
            break
    taken.reverse()
    now_taken, left = tuple(islice(taken, at_once)), taken[at_once:]
    following = Run(left[0], timing.due_at(left[0])) if left else timing.next_after(newest)
    return Turn(now_taken, following, has_missed)


def _allowed(catch_up: CatchUp, limit: int) -> int:
    return 1 if catch_up is CatchUp.LAST else limit


def _back(recurrence: Recurrence, newest: datetime, oldest: datetime) -> Iterator[datetime]:
    """From `newest` back to `oldest`, both with."""
    instant: datetime | None = newest
    while instant is not None and instant >= oldest:
        yield instant
        instant = recurrence.before(instant)
