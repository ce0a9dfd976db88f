"""Schedules fire at their instants: never early, each once, whoever looks and whatever dies."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from common import faults
from common.canonical import read
from common.commands.schedules import ScheduleRequest, replace_schedule
from common.db import Database
from common.lifecycle import InstanceStatus
from common.schedule import CatchUp, Overlap, ScheduleKind
from common.store.coming import read_coming
from orchestrator.schedules import fire_due_schedules
from tests.integration.engine.documents import ON_SQLITE
from tests.integration.schedules.scheduling import (
    LONG,
    SHORT,
    fire,
    instants,
    row,
    runs,
    say,
    schedule,
    to_due,
)
from tests.support.brute_cron import utc
from tests.support.engine import LIMITS, Engine
from tests.support.manual_clock import ManualClock

HOUR = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)


def test_a_run_is_never_early_and_comes_once(clock: ManualClock, engine: Engine) -> None:
    engine.apply(SHORT)
    schedule_id = schedule(engine, cron="30 13 * * *", timezone="Europe/Berlin", name="midday")
    clock.advance(timedelta(minutes=30) - MICROSECOND)
    assert fire(engine).turns == 0

    clock.advance(MICROSECOND)
    assert fire(engine).started == 1
    assert fire(engine).started == 0
    engine.settle()

    assert instants(engine, schedule_id) == [utc(2026, 3, 1, 12, 30)]
    after = row(engine, schedule_id)
    assert after.fired == 1
    assert after.next_at == utc(2026, 3, 2, 12, 30)
    assert after.last_instance_id is not None
    assert engine.status(after.last_instance_id) is InstanceStatus.COMPLETED
    (actor, labels, input), *_ = engine.execute(
        "SELECT history.actor, labels, instances.input FROM history, instances"
        " WHERE history.instance_id = instances.id AND history.sequence = 1"
    )
    assert actor == "schedule:midday"
    assert "midday" in str(labels)
    assert read(input) == {
        "scheduledAt": "2026-03-01T12:30:00.000000Z",
        "firedAt": "2026-03-01T12:30:00.000000Z",
        "scheduleId": schedule_id,
    }


def test_the_input_and_the_business_key_may_read_what_is_known_of_the_run(
    clock: ManualClock, engine: Engine
) -> None:
    engine.apply(SHORT)
    schedule(
        engine,
        every="90m",
        input={"day": "${scheduledAt}", "fixed": [1, {"by": "${scheduleId}"}]},
        business_key="report-${scheduledAt}",
    )
    clock.advance(timedelta(minutes=90, seconds=5))
    fire(engine)
    ((key, input, schedule_id),) = engine.execute("SELECT business_key, input, schedule_id FROM instances")
    assert key == "report-2026-03-01T13:30:00.000000Z"
    assert read(input) == {
        "day": "2026-03-01T13:30:00.000000Z",
        "fixed": [1, {"by": str(schedule_id)}],
    }


def test_a_single_instant_fires_once_and_is_over(clock: ManualClock, engine: Engine) -> None:
    engine.apply(SHORT)
    schedule_id = schedule(engine, at="2026-03-01T14:00:00", timezone="Europe/Berlin")
    clock.advance(10 * HOUR)
    fire(engine)
    clock.advance(timedelta(days=400))
    fire(engine)
    assert instants(engine, schedule_id) == [utc(2026, 3, 1, 13)]
    assert row(engine, schedule_id).next_at is None


def test_eight_orchestrators_fire_one_run_once(
    clock: ManualClock, engine: Engine, database: Database
) -> None:
    engine.apply(SHORT)
    ids = [schedule(engine, every="1h") for _ in range(3)]
    clock.advance(HOUR)
    others = [
        database if database.is_sqlite else Database.open(str(database.engine.url.render_as_string(False)))
        for _ in range(8)
    ]
    barrier = threading.Barrier(8)
    failures: list[BaseException] = []

    def look(one: Database) -> None:
        try:
            barrier.wait(timeout=20)
            fire_due_schedules(one, LIMITS, seconds=5)
        except BaseException as error:  # noqa: BLE001 - told by the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=look, args=(one,)) for one in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for one in others:
        if one is not database:
            one.dispose()

    assert failures == []
    assert runs(engine) == sorted((one, utc(2026, 3, 1, 13)) for one in ids)
    assert [row(engine, one).fired for one in ids] == [1, 1, 1]


@pytest.mark.parametrize("deaths", [1, 3])
def test_who_dies_before_the_commit_leaves_the_run_to_the_next(
    clock: ManualClock, engine: Engine, deaths: int
) -> None:
    engine.apply(SHORT)
    schedule_id = schedule(engine, every="1h")
    clock.advance(HOUR)

    def die() -> None:
        raise faults.FaultInjected

    faults.arm("before_schedule_commit", die)
    for _ in range(deaths):
        with pytest.raises(faults.FaultInjected):
            fire(engine)
    faults.disarm()
    assert runs(engine) == []

    assert fire(engine).started == 1
    assert instants(engine, schedule_id) == [utc(2026, 3, 1, 13)]


def test_one_that_cannot_start_stops_no_other_and_says_why(clock: ManualClock, engine: Engine) -> None:
    engine.apply(SHORT)
    engine.apply(LONG)
    broken = schedule(engine, "short", every="1h", business_key="${scheduledAt[0]}")
    held = schedule(engine, "long", every="1h", business_key="the-one")
    good = schedule(engine, "short", every="1h")
    engine.apply({**LONG, "id": "gone"})
    gone = schedule(engine, "gone", every="1h")
    engine.execute("UPDATE definitions SET status = 'inactive' WHERE \"key\" = 'gone'")

    for _ in range(2):
        clock.advance(HOUR)
        fire(engine)

    assert len(instants(engine, good)) == 2
    assert len(instants(engine, held)) == 1
    assert read(row(engine, held).last_error or "")["code"] == "instance.business_key_held"
    assert read(row(engine, broken).last_error or "")["code"] == "schedule.template"
    told = read(row(engine, gone).last_error or "")
    assert told["code"] == "definition.not_active"
    assert told["scheduledAt"] == "2026-03-01T14:00:00.000000Z"
    assert row(engine, gone).refused == 2
    assert row(engine, gone).next_at == utc(2026, 3, 1, 15)

    engine.execute("UPDATE definitions SET status = 'active' WHERE \"key\" = 'gone'")
    clock.advance(HOUR)
    fire(engine)
    assert row(engine, gone).last_error is None
    assert instants(engine, gone) == [utc(2026, 3, 1, 15)]


@ON_SQLITE
def test_a_zone_that_this_machine_does_not_know_is_said_on_the_row(
    clock: ManualClock, engine: Engine
) -> None:
    engine.apply(SHORT)
    unknown = schedule(engine, every="1h")
    good = schedule(engine, every="1h")
    engine.execute("UPDATE schedules SET timezone = 'Moon/Tycho' WHERE id = :id", id=unknown)
    clock.advance(HOUR)
    fire(engine)
    assert read(row(engine, unknown).last_error or "")["code"] == "schedule.invalid"
    assert row(engine, unknown).next_at is None
    assert len(instants(engine, good)) == 1


@ON_SQLITE
def test_what_nobody_foresaw_lets_one_schedule_rest_and_stops_no_other(
    clock: ManualClock, engine: Engine
) -> None:
    engine.apply(SHORT)
    bad, good = schedule(engine, every="1h"), schedule(engine, every="1h")
    engine.execute("UPDATE schedules SET queued = 'nonsense' WHERE id = :id", id=bad)
    clock.advance(HOUR)
    fire(engine)
    assert len(instants(engine, good)) == 1
    assert read(row(engine, bad).last_error or "")["code"] == "engine.error"
    assert row(engine, bad).next_at == clock.now() + timedelta(minutes=1)

    clock.advance(timedelta(minutes=1))
    fire(engine)
    assert instants(engine, bad) == [utc(2026, 3, 1, 13)], "with nothing that waits, it goes on"


# -- by hand ------------------------------------------------------------------------------------------------------


def test_a_paused_schedule_starts_nothing_and_goes_on_from_then(clock: ManualClock, engine: Engine) -> None:
    engine.apply(SHORT)
    schedule_id = schedule(engine, every="1h")
    say(engine, "pause", schedule_id)
    clock.advance(5 * HOUR)
    assert fire(engine).turns == 0
    with engine.database.reading() as tx:
        assert read_coming(tx).run_at is None, "a paused one wakes nobody"

    say(engine, "resume", schedule_id)
    assert fire(engine).turns == 0
    clock.advance(HOUR)
    fire(engine)
    assert instants(engine, schedule_id) == [utc(2026, 3, 1, 18)]


def test_what_came_during_a_pause_is_caught_up_where_that_is_asked_for(
    clock: ManualClock, engine: Engine
) -> None:
    engine.apply(SHORT)
    schedule_id = schedule(engine, every="1h", catch_up="all", catch_up_limit=3)
    say(engine, "pause", schedule_id)
    clock.advance(5 * HOUR)
    say(engine, "resume", schedule_id, catch_up=True)
    fire(engine)
    assert instants(engine, schedule_id) == [utc(2026, 3, 1, hour) for hour in (15, 16, 17)]


def test_a_replacement_that_ends_a_pause_goes_on_from_then(clock: ManualClock, engine: Engine) -> None:
    engine.apply(SHORT)
    one = schedule(engine, catch_up="all", paused=True)
    clock.advance(timedelta(hours=5, minutes=30))
    hourly = ScheduleRequest("short", ScheduleKind.EVERY, "1h", overlap=Overlap.ALLOW, catch_up=CatchUp.ALL)
    with engine.database.transaction() as tx:
        replace_schedule(tx, engine.tenant_id, one, hourly, actor="test", limits=LIMITS)
    assert fire(engine).started == 0
    clock.advance(timedelta(minutes=30))
    assert fire(engine).started == 1
    assert len(instants(engine, one)) == 1


def test_a_run_by_hand_changes_nothing_of_what_comes(clock: ManualClock, engine: Engine) -> None:
    engine.apply(LONG)
    schedule_id = schedule(engine, "long", every="1h", overlap="skip")
    waits_for = row(engine, schedule_id).next_at
    first = say(engine, "fire", schedule_id)
    second = say(engine, "fire", schedule_id)
    assert first != second
    after = row(engine, schedule_id)
    assert (after.next_at, after.fired, after.last_instance_id) == (waits_for, 2, second)

    clock.advance(HOUR)
    fire(engine)
    assert row(engine, schedule_id).skipped == 1, "those by hand live as any others"


def test_a_deleted_schedule_is_gone_and_what_it_started_goes_on(clock: ManualClock, engine: Engine) -> None:
    engine.apply(LONG)
    schedule_id = schedule(engine, "long", every="1h")
    clock.advance(HOUR)
    fire(engine)
    say(engine, "delete", schedule_id)
    clock.advance(HOUR)
    fire(engine)
    engine.settle()
    assert len(runs(engine)) == 1
    assert to_due(engine, clock) is None


# -- jitter -------------------------------------------------------------------------------------------------------


def test_jitter_puts_runs_off_and_never_brings_them_forward(clock: ManualClock, engine: Engine) -> None:
    engine.apply(SHORT)
    ids = [schedule(engine, cron="0 13 * * *", jitter="20m") for _ in range(8)]
    due = {one: row(engine, one).next_at for one in ids}
    assert len(set(due.values())) > 4
    clock.advance(HOUR)
    fire(engine)
    while (now := to_due(engine, clock)) is not None and now < utc(2026, 3, 1, 14):
        for one in ids:
            assert (row(engine, one).fired > 0) == (due[one] < now)
        fire(engine)
    assert runs(engine) == sorted((one, utc(2026, 3, 1, 13)) for one in ids)
