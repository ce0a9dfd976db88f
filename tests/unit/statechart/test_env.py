"""The environment of a step goes to JSON and back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from statechart import Env
from statechart.env import end_of_wait, format_instant, parse_instant


def test_an_environment_comes_back_from_json_as_it_was():
    env = Env(datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC), {"orders": {"limit": 3}}, "seed")

    assert env.to_json() == {
        "now": "2026-01-02T03:04:05.000678Z",
        "config": {"orders": {"limit": 3}},
        "seed": "seed",
    }
    assert Env.from_json(env.to_json()) == env


def test_an_instant_of_another_zone_is_told_in_utc():
    zone = timezone(timedelta(hours=2))

    assert Env(datetime(2026, 1, 2, 3, tzinfo=zone)).to_json()["now"] == "2026-01-02T01:00:00.000000Z"


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_an_instant_beyond_the_calendar_is_no_instant(text):
    with pytest.raises(ValueError, match="years 1 to 9999"):
        parse_instant(text)


@pytest.mark.parametrize("text", ["tomorrow", "", "2026-13-01T00:00:00Z"])
def test_a_text_that_is_no_instant_is_refused_with_one_that_is(text):
    with pytest.raises(ValueError, match=f"expected an instant such as 2026-03-01T09:00:00Z, found '{text}'"):
        parse_instant(text)


def test_an_instant_without_a_zone_is_refused():
    with pytest.raises(ValueError, match="naive"):
        Env(datetime(2026, 1, 2))  # noqa: DTZ001 - that is the point


def test_an_hour_that_comes_twice_has_two_texts():
    """They are equal as Python compares them in one zone, and an hour apart."""
    berlin = ZoneInfo("Europe/Berlin")
    first, second = (datetime(2026, 10, 25, 2, 30, tzinfo=berlin, fold=fold) for fold in (0, 1))

    assert [format_instant(first), format_instant(second)] == [
        "2026-10-25T00:30:00.000000Z",
        "2026-10-25T01:30:00.000000Z",
    ]


def test_a_wait_from_the_end_of_the_calendar_ends_with_it():
    never = parse_instant("9999-12-31T23:59:59Z")

    assert format_instant(end_of_wait(never, 999)) == "9999-12-31T23:59:59.999000Z"
    assert format_instant(end_of_wait(never, 5_000)) == "9999-12-31T23:59:59.999999Z"
