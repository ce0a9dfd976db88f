"""When schedules fire, against a walk over every minute of the days around changes of the clocks."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.schedule import (
    GRACE,
    CatchUp,
    Recurrence,
    Run,
    ScheduleInvalid,
    ScheduleKind,
    Timing,
    read_recurrence,
    take_turn,
    upcoming,
)
from tests.support.brute_cron import BruteCron, utc

ANCHOR = utc(2026, 1, 1)
CHANGES = [
    ("America/New_York", utc(2026, 3, 8, 7)),
    ("America/New_York", utc(2026, 11, 1, 6)),
    ("Europe/Berlin", utc(2026, 3, 29, 1)),
    ("Europe/Berlin", utc(2026, 10, 25, 1)),
    ("Australia/Lord_Howe", utc(2026, 4, 4, 15)),
    ("Australia/Lord_Howe", utc(2026, 10, 3, 15)),
    ("America/Santiago", utc(2026, 4, 5, 3)),
    ("America/Santiago", utc(2026, 9, 6, 4)),
    ("Africa/Cairo", utc(2026, 4, 23, 22)),
    ("Pacific/Apia", utc(2011, 12, 30, 10)),
    ("Asia/Kathmandu", utc(2026, 5, 1)),
    ("UTC", utc(2026, 2, 28)),
]


def cron(text: str, timezone: str = "UTC") -> Recurrence:
    return read_recurrence(ScheduleKind.CRON, text, timezone, ANCHOR)


def every(text: str) -> Recurrence:
    return read_recurrence(ScheduleKind.EVERY, text, "UTC", ANCHOR)


def between(recurrence: Recurrence, start: datetime, end: datetime) -> list[datetime]:
    found = []
    for instant in upcoming(recurrence, start):
        if instant > end:
            break
        found.append(instant)
    return found


def backwards(recurrence: Recurrence, start: datetime, end: datetime) -> list[datetime]:
    """The same instants, found from the end."""
    found = []
    instant = recurrence.before(end + timedelta(microseconds=1))
    while instant is not None and instant > start:
        found.append(instant)
        instant = recurrence.before(instant)
    return found[::-1]


def _field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    ranges = st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}")
    steps = st.integers(1, 30).map(lambda step: f"*/{step}")
    lists = st.lists(number, min_size=1, max_size=3).map(lambda some: ",".join(map(str, some)))
    return st.one_of(st.just("*"), number.map(str), ranges, steps, lists)


texts = st.tuples(
    _field(0, 59), _field(0, 23), st.one_of(st.just("*"), _field(1, 28)), st.just("*"), _field(0, 7)
).map(" ".join)


@settings(max_examples=30, deadline=None)
@given(text=texts, where=st.sampled_from(CHANGES), offset=st.integers(-90, 90))
def test_cron_fires_as_a_walk_over_every_minute_says_also_where_clocks_change(
    text: str, where: tuple[str, datetime], offset: int
) -> None:
    zone, change = where
    start = change + timedelta(minutes=offset) - timedelta(hours=18)
    end = start + timedelta(hours=44)
    expected = list(BruteCron(text, zone).between(start, end))

    assert between(cron(text, zone), start, end) == expected
    assert backwards(cron(text, zone), start, end) == expected


@settings(max_examples=60, deadline=None)
@given(text=texts, where=st.sampled_from(CHANGES), seconds=st.integers(-10_000, 10_000))
def test_what_comes_next_does_not_depend_on_where_one_asks(
    text: str, where: tuple[str, datetime], seconds: int
) -> None:
    zone, change = where
    at = change + timedelta(seconds=seconds)
    recurrence = cron(text, zone)
    first = recurrence.after(at)
    assert first is not None
    assert first > at
    last = recurrence.before(at)
    assert last is not None
    assert last < at
    assert recurrence.after(last) in (at, first), "nothing lies between the two but the instant asked about"
    assert recurrence.before(first) in (at, last)


@pytest.mark.parametrize("seconds_first", ["", "0 "])
@pytest.mark.parametrize(
    ("text", "zone", "day", "expected"),
    [
        ("30 2 * * *", "America/New_York", utc(2026, 3, 8), [utc(2026, 3, 8, 7)]),
        ("0,15,30 2 * * *", "America/New_York", utc(2026, 3, 8), [utc(2026, 3, 8, 7)]),
        ("30 1 * * *", "America/New_York", utc(2026, 11, 1), [utc(2026, 11, 1, 5, 30)]),
        ("*/30 2 * * *", "America/New_York", utc(2026, 3, 8), []),
        (
            "*/30 1 * * *",
            "America/New_York",
            utc(2026, 11, 1),
            [utc(2026, 11, 1, 5), utc(2026, 11, 1, 5, 30), utc(2026, 11, 1, 6), utc(2026, 11, 1, 6, 30)],
        ),
        ("0 0 * * *", "Africa/Cairo", utc(2026, 4, 23, 12), [utc(2026, 4, 23, 22)]),
        ("15 2 * * *", "Australia/Lord_Howe", utc(2026, 10, 3, 12), [utc(2026, 10, 3, 15, 30)]),
    ],
)
def test_a_wall_time_that_is_missing_is_taken_at_the_jump_and_one_that_comes_twice_once(
    seconds_first: str, text: str, zone: str, day: datetime, expected: list[datetime]
) -> None:
    assert between(cron(seconds_first + text, zone), day, day + timedelta(hours=20)) == expected


def test_seconds_come_first_and_words_stand_for_texts() -> None:
    start = utc(2026, 1, 1)
    assert between(cron("*/20 * * * * *"), start, utc(2026, 1, 1, 0, 1)) == [
        utc(2026, 1, 1, 0, 0, 20),
        utc(2026, 1, 1, 0, 0, 40),
        utc(2026, 1, 1, 0, 1),
    ]
    for word, text in [
        ("@daily", "0 0 * * *"),
        ("@Weekly", "0 0 * * 0"),
        ("@hourly", "0 * * * *"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
    ]:
        assert cron(word).after(start) == cron(text).after(start)
    assert cron("0 9 * * MON#1").after(start) == utc(2026, 1, 5, 9)
    assert cron("0 9 L 2 *").after(start) == utc(2026, 2, 28, 9)


def test_rare_dates_are_found_quickly() -> None:
    assert cron("0 0 29 2 *", "Europe/Berlin").after(utc(2026, 1, 1)) == utc(2028, 2, 28, 23)
    assert cron("*/30 0 29 2 */7").after(utc(2026, 1, 1)) == utc(2032, 2, 29)


def test_intervals_begin_at_their_anchor() -> None:
    recurrence = every("90m")
    assert recurrence.after(ANCHOR - timedelta(days=400)) == ANCHOR + timedelta(minutes=90)
    assert recurrence.after(ANCHOR) == ANCHOR + timedelta(minutes=90)
    assert recurrence.after(ANCHOR + timedelta(minutes=90)) == ANCHOR + timedelta(minutes=180)
    assert recurrence.before(ANCHOR + timedelta(minutes=90)) is None
    assert recurrence.before(ANCHOR + timedelta(minutes=91)) == ANCHOR + timedelta(minutes=90)


@given(
    interval=st.integers(1_000, 10**10),
    at=st.datetimes(datetime(2026, 1, 2), datetime(2030, 1, 1)),  # noqa: DTZ001
)
def test_an_interval_is_never_skipped_nor_doubled(interval: int, at: datetime) -> None:
    recurrence = every(str(interval))
    first = recurrence.after(at.replace(tzinfo=ANCHOR.tzinfo))
    assert first is not None
    assert (first - ANCHOR) % timedelta(milliseconds=interval) == timedelta(0)
    assert timedelta(0) < first - at.replace(tzinfo=ANCHOR.tzinfo) <= timedelta(milliseconds=interval)


def test_one_instant_comes_once() -> None:
    for text, zone, expected in [
        ("2026-03-08T02:30:00", "America/New_York", utc(2026, 3, 8, 7)),
        ("2026-03-08T12:00:00+02:00", "America/New_York", utc(2026, 3, 8, 10)),
    ]:
        recurrence = read_recurrence(ScheduleKind.AT, text, zone, ANCHOR)
        assert recurrence.after(ANCHOR) == expected
        assert recurrence.after(expected) is None
        assert recurrence.before(expected + GRACE) == expected
        assert recurrence.before(expected) is None


@pytest.mark.parametrize(
    ("kind", "text", "zone", "member"),
    [
        ("cron", "* * * *", "UTC", "cron"),
        ("cron", "", "UTC", "cron"),
        ("cron", "61 * * * *", "UTC", "cron"),
        ("cron", "* * 30 2 *", "UTC", "cron"),
        ("cron", "* * */30 2 5#5", "UTC", "cron"),
        ("cron", "@fortnightly", "UTC", "cron"),
        ("cron", "* " * 500, "UTC", "cron"),
        ("cron", "*/0 * * * *", "UTC", "cron"),
        ("cron", "99999999999999999999 * * * *", "UTC", "cron"),
        ("cron", "* * * * *", "Europe/Berlln", "timezone"),
        ("cron", "* * * * *", "../../etc/passwd", "timezone"),
        ("cron", "* * * * *", "localtime", "timezone"),
        ("cron", "* * * * *", "", "timezone"),
        ("every", "0", "UTC", "every"),
        ("every", "999ms", "UTC", "every"),
        ("every", "fortnight", "UTC", "every"),
        ("every", "101y", "UTC", "every"),
        ("at", "tomorrow", "UTC", "at"),
        ("at", "9999-12-31T23:59:59-12:00", "UTC", "at"),
        ("at", "0001-01-01T00:00:00+14:00", "UTC", "at"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_member_at_fault(
    kind: str, text: str, zone: str, member: str
) -> None:
    with pytest.raises(ScheduleInvalid) as refused:
        read_recurrence(ScheduleKind(kind), text, zone, ANCHOR)
    assert refused.value.member == member
    assert "found" in refused.value.message or "unknown" in refused.value.message


def test_a_misspelt_zone_or_word_gets_a_suggestion() -> None:
    with pytest.raises(ScheduleInvalid) as refused:
        cron("* * * * *", "Europe/Berlln")
    assert refused.value.suggestion == "Europe/Berlin"
    with pytest.raises(ScheduleInvalid) as refused:
        cron("@dayly")
    assert refused.value.suggestion == "@daily"


# -- jitter -------------------------------------------------------------------------------------------------------


@given(jitter_ms=st.integers(0, 10**9), identifier=st.text(max_size=40))
def test_jitter_is_never_early_always_the_same_and_keeps_the_order(jitter_ms: int, identifier: str) -> None:
    timing = Timing(identifier, cron("*/5 * * * *"), jitter_ms)
    instants = between(timing.recurrence, ANCHOR, ANCHOR + timedelta(hours=2))
    due = [timing.due_at(instant) for instant in instants]
    assert due == [timing.due_at(instant) for instant in instants]
    assert all(timedelta(0) <= at - instant for at, instant in zip(due, instants, strict=True))
    assert all(
        at - instant <= timedelta(milliseconds=jitter_ms) for at, instant in zip(due, instants, strict=True)
    )
    assert all(one < other for one, other in pairwise(due))


def test_jitter_spreads_schedules_apart() -> None:
    delays = {Timing(str(number), cron("0 0 * * *"), 600_000).due_at(utc(2026, 1, 2)) for number in range(50)}
    assert len(delays) > 45


# -- turns --------------------------------------------------------------------------------------------------------

HOURLY = Timing("hourly", read_recurrence(ScheduleKind.EVERY, "1h", "UTC", ANCHOR))
HOUR = timedelta(hours=1)


def turn(hours_late: float, catch_up: str, limit: int = 3, at_once: int = 100):
    """What an hourly schedule does that waited for 01:00, so many hours later."""
    first = ANCHOR + HOUR
    now = first + timedelta(hours=hours_late)
    return take_turn(
        HOURLY, Run(first, first), now, catch_up=CatchUp(catch_up), catch_up_limit=limit, at_once=at_once
    )


def hours(instants) -> list[int]:
    return [int((instant - ANCHOR) / HOUR) for instant in instants]


@pytest.mark.parametrize(
    ("late", "catch_up", "runs", "following"),
    [
        (0, "none", [1], 2),
        (0, "last", [1], 2),
        (0, "all", [1], 2),
        (0.01, "none", [1], 2),  # 36 s late is on time
        (0.5, "none", [], 2),
        (0.5, "last", [1], 2),
        (0.5, "all", [1], 2),
        (4.5, "none", [], 6),
        (4.5, "last", [5], 6),
        (4.5, "all", [3, 4, 5], 6),
        (4.01, "none", [5], 6),
        (4.01, "last", [5], 6),
        (4.01, "all", [3, 4, 5], 6),
        (1.5, "all", [1, 2], 3),
    ],
)
def test_what_was_missed_is_caught_up_as_the_policy_says(
    late: float, catch_up: str, runs: list[int], following: int
) -> None:
    done = turn(late, catch_up)
    assert hours(done.runs) == runs
    assert done.next is not None
    assert hours([done.next.scheduled_at]) == [following]
    assert done.has_missed == (late > 0.02)


def test_a_long_turn_is_taken_in_parts() -> None:
    done = turn(9.5, "all", limit=8, at_once=3)
    assert hours(done.runs) == [3, 4, 5]
    assert done.next is not None
    assert hours([done.next.scheduled_at]) == [6]


def test_several_runs_that_are_a_little_late_all_start() -> None:
    timing = Timing("often", every("1s"))
    first = ANCHOR + timedelta(seconds=1)
    done = take_turn(
        timing,
        Run(first, first),
        first + timedelta(seconds=4.5),
        catch_up=CatchUp.NONE,
        catch_up_limit=1,
        at_once=100,
    )
    assert len(done.runs) == 5


def test_a_run_that_is_put_off_is_not_late() -> None:
    timing = Timing("jittery", every("1h"), 3_000_000)
    first = timing.next_after(ANCHOR)
    assert first is not None
    assert first.due_at > first.scheduled_at + GRACE, "else this test says nothing"
    done = take_turn(timing, first, first.due_at, catch_up=CatchUp.NONE, catch_up_limit=1, at_once=100)
    assert done.runs == (first.scheduled_at,)
    assert not done.has_missed
    assert done.next == timing.next_after(first.scheduled_at)


def test_what_happened_every_second_for_a_year_costs_no_year_to_catch_up() -> None:
    timing = Timing("often", cron("* * * * * *"))
    first = ANCHOR + timedelta(seconds=1)
    done = take_turn(
        timing,
        Run(first, first),
        ANCHOR + timedelta(days=365),
        catch_up=CatchUp.ALL,
        catch_up_limit=100,
        at_once=10,
    )
    assert len(done.runs) == 10
    assert done.runs[-1] == ANCHOR + timedelta(days=365) - timedelta(seconds=90)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("99 * * * *", "expected a minute from 0 to 59, found 99"),
        ("* 5-30 * * *", "expected an hour from 0 to 23, found '5-30'"),
        ("* * 32 * *", "expected a day of the month from 1 to 31, found 32"),
        ("* * * MAI *", "expected a month from 1 to 12, or JAN to DEC, found 'MAI'"),
        ("* * * * 8", "expected a day of the week from 0 to 7, or SUN to SAT, found 8"),
        ("61 * * * * *", "expected a second from 0 to 59, found 61"),
        ("0 0 30 2 *", "expected a time that comes, found '0 0 30 2 *', which matches no date"),
    ],
)
def test_a_cron_field_that_cannot_be_is_named_with_its_bounds(text: str, message: str) -> None:
    with pytest.raises(ScheduleInvalid) as refused:
        cron(text)
    assert refused.value.message == message
