"""The retry policy: arithmetic without a clock, and who has the last word on whether to try again."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Invalid
from common.retry import DEFAULT, RetryPolicy

EXACT = RetryPolicy.read({"interval": "10s", "backoffRate": 3, "maxInterval": "5m", "jitter": 0})


@pytest.mark.parametrize("written", [None, {}])
def test_without_a_policy_the_defaults_hold(written: Any) -> None:
    policy = RetryPolicy.read(written)

    assert policy is DEFAULT
    assert policy.max_attempts == 3
    assert [policy.delay(n, chance=0.5).total_seconds() for n in (1, 2, 3)] == [1, 2, 4]
    assert policy.max_interval == timedelta(hours=1)


def test_each_wait_is_the_last_one_times_the_rate_until_the_longest() -> None:
    waits = [EXACT.delay(n, chance=0.9).total_seconds() for n in range(1, 7)]
    assert waits == [10, 30, 90, 270, 300, 300]


def test_jitter_spreads_a_wait_to_both_sides() -> None:
    policy = RetryPolicy.read({"interval": "10s", "jitter": 0.2})

    assert policy.delay(1, chance=0.0) == timedelta(seconds=8)
    assert policy.delay(1, chance=0.5) == timedelta(seconds=10)
    assert policy.delay(1, chance=0.999999) < timedelta(seconds=12)


def test_attempts_without_end_do_not_overflow() -> None:
    assert EXACT.delay(1_000_000, chance=0.5) == timedelta(minutes=5)
    assert RetryPolicy.read({"interval": 0}).delay(1_000_000, chance=0.5) == timedelta(0)


@given(
    st.integers(1, 10_000),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 10_000_000),
    st.floats(1, 100),
    st.integers(0, 10_000_000),
    st.floats(0, 1),
)
def test_a_wait_is_never_negative_and_never_longer_than_the_longest(
    attempt: int, chance: float, interval: int, rate: float, longest: int, jitter: float
) -> None:
    policy = RetryPolicy.read(
        {"interval": interval, "backoffRate": rate, "maxInterval": longest, "jitter": jitter}
    )
    assert timedelta(0) <= policy.delay(attempt, chance=chance) <= timedelta(milliseconds=longest)


# attempt, what the handler says, retryOn, doNotRetryOn → tried again?
CASES = [
    (1, None, [], [], True),
    (2, None, [], [], True),
    (3, None, [], [], False),  # that was the last
    (9, True, [], [], False),
    (1, False, [], [], False),  # the handler knows: permanent
    (1, False, ["*"], [], False),
    (1, True, [], [], True),
    (1, True, ["other"], [], True),  # the handler knows: retryable
    (1, True, [], ["card.declined"], False),  # but the definition forbids
    (1, None, ["card.declined"], [], True),
    (1, None, ["card.*"], [], True),
    (1, None, ["*"], [], True),
    (1, None, ["other"], [], False),
    (1, None, ["card"], [], False),  # a code is matched whole
    (1, None, ["card.decl*"], [], False),  # and a prefix ends with a dot
    (1, None, ["CARD.*"], [], False),
    (1, None, ["other", "card.declined"], [], True),
    (1, None, [], ["card.*"], False),
    (1, None, [], ["*"], False),
    (1, None, ["card.*"], ["card.declined"], False),  # forbidding wins
    (1, None, [], ["other"], True),
]


@pytest.mark.parametrize(("attempt", "retryable", "retry_on", "never", "again"), CASES)
def test_who_has_the_last_word(
    attempt: int, retryable: bool | None, retry_on: list[str], never: list[str], again: bool
) -> None:
    policy = RetryPolicy.read({"maxAttempts": 3, "retryOn": retry_on, "doNotRetryOn": never})
    assert policy.retries("card.declined", attempt=attempt, limit=3, retryable=retryable) is again


def test_a_task_taken_up_by_hand_counts_on_and_waits_as_at_the_beginning() -> None:
    """Three attempts failed; somebody allowed three more."""
    assert [EXACT.failed(attempt, limit=3) for attempt in (1, 2, 3)] == [1, 2, 3]
    assert [EXACT.failed(attempt, limit=6) for attempt in (4, 5, 6)] == [1, 2, 3]
    assert [EXACT.retries("x", attempt=attempt, limit=6, retryable=None) for attempt in (4, 5, 6)] == [
        True,
        True,
        False,
    ]
    assert EXACT.failed(1, limit=9) == 1, "never before the first"


@pytest.mark.parametrize(
    ("written", "where"),
    [
        ({"maxAttempts": 0}, "retry.maxAttempts"),
        ({"maxAttempts": -1}, "retry.maxAttempts"),
        ({"maxAttempts": 2.5}, "retry.maxAttempts"),
        ({"maxAttempts": "3"}, "retry.maxAttempts"),
        ({"maxAttempts": True}, "retry.maxAttempts"),
        ({"maxAttempts": None}, "retry.maxAttempts"),
        ({"maxAttempts": 1_000_001}, "retry.maxAttempts"),
        ({"backoffRate": 0.5}, "retry.backoffRate"),
        ({"backoffRate": 101}, "retry.backoffRate"),
        ({"backoffRate": float("nan")}, "retry.backoffRate"),
        ({"jitter": -0.1}, "retry.jitter"),
        ({"jitter": 1.1}, "retry.jitter"),
        ({"interval": "soon"}, "retry.interval"),
        ({"interval": -1}, "retry.interval"),
        ({"interval": []}, "retry.interval"),
        ({"interval": None}, "retry.interval"),
        ({"maxInterval": "1 month"}, "retry.maxInterval"),
        ({"retryOn": "handler.*"}, "retry.retryOn"),  # not letter by letter, of which one is "*"
        ({"retryOn": [1]}, "retry.retryOn"),
        ({"doNotRetryOn": {"a": 1}}, "retry.doNotRetryOn"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_with_its_place(written: dict[str, Any], where: str) -> None:
    with pytest.raises(Invalid, match=f"^{where}: ") as refused:
        RetryPolicy.read(written)
    assert refused.value.code == "retry.invalid"


def test_a_whole_number_may_be_written_with_a_point() -> None:
    assert RetryPolicy.read({"maxAttempts": 3.0}) == RetryPolicy(max_attempts=3)


def test_a_failure_may_ask_for_a_longer_wait_up_to_the_longest() -> None:
    def waits(seconds: int) -> float:
        return EXACT.delay(1, chance=0.5, at_least=timedelta(seconds=seconds)).total_seconds()

    assert [waits(seconds) for seconds in (0, 9, 11, 300, 301, 10**9)] == [10, 10, 11, 300, 300, 300]
    assert DEFAULT.delay(1, chance=0.5, at_least=timedelta(days=1)) == timedelta(hours=1)
