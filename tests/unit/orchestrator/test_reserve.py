"""An orchestrator in reserve steps for a moment after it was called, and who is not heard does not go on calling."""

import time

import pytest

from common.db import RESERVE_QUEUE
from orchestrator import reserve
from orchestrator.reserve import DRAINS, RELIEF, Crowd, Relief


class Bells:
    """Notes who was called, and tells how many hear."""

    def __init__(self, heard: int | None) -> None:
        self.heard = heard
        self.called: list[str] = []

    def say(self, whom: str, hints: bytes) -> int | None:
        assert hints, "to say nothing is what a listener hears when it begins"
        self.called.append(whom)
        return self.heard


def test_in_reserve_nothing_is_done_until_somebody_calls() -> None:
    relief = Relief(in_reserve=True)
    assert relief.is_over

    relief.begin()
    called_at = time.monotonic()

    assert not relief.is_over
    assert relief.until(called_at + 60) <= called_at + RELIEF
    assert relief.until(called_at - 1) == called_at - 1, "a drain is no longer than it would be"


def test_a_call_is_good_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reserve, "RELIEF", -1.0)
    relief = Relief(in_reserve=True)

    relief.begin()

    for _ in range(DRAINS):
        assert not relief.is_over, "however long a batch takes"
        relief.note_drain(more=True)
    assert relief.is_over


def test_who_finds_nothing_more_does_not_go_on_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reserve, "RELIEF", -1.0)
    relief = Relief(in_reserve=True)

    relief.begin()
    relief.note_drain(more=False)

    assert relief.is_over


def test_who_is_not_in_reserve_always_steps() -> None:
    relief = Relief(in_reserve=False)

    assert not relief.is_over
    assert relief.until(123.0) == 123.0


@pytest.mark.parametrize("heard", [1, None])
def test_each_batch_of_a_crowd_calls(heard: int | None) -> None:
    bells = Bells(heard)
    crowd = Crowd(bells)

    for _ in range(3):
        crowd.call()

    assert bells.called == [RESERVE_QUEUE] * 3


def test_who_is_not_heard_calls_again_after_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    bells = Bells(0)
    crowd = Crowd(bells)

    for _ in range(3):
        crowd.call()
    assert len(bells.called) == 1

    monkeypatch.setattr(reserve, "UNHEARD", -1.0)
    crowd = Crowd(bells)
    crowd.call()
    crowd.call()
    assert len(bells.called) == 3


def test_without_bells_nobody_is_called() -> None:
    Crowd(None).call()
