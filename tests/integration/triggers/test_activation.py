"""Triggers and schedules that are written in a definition follow its active version."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from common.commands import definitions as commands
from common.commands.definitions import apply_definition
from common.commands.schedules import ScheduleRequest, pause_schedule, replace_schedule
from common.commands.triggers import delete_trigger
from common.errors import Conflict, Invalid
from common.schedule import ScheduleKind
from common.store import schedules, triggers
from common.store.schedules import Schedule, ScheduleFilter
from common.store.triggers import Trigger, TriggerFilter
from tests.integration.engine.documents import ON_SQLITE
from tests.support.brute_cron import utc
from tests.support.engine import LIMITS, Engine
from tests.support.manual_clock import ManualClock


def document(*written: Any, **more: Any) -> dict[str, Any]:
    over = {"id": "report", "initial": "over", "states": {"over": {"type": "final"}}}
    return {**over, "triggers": list(written), **more}


def apply(engine: Engine, *written: Any, activate: bool = True, **more: Any) -> int:
    with engine.database.transaction() as tx:
        return apply_definition(
            tx, engine.tenant_id, document(*written, **more), activate=activate, actor="ada", limits=LIMITS
        ).version


def move(engine: Engine, verb: str, version: int) -> None:
    with engine.database.transaction() as tx:
        command = getattr(commands, f"{verb}_definition")
        command(tx, engine.tenant_id, "report", version, actor="bob", limits=LIMITS)


def rows(engine: Engine) -> dict[str | None, Schedule]:
    with engine.database.reading() as tx:
        page = schedules.list_schedules(tx, engine.tenant_id, ScheduleFilter(), before=None, limit=100)
    return {one.name: one for one in page.items}


def by_event(engine: Engine) -> dict[str | None, Trigger]:
    with engine.database.reading() as tx:
        page = triggers.list_triggers(tx, engine.tenant_id, TriggerFilter(), before=None, limit=100)
    return {one.name: one for one in page.items}


HOURLY = {"name": "hourly", "schedule": {"every": "1h"}}
NIGHTLY = {"schedule": {"cron": "0 2 * * *", "timezone": "Europe/Berlin", "overlap": "queue", "jitter": "1m"}}


def test_schedules_follow_the_active_version(clock: ManualClock, engine: Engine) -> None:
    first = apply(engine, HOURLY, {**NIGHTLY, "input": {"for": "${scheduledAt}"}, "businessKey": "b"})
    made = rows(engine)
    assert set(made) == {"hourly", "2"}
    assert (made["2"].timezone, made["2"].overlap, made["2"].jitter_ms) == ("Europe/Berlin", "queue", 60_000)
    assert made["2"].business_key == "b"
    assert made["hourly"].created_by == "ada"
    clock.advance(timedelta(minutes=90))
    engine.settle()
    assert rows(engine)["hourly"].fired == 1

    apply(engine, HOURLY, {"name": "often", "schedule": {"every": 60_000}})
    now = rows(engine)
    assert set(now) == {"hourly", "often"}
    assert now["hourly"].id == made["hourly"].id
    assert now["hourly"].fired == 1
    assert now["hourly"].next_at == utc(2026, 3, 1, 14), "an interval that did not change goes on"
    assert now["often"].next_at == utc(2026, 3, 1, 13, 31)

    move(engine, "deactivate", 2)
    clock.advance(timedelta(hours=3))
    engine.settle()
    stopped = rows(engine)["hourly"]
    assert (stopped.active, stopped.next_at, stopped.fired) == (False, None, 1)

    move(engine, "activate", first)
    again = rows(engine)
    assert set(again) == {"hourly", "2"}
    assert again["hourly"].next_at == utc(2026, 3, 1, 17)
    assert again["hourly"].updated_by == "bob"


@ON_SQLITE
def test_a_version_that_is_not_activated_changes_nothing(clock: ManualClock, engine: Engine) -> None:
    apply(engine, HOURLY)
    version = apply(engine, activate=False)
    assert set(rows(engine)) == {"hourly"}
    move(engine, "archive", version)
    assert rows(engine)["hourly"].active
    apply(engine)
    assert rows(engine) == {}


@ON_SQLITE
def test_who_was_paused_by_a_person_stays_paused(clock: ManualClock, engine: Engine) -> None:
    apply(engine, HOURLY)
    with engine.database.transaction() as tx:
        pause_schedule(tx, engine.tenant_id, rows(engine)["hourly"].id, actor="eve")
    apply(engine, {**HOURLY, "schedule": {"every": "2h"}})
    changed = rows(engine)["hourly"]
    assert (changed.paused, changed.expression) == (True, "2h")


@ON_SQLITE
def test_what_is_written_in_a_definition_is_changed_there(clock: ManualClock, engine: Engine) -> None:
    apply(engine, HOURLY, {"name": "paid", "event": "PAID"})
    with engine.database.transaction() as tx:
        request = ScheduleRequest("report", ScheduleKind.EVERY, "2h")
        with pytest.raises(Conflict) as refused:
            replace_schedule(
                tx, engine.tenant_id, rows(engine)["hourly"].id, request, actor="eve", limits=LIMITS
            )
        assert refused.value.code == "schedule.of_definition"
        with pytest.raises(Conflict) as refused:
            delete_trigger(tx, engine.tenant_id, by_event(engine)["paid"].id)
        assert refused.value.code == "trigger.of_definition"


def test_triggers_follow_the_active_version(engine: Engine) -> None:
    first = apply(engine, {"event": "PAID", "condition": "event.sum > 3"}, "SHIPPED")
    made = by_event(engine)
    assert {name: (one.event, one.condition, one.active) for name, one in made.items()} == {
        "1": ("PAID", '"event.sum > 3"', True),
        "2": ("SHIPPED", None, True),
    }
    apply(engine, {"event": "CLOSED"})
    assert {name: one.event for name, one in by_event(engine).items()} == {"1": "CLOSED"}
    assert by_event(engine)["1"].id == made["1"].id
    move(engine, "archive", 2)
    assert not by_event(engine)["1"].active
    move(engine, "activate", first)
    assert {name: (one.event, one.active) for name, one in by_event(engine).items()} == {
        "1": ("PAID", True),
        "2": ("SHIPPED", True),
    }


@ON_SQLITE
@pytest.mark.parametrize(
    ("written", "path"),
    [
        ({"schedule": {"cron": "61 * * * *"}}, "triggers[0].schedule.cron"),
        ({"schedule": {"cron": "* * * * *", "timezone": "Mars/Olympus"}}, "triggers[0].schedule.timezone"),
        ({"schedule": {"every": "0s"}}, "triggers[0].schedule.every"),
        ({"schedule": {"every": "1h", "cron": "@daily"}}, "triggers[0].schedule"),
        ({"schedule": {}}, "triggers[0].schedule"),
        ({"schedule": {"every": "1h", "jitter": "3d"}}, "triggers[0].schedule.jitter"),
        ({"schedule": {"every": "1h", "overlap": "maybe"}}, "triggers[0].schedule.overlap"),
        ({"schedule": {"every": "1h", "catchUpLimit": 1_000}}, "triggers[0].schedule.catchUpLimit"),
        ({"schedule": {"every": "1h"}, "event": "A"}, "triggers[0]"),
        ({"schedule": {"every": "1h"}, "condition": "true"}, "triggers[0].condition"),
        ({"schedule": {"every": "1h"}, "input": {"x": "${event.x}"}}, "triggers[0].input"),
        ({"schedule": {"every": "1h"}, "name": " "}, "triggers[0].name"),
        ({"event": "A", "input": "${context.x}"}, "triggers[0].input"),
        ({"event": "A", "condition": "config.orders.limit > 3"}, "triggers[0].condition"),
        ({"event": "A", "condition": {"type": "not", "guard": "context.x"}}, "triggers[0].condition"),
        ({"event": "A", "businessKey": "${secret.KEY}"}, "triggers[0].businessKey"),
        ({"event": "a*b"}, "triggers[0].event"),
        ({}, "triggers[0]"),
    ],
)
def test_what_is_wrong_is_refused_at_the_door_with_its_place(
    engine: Engine, written: dict[str, Any], path: str
) -> None:
    with pytest.raises(Invalid) as refused:
        apply(engine, written)
    assert path in [problem["path"] for problem in refused.value.problems], refused.value.problems
    assert rows(engine) == {}


@ON_SQLITE
def test_named_guards_may_be_conditions(engine: Engine) -> None:
    guards = {"large": "event.sum > 100", "inside": {"type": "stateIn", "state": "over"}}
    apply(engine, {"event": "PAID", "condition": "large"}, guards=guards)
    assert by_event(engine)["1"].condition == '"large"'
    with pytest.raises(Invalid):
        apply(engine, {"event": "PAID", "condition": {"type": "not", "guard": "inside"}}, guards=guards)


@pytest.fixture
def clock(database: Any) -> Iterator[ManualClock]:
    clock = ManualClock(database, datetime(2026, 3, 1, 12, tzinfo=UTC))
    yield clock
    clock.release()
