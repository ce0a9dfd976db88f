"""The watch: an attempt is ended when its time is over, never before, and only once."""

from dataclasses import dataclass, field

import pytest

from common.task_error import TaskError
from task_runner.watch import Bounds, Watch


@dataclass
class Attempt:
    heard_at: float = 0.0
    ended: list[str] = field(default_factory=list)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(clock: Clock) -> Watch[Attempt]:
    def overrun(attempt: Attempt, error: TaskError) -> None:
        attempt.ended.append(error.code)

    return Watch(overrun, clock=clock)


def watched(watch: Watch[Attempt], timeout_ms: int | None, heartbeat_ms: int | None) -> Attempt:
    attempt = Attempt()
    bounds = Bounds.of(timeout_ms, heartbeat_ms)
    assert bounds is not None
    watch.add(attempt, bounds, lambda: attempt.heard_at)
    return attempt


def test_what_has_no_bounds_is_not_watched() -> None:
    assert Bounds.of(None, None) is None


@pytest.mark.parametrize(
    ("timeout_ms", "heartbeat_ms", "code"),
    [(2_000, None, "task.timeout"), (None, 2_000, "task.heartbeat_timeout"), (2_000, 2_000, "task.timeout")],
)
def test_an_attempt_is_ended_when_its_time_is_over_and_not_before(
    watch: Watch[Attempt], clock: Clock, timeout_ms: int | None, heartbeat_ms: int | None, code: str
) -> None:
    attempt = watched(watch, timeout_ms, heartbeat_ms)
    clock.now += 1.999
    assert watch.look() == pytest.approx(0.001)
    assert attempt.ended == []

    clock.now += 0.001
    assert watch.look() is None
    assert watch.look() is None
    assert attempt.ended == [code]


def test_a_sign_of_life_moves_the_end_of_the_silence_but_not_of_the_attempt(
    watch: Watch[Attempt], clock: Clock
) -> None:
    attempt = watched(watch, 5_000, 2_000)
    for _ in range(4):
        clock.now += 1
        attempt.heard_at = clock.now
        assert watch.look() == pytest.approx(min(2, 105 - clock.now))
    clock.now += 1
    watch.look()
    assert attempt.ended == ["task.timeout"]


def test_an_attempt_that_ended_is_not_watched_any_more(watch: Watch[Attempt], clock: Clock) -> None:
    ended, other = watched(watch, 1_000, None), watched(watch, 3_000, None)
    watch.drop(ended)
    watch.drop(ended)
    assert watch.look() == 3
    clock.now += 10
    watch.look()
    assert (ended.ended, other.ended) == ([], ["task.timeout"])
