"""A circuit breaker as a table: what lets it open, who tries, what closes it; and what an error says of its target."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.breaker import (
    Admission,
    Breaker,
    BreakerKey,
    BreakerPolicy,
    BreakerState,
    Call,
    Guarded,
    Verdict,
    admits,
    canonical_target,
    closed,
    counted,
    opened,
    probed,
    verdict_on,
)
from common.ids import LeaseToken, TaskId, TenantId
from common.task_error import TaskError

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
POLICY = BreakerPolicy()
GUARDED = Guarded(BreakerKey(TenantId("t"), "HTTP", "https://host:443"), POLICY)
WELL, BADLY = Verdict.WELL, Verdict.BADLY
CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
PROBE = (TaskId("probe"), LeaseToken("its token"))


def call(verdict: Verdict | None, task: str = "any", token: str = "token") -> Call:
    return Call(GUARDED, TaskId(task), LeaseToken(token), verdict, "http.503: no")


def after(*verdicts: Verdict | None, breaker: Breaker | None = None, every: float = 0) -> Breaker:
    """A breaker after calls that ended so, so many seconds apart."""
    breaker, now = breaker or Breaker(counted_from=NOON), NOON
    for verdict in verdicts:
        breaker = counted(breaker, call(verdict), now=now)
        now += timedelta(seconds=every)
    return breaker


def probing() -> Breaker:
    return probed(after(*[BADLY] * 5), *PROBE)


@pytest.mark.parametrize(
    ("verdicts", "state"),
    [
        ([BADLY] * 4, CLOSED),
        ([BADLY] * 5, OPEN),
        ([BADLY] * 4 + [WELL] + [BADLY] * 4, CLOSED),  # 8 of 9
        ([BADLY] * 4 + [WELL] + [BADLY] * 4 + [WELL, BADLY], OPEN),  # 9 of 11
        ([BADLY, WELL] * 4 + [BADLY], CLOSED),  # 5 of 9
        ([BADLY, WELL] * 4 + [BADLY, BADLY], OPEN),  # 6 of 10
        ([BADLY, WELL, WELL] * 20, CLOSED),  # a third
        ([None] * 50, CLOSED),
        ([BADLY, None, BADLY, None, BADLY, None, BADLY, None, BADLY], OPEN),
        ([WELL] * 50, CLOSED),
    ],
)
def test_too_many_failures_in_a_row_or_of_all_open_it(verdicts, state):
    assert after(*verdicts).state is state


def test_failures_of_different_windows_are_not_added_up_but_those_in_a_row_are():
    apart = after(*[BADLY, WELL] * 20, every=61)

    assert apart.state is CLOSED
    assert after(*[BADLY] * 5, every=61).state is OPEN


def test_a_target_that_does_well_changes_nothing():
    breaker = Breaker(counted_from=NOON)

    assert counted(breaker, call(WELL), now=NOON + timedelta(days=1)) is breaker


def test_an_open_one_lets_nobody_through_until_its_cool_down_is_over_and_then_one():
    breaker = after(*[BADLY] * 5)
    over = NOON + POLICY.cool_down

    assert breaker.retry_at == over
    assert admits(breaker, is_probed=False, now=over - timedelta(microseconds=1)) is Admission.WAIT
    assert admits(breaker, is_probed=False, now=over) is Admission.PROBE
    assert admits(probing(), is_probed=True, now=over) is Admission.WAIT
    assert admits(probing(), is_probed=False, now=over) is Admission.PROBE, "the probe's process died"


@pytest.mark.parametrize(
    ("verdict", "state", "tries"), [(WELL, CLOSED, None), (BADLY, OPEN, None), (None, HALF_OPEN, None)]
)
def test_the_probe_decides(verdict, state, tries):
    later = NOON + timedelta(seconds=70)

    ended = counted(probing(), call(verdict, *PROBE), now=later)

    assert ended.state is state
    assert ended.probe_token is tries
    assert (
        ended.retry_at
        == {WELL: None, BADLY: later + POLICY.cool_down, None: NOON + POLICY.cool_down}[verdict]
    )


@pytest.mark.parametrize("verdict", [WELL, BADLY, None])
def test_while_it_is_not_closed_only_the_probe_counts(verdict):
    for breaker in (after(*[BADLY] * 5), probing()):
        assert counted(breaker, call(verdict), now=NOON) is breaker
        assert counted(breaker, call(verdict, PROBE[0], "an older token"), now=NOON) is breaker


def test_an_operator_s_word_stays_until_it_is_reset():
    held_open = opened(Breaker(counted_from=NOON), now=NOON)
    held_closed = closed(probing(), now=NOON, forced=True)

    assert admits(held_open, is_probed=False, now=NOON + timedelta(days=9)) is Admission.WAIT
    assert after(*[WELL] * 20, breaker=held_open) == held_open
    assert after(*[BADLY] * 20, breaker=held_closed).state is CLOSED
    assert after(*[BADLY] * 5, breaker=closed(held_closed, now=NOON)).state is OPEN


@given(
    st.lists(st.tuples(st.sampled_from([WELL, BADLY, None]), st.booleans(), st.floats(0, 50)), max_size=60)
)
def test_whatever_happens_it_never_opens_without_a_failure_nor_waits_for_nothing(calls):
    breaker, now = Breaker(counted_from=NOON), NOON
    for verdict, is_probe, seconds in calls:
        now += timedelta(seconds=seconds)
        if admits(breaker, is_probed=breaker.probe_token is not None, now=now) is Admission.PROBE:
            breaker = probed(breaker, *PROBE)
        before = breaker
        breaker = counted(before, call(verdict, *PROBE) if is_probe else call(verdict), now=now)

        assert breaker.state is CLOSED or breaker.retry_at is not None, "nobody would ever try again"
        assert (breaker.state is HALF_OPEN) or breaker.probe_token is None
        if breaker.state is OPEN and before.state is not OPEN:
            assert verdict is BADLY
            assert breaker.retry_at == now + POLICY.cool_down
        if breaker.state is CLOSED:
            assert breaker.in_a_row < POLICY.failures


@pytest.mark.parametrize(
    ("code", "retryable", "said"),
    [
        ("http.connect", True, BADLY), ("http.timeout", True, BADLY), ("http.protocol", True, BADLY),
        ("http.500", True, BADLY), ("http.501", False, BADLY), ("http.503", True, BADLY), ("http.429", True, BADLY),
        ("http.408", True, BADLY), ("http.404", False, WELL), ("http.401", False, WELL), ("http.425", True, WELL),
        ("http.too_large", False, WELL), ("http.invalid", False, None), ("http.refused_address", False, None),
        ("http.cancelled", True, None), ("ai.529", True, BADLY), ("ai.429", True, BADLY), ("ai.input", False, None),
        ("email.unreachable", True, BADLY), ("email.refused", False, WELL), ("email.deferred", True, WELL),
        ("task.timeout", None, BADLY), ("task.heartbeat_timeout", None, BADLY), ("task.crashed", None, BADLY),
        ("task.unwanted", None, None), ("input.invalid", False, None), ("output.invalid", False, None),
        ("secret.no_key", None, None), ("ConnectionError", None, BADLY), ("TimeoutError", None, BADLY),
        ("ConnectTimeout", None, BADLY), ("KeyError", None, None), ("handler.retryable", True, BADLY),
        ("handler.permanent", False, None),
    ],
)  # fmt: skip
def test_what_an_error_says_of_the_target(code, retryable, said):
    assert verdict_on(TaskError(code, "it failed", retryable=retryable)) is said


@pytest.mark.parametrize(
    ("written", "target"),
    [
        ("https://Example.COM/a?b#c", "https://example.com:443"),
        ("http://user:password@example.com:8080/x", "http://example.com:8080"),
        ("HTTP://[::1]:80/", "http://[::1]:80"),
        ("https://example.com.", "https://example.com:443"),
        ("smtp://mail.example", "smtp://mail.example"),
        ("billing", "billing"),
        ("  billing ", "billing"),
        ("two words", None), ("a\nb", None), ("", None), ("x" * 256, None), ("https://", None), ("https:///path", None),
        ("https://host:99999", None), ("https://${secret.HOST}/", None), ("https://a b/", None),
        ("https://" + "h" * 300, None), ("\ud800", None),
    ],
)  # fmt: skip
def test_a_target_is_canonical_and_has_no_secret_in_it(written, target):
    assert canonical_target(written) == target
