"""The reference for times that are measured on a machine that others use."""

import time

from tests.support.slowdown import MOST, Slowdown
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
