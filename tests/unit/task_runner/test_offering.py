"""How often a runner tells what it would take: each look, each other one with nothing to do, and never so seldom that nobody knows of it."""

from datetime import timedelta

import pytest

from common.ids import WorkerId, new_id
from common.queues.dispatcher import DUE_CHECK
from common.queues.offers import KEPT_SECONDS
from task_runner import offering as module
from task_runner.offering import RENEWED_AFTER, RENEWED_IDLE_AFTER, Offering
from task_runner.registry import Registry


def told_at(monkeypatch: pytest.MonkeyPatch, after: float) -> list[int]:
    """The looks of six, one each `DUE_CHECK`, at which an offer is told."""
    now, told = [1_000.0], []
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def say(_whom: str, _said: bytes) -> int:
        told.append(look)
        return 1

    one = Offering(
        Registry().all(), worker=WorkerId(new_id()), lease=timedelta(seconds=8), say=say, are_watched=False
    )
    for look in range(6):
        now[0] = 1_000.0 + look * DUE_CHECK
        one.renew(8, frozenset(), after=after)
    return told


def test_it_is_told_with_each_look_and_with_each_other_one_by_who_has_nothing_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert told_at(monkeypatch, RENEWED_AFTER) == [0, 1, 2, 3, 4, 5]
    assert told_at(monkeypatch, RENEWED_IDLE_AFTER) == [0, 2, 4]


def test_it_is_told_again_before_it_is_forgotten() -> None:
    assert KEPT_SECONDS > 2 * DUE_CHECK + 0.5, "half a second late, and it stands still"
    assert RENEWED_IDLE_AFTER < 2 * DUE_CHECK
