"""The suite's own patience: a wait returns the fact, or says what it waited for."""

import pytest

from tests.support.waiting import wait_until


def test_a_wait_returns_the_first_true_answer():
    answers = iter([None, 0, "ready"])

    assert wait_until(lambda: next(answers), what="an answer") == "ready"


def test_a_wait_that_ends_in_vain_names_the_fact_and_the_last_answer():
    with pytest.raises(AssertionError, match=r"waited 0\.05 s for a train; the last answer was 0"):
        wait_until(lambda: 0, what="a train", seconds=0.05)


def test_an_error_in_the_condition_is_not_taken_for_not_yet():
    with pytest.raises(ZeroDivisionError):
        wait_until(lambda: 1 // 0, what="a result")
