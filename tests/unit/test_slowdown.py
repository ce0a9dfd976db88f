"""The reference for times that are measured on a machine that others use."""

import time

import pytest

from tests.support.slowdown import MOST, REFERENCE_SECONDS, SLOWEST, Slowdown, assert_within, slower
from tests.support.waiting import wait_until


def test_it_measures_while_the_block_lasts() -> None:
    began = time.monotonic()
    with Slowdown() as slowdown:
        wait_until(lambda: len(slowdown._samples) >= 3, what="three samples")
        assert 1.0 <= slowdown.between(began, time.monotonic()) <= MOST
        assert slowdown._probe.poll() is None

    assert slowdown._probe.poll() is not None
    number = len(slowdown._samples)
    assert number >= 3
    assert all(at >= began and times >= 0.99 for at, times in slowdown._samples)


def test_it_is_the_mean_of_its_time_never_less_than_one_and_never_more_than_the_most() -> None:
    slowdown = Slowdown()
    slowdown._samples = [(10.0, 0.9), (11.5, 1.5), (12.0, 2.5), (20.0, 40.0)]

    assert slowdown.between(9.5, 10.5) == 1.0
    assert slowdown.between(12.0, 12.5) == 2.0
    assert slowdown.between(20.0, 21.0) == MOST
    assert slowdown.between(30.0, 31.0) == 1.0, "where nothing was measured nothing is stretched"
    assert slowdown.worst() == MOST


def test_a_bound_is_held_as_it_was_set_where_the_machine_is_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.slowdown.reference", lambda clock: REFERENCE_SECONDS)
    assert_within(0.9, 1.0)
    with pytest.raises(
        AssertionError, match=r"1\.10 s, not less than 1 s on a machine 1\.0 times slower: too long"
    ):
        assert_within(1.1, 1.0, "too long")


def test_a_slow_machine_stretches_a_bound_by_as_much_and_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.support.slowdown.reference", lambda clock: 2 * REFERENCE_SECONDS)
    assert_within(1.9, 1.0)
    with pytest.raises(AssertionError, match=r"2\.1"):
        assert_within(2.1, 1.0)
    monkeypatch.setattr("tests.support.slowdown.reference", lambda clock: 1_000 * REFERENCE_SECONDS)
    assert slower() == SLOWEST
