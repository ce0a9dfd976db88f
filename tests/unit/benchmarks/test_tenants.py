"""The rate of a backlog in `python -m benchmarks.tenants`: from the first end to the last."""

from datetime import UTC, datetime, timedelta

from benchmarks.tenants import rate_after_first

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def ends(*seconds: float) -> list[datetime]:
    return [BEGAN + timedelta(seconds=one) for one in seconds]


def test_counted_are_those_that_ended_after_the_first_ones() -> None:
    assert rate_after_first(ends(7, 5, 5, 5, 6, 7)) == 3 / 2


def test_where_all_ended_at_one_instant_there_is_no_rate() -> None:
    assert rate_after_first(ends(5, 5)) is None
