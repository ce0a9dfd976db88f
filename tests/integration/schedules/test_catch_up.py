"""What was missed while nobody could fire it: nothing, the last, or all of it up to a limit."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.integration.schedules.scheduling import LONG, SHORT, fire, instants, row, schedule
from tests.support.brute_cron import utc
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock

HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("catch_up", "started"),
    [("none", []), ("last", [17]), ("all", [14, 15, 16, 17])],
)
def test_after_five_and_a_half_hours_of_downtime(
    clock: ManualClock, engine: Engine, catch_up: str, started: list[int]
) -> None:
    engine.apply(SHORT)
    schedule_id = schedule(engine, every="1h", catch_up=catch_up, catch_up_limit=4)
    clock.advance(5 * HOUR + timedelta(minutes=30))

    fire(engine)
    assert [at.hour for at in instants(engine, schedule_id)] == started
    assert row(engine, schedule_id).next_at == utc(2026, 3, 1, 18)

    clock.advance(timedelta(minutes=30))
    fire(engine)
    assert [at.hour for at in instants(engine, schedule_id)] == [*started, 18]


@pytest.mark.parametrize("catch_up", ["none", "last", "all"])
def test_a_minute_late_is_on_time(clock: ManualClock, engine: Engine, catch_up: str) -> None:
    engine.apply(SHORT)
    schedule_id = schedule(engine, every="20s", catch_up=catch_up)
    clock.advance(timedelta(seconds=65))
    fire(engine)
    assert len(instants(engine, schedule_id)) == 3


def test_a_long_list_is_caught_up_in_several_transactions(clock: ManualClock, engine: Engine) -> None:
    engine.apply(SHORT)
    schedule_id = schedule(engine, every="1m", catch_up="all", catch_up_limit=50)
    clock.advance(timedelta(hours=3, seconds=30))
    done = fire(engine)
    assert done.started == 50
    assert done.turns >= 3
    assert instants(engine, schedule_id)[0] == utc(2026, 3, 1, 14, 11)
    assert instants(engine, schedule_id)[-1] == utc(2026, 3, 1, 15)
    assert row(engine, schedule_id).next_at == utc(2026, 3, 1, 15, 1)


def test_what_is_caught_up_minds_who_lives(clock: ManualClock, engine: Engine) -> None:
    engine.apply(LONG)
    schedule_id = schedule(engine, "long", every="1h", catch_up="all", overlap="skip")
    clock.advance(5 * HOUR)
    fire(engine)
    assert len(instants(engine, schedule_id)) == 1
    assert row(engine, schedule_id).skipped == 4
