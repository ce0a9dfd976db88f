"""From times to figures."""

from datetime import UTC, datetime, timedelta

import pytest

from signalbox.measure import Latency, Run, backlog_figures, latency, live_figures, percentile

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def run(created: float, started: float, finished: float, steps: int = 4) -> Run:
    return Run(*(NOON + timedelta(seconds=second) for second in (created, started, finished)), steps)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.01, 1), (0.5, 50), (0.95, 95), (0.951, 96), (0.99, 99), (1.0, 100)]
)
def test_a_percentile_is_the_smallest_value_that_covers_the_share(share: float, expected: float) -> None:
    assert percentile([float(number) for number in range(1, 101)], share) == expected


def test_percentiles_of_one_value_are_that_value() -> None:
    assert latency([7.0]) == Latency(7.0, 7.0, 7.0)


def test_live_rates_count_from_the_first_start_to_the_last_end() -> None:
    figures = live_figures([run(0, 0.1, 1), run(1, 1.1, 2, steps=6)])

    assert figures.seconds == 2
    assert figures.workflows_per_second == 1
    assert figures.steps_per_second == 5
    assert figures.latency.p50 == pytest.approx(1_000)


def test_backlog_rates_count_from_the_first_step() -> None:
    figures = backlog_figures([run(0, 10, 11), run(1, 10.5, 12)])

    assert figures.seconds == 2
    assert figures.workflows_per_second == 1
