"""Of what the figures of a crash are made."""

from datetime import UTC, datetime, timedelta

import pytest

from benchmarks.crash import figures

BEGAN = datetime(2026, 12, 1, 9, 0, tzinfo=UTC)


def at(*seconds: float) -> list[datetime]:
    return [BEGAN + timedelta(seconds=one) for one in seconds]


def test_rates_are_counted_up_to_the_kill_and_from_it() -> None:
    [kill] = at(2)

    found = figures(at(0, 1, 1, 2, 4.5, 5, 6), kill)

    assert found == {"before, a second": 2.0, "after, a second": 0.75, "pause, s": 2.5}


@pytest.mark.parametrize("ends", [at(0, 1), at(3, 4), []], ids=["all before", "all after", "none"])
def test_a_kill_that_nothing_surrounds_is_no_measurement(ends: list[datetime]) -> None:
    [kill] = at(2)

    with pytest.raises(ValueError, match="--instances"):
        figures(ends, kill)
