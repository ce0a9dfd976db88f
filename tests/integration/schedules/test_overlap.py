"""A run whose time comes while the one before still lives: skip, queue, cancel or allow."""

from __future__ import annotations

from datetime import timedelta

import pytest

from common.lifecycle import InstanceStatus
from common.store import schedules as store
from orchestrator.schedules import MAX_QUEUED
from tests.integration.schedules.scheduling import LONG, fire, instants, row, say, schedule
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock

HOUR = timedelta(hours=1)


def living(engine: Engine, schedule_id: str) -> list[str]:
    with engine.database.reading() as tx:
        return list(store.find_living(tx, schedule_id))


def hours(engine: Engine, schedule_id: str) -> list[int]:
    return [at.hour for at in instants(engine, schedule_id)]


@pytest.mark.parametrize(
    ("overlap", "started", "skipped", "alive"),
    [
        ("skip", [13], 3, 1),
        ("queue", [13], 0, 1),
        ("cancel", [13, 14, 15, 16], 0, 1),
        ("allow", [13, 14, 15, 16], 0, 4),
    ],
)
def test_four_runs_of_what_never_ends(
    clock: ManualClock, engine: Engine, overlap: str, started: list[int], skipped: int, alive: int
) -> None:
    engine.apply(LONG)
    schedule_id = schedule(engine, "long", every="1h", overlap=overlap)
    for _ in range(4):
        clock.advance(HOUR)
        engine.settle()
        engine.settle()
    assert hours(engine, schedule_id) == started
    assert row(engine, schedule_id).skipped == skipped
    assert len(living(engine, schedule_id)) == alive


def test_queued_runs_start_one_after_the_other_in_their_order(clock: ManualClock, engine: Engine) -> None:
    engine.apply(LONG)
    schedule_id = schedule(engine, "long", every="1h", overlap="queue")
    for _ in range(3):
        clock.advance(HOUR)
        engine.settle()
    for expected in ([13], [13, 14], [13, 14, 15]):
        assert hours(engine, schedule_id) == expected
        (one,) = living(engine, schedule_id)
        engine.send(one, "STOP")
        engine.settle()
        engine.settle()
    assert living(engine, schedule_id) == []
    assert row(engine, schedule_id).queued == "[]"

    clock.advance(HOUR)
    engine.settle()
    assert hours(engine, schedule_id) == [13, 14, 15, 16]


def test_the_queue_is_bounded(clock: ManualClock, engine: Engine) -> None:
    engine.apply(LONG)
    schedule_id = schedule(engine, "long", every="1h", overlap="queue")
    for _ in range(MAX_QUEUED + 4):
        clock.advance(HOUR)
        fire(engine)
    assert row(engine, schedule_id).skipped == 3
    assert len(instants(engine, schedule_id)) == 1


def test_a_paused_schedule_starts_no_queued_run(clock: ManualClock, engine: Engine) -> None:
    engine.apply(LONG)
    schedule_id = schedule(engine, "long", every="1h", overlap="queue")
    for _ in range(2):
        clock.advance(HOUR)
        engine.settle()
    say(engine, "pause", schedule_id)
    engine.send(living(engine, schedule_id)[0], "STOP")
    engine.settle()
    assert hours(engine, schedule_id) == [13]
    say(engine, "resume", schedule_id)
    engine.settle()
    assert hours(engine, schedule_id) == [13, 14]


def test_a_cancelled_run_has_ended_before_the_next_one_starts(clock: ManualClock, engine: Engine) -> None:
    engine.apply(LONG)
    schedule_id = schedule(engine, "long", every="1h", overlap="cancel", business_key="only-one")
    clock.advance(HOUR)
    engine.settle()
    (first,) = living(engine, schedule_id)
    clock.advance(HOUR)
    fire(engine)
    assert living(engine, schedule_id) == [first], "asked to end, and nothing started beside it"

    engine.settle()
    assert engine.status(first) is InstanceStatus.CANCELLED
    (second,) = living(engine, schedule_id)
    assert hours(engine, schedule_id) == [13, 14]
    assert row(engine, schedule_id).last_error is None
    ((actor,),) = (
        engine.execute(
            "SELECT actor FROM history WHERE instance_id = :id AND changes LIKE '%instance.cancelled%'",
            id=first,
        )
        if engine.database.is_sqlite
        else engine.execute(
            "SELECT actor FROM history WHERE instance_id = %(id)s AND changes LIKE '%%instance.cancelled%%'",
            id=first,
        )
    )
    assert actor == f"schedule:{schedule_id}"
    assert second != first


def test_a_failed_instance_does_not_hold_up_its_schedule(clock: ManualClock, engine: Engine) -> None:
    engine.apply(
        {
            "id": "failing",
            "initial": "busy",
            "states": {
                "busy": {"on": {"GO": {"actions": [{"type": "assign", "path": "x", "value": "${1 / 0}"}]}}}
            },
        }
    )
    schedule_id = schedule(engine, "failing", every="1h", overlap="skip")
    clock.advance(HOUR)
    engine.settle()
    (one,) = living(engine, schedule_id)
    engine.send(one, "GO")
    engine.settle()
    assert engine.status(one) is InstanceStatus.FAILED

    clock.advance(HOUR)
    engine.settle()
    assert hours(engine, schedule_id) == [13, 14]
