"""How long the line may be: a tenth of a second's work, of which nothing is known at first."""

import pytest

from task_runner import line
from task_runner.line import LEAST_CALLS, LINE_MAX, Line

SLOTS = 8


def with_calls(seconds: float, count: int = LEAST_CALLS) -> Line:
    made = Line(SLOTS)
    for _ in range(count):
        made.note(seconds)
    return made


@pytest.mark.parametrize(
    ("seconds", "length"), [(0.0, LINE_MAX), (0.0001, LINE_MAX), (0.01, 80), (0.09, 8), (0.2, 0), (60.0, 0)]
)
def test_it_is_as_long_as_its_slots_need_a_tenth_of_a_second_for(seconds: float, length: int) -> None:
    assert with_calls(seconds).length == pytest.approx(length, abs=1)


def test_there_is_none_before_it_is_known_how_long_calls_take() -> None:
    assert with_calls(0.001, LEAST_CALLS - 1).length == 0


def test_it_follows_how_long_calls_take_now() -> None:
    changed = with_calls(0.001, 1_000)
    for _ in range(20):
        changed.note(1.0)
    assert changed.length == 0
    for _ in range(500):
        changed.note(0.001)
    assert changed.length > 100


def test_one_that_was_closed_opens_again(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = with_calls(0.001)
    closed.close()
    assert closed.length == 0

    monkeypatch.setattr(line, "CLOSED_SECONDS", -1.0)
    closed.close()
    assert closed.length == LINE_MAX


def test_it_moves_while_calls_end(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Line(SLOTS).is_moving
    moving = with_calls(0.001)
    assert moving.is_moving

    monkeypatch.setattr(line, "PATIENCE", 0.0)
    assert not moving.is_moving
