"""Durations in all their spellings."""

from __future__ import annotations

import pytest

from statechart.durations import MAX_DURATION_MS, parse_duration


@pytest.mark.parametrize(
    ("written", "milliseconds"),
    [
        (0, 0),
        (1500, 1500),
        (2.0, 2),
        ("1500", 1500),
        ("250ms", 250),
        ("30s", 30_000),
        ("1.5s", 1_500),
        ("5m", 300_000),
        ("2h", 7_200_000),
        ("7d", 604_800_000),
        ("1w", 604_800_000),
        ("1h30m", 5_400_000),
        ("PT5M", 300_000),
        ("PT1.5S", 1_500),
        ("P1DT2H", 93_600_000),
        ("P2W", 1_209_600_000),
    ],
)
def test_a_duration_is_read_as_milliseconds(written, milliseconds):
    assert parse_duration(written) == milliseconds


@pytest.mark.parametrize(
    "written",
    [
        "",
        "soon",
        "m5",
        "-5m",
        -1,
        True,
        None,
        [],
        "P1M",
        "P1Y",
        "PT",
        "P",
        "5 minutes",
        float("nan"),
        float("inf"),
    ],
)
def test_what_is_no_duration_is_refused(written):
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(written)


def test_a_duration_beyond_a_century_is_refused():
    with pytest.raises(ValueError, match="between 0 and 100 years"):
        parse_duration(MAX_DURATION_MS + 1)
