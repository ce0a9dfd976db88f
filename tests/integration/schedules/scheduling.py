"""What the tests of schedules share: a workflow that stays, one that ends, and short words for what they ask."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from common.clock import parse_instant
from common.commands import schedules as commands
from common.commands.schedules import ScheduleRequest
from common.schedule import CatchUp, Overlap, ScheduleKind
from common.store import schedules as store
from common.store.coming import read_coming
from common.store.schedules import Schedule
from orchestrator.schedules import Fired, fire_due_schedules
from tests.support.engine import LIMITS, Engine
from tests.support.manual_clock import ManualClock

SHORT = {"id": "short", "initial": "over", "states": {"over": {"type": "final"}}}
LONG = {
    "id": "long",
    "initial": "busy",
    "states": {"busy": {"on": {"STOP": "over"}}, "over": {"type": "final"}},
}


def schedule(engine: Engine, definition_key: str = "short", **members: Any) -> str:
    """Create a schedule, hourly unless told otherwise; its id."""
    kind, expression = "every", "1h"
    for name in ("cron", "every", "at"):
        if name in members:
            kind, expression = name, members.pop(name)
    members = {
        **members,
        "overlap": Overlap(members.get("overlap", "allow")),
        "catch_up": CatchUp(members.get("catch_up", "last")),
    }
    request = ScheduleRequest(definition_key, ScheduleKind(kind), expression, **members)
    with engine.database.transaction() as tx:
        return commands.create_schedule(tx, engine.tenant_id, request, actor="test", limits=LIMITS).id


def say(engine: Engine, verb: str, schedule_id: str, **more: Any) -> Any:
    """Pause, resume, fire or delete a schedule."""
    with engine.database.transaction() as tx:
        command = getattr(commands, f"{verb}_schedule")
        if verb == "fire":
            more["limits"] = LIMITS
        if verb != "delete":
            more["actor"] = "test"
        return command(tx, engine.tenant_id, schedule_id, **more)


def row(engine: Engine, schedule_id: str) -> Schedule:
    with engine.database.reading() as tx:
        found = store.read(tx, engine.tenant_id, schedule_id)
    assert found is not None
    return found


def fire(engine: Engine) -> Fired:
    return fire_due_schedules(engine.database, LIMITS, seconds=30)


def runs(engine: Engine, schedule_id: str | None = None) -> list[tuple[str, datetime]]:
    """(schedule, instant) of every instance that a schedule has started, by instant."""
    found = engine.execute("SELECT schedule_id, scheduled_at FROM instances WHERE schedule_id IS NOT NULL")
    pairs = [(str(one), _instant(at)) for one, at in found if at is not None]
    return sorted(
        (pair for pair in pairs if schedule_id in (None, pair[0])), key=lambda pair: (pair[1], pair[0])
    )


def instants(engine: Engine, schedule_id: str) -> list[datetime]:
    return [at for _, at in runs(engine, schedule_id)]


def _instant(value: Any) -> datetime:
    return value if isinstance(value, datetime) else parse_instant(f"{value}Z")


def to_due(engine: Engine, clock: ManualClock) -> datetime | None:
    """Move the clock to the next due run; None where there is none."""
    with engine.database.reading() as tx:
        run_at = read_coming(tx).run_at
    if run_at is None:
        return None
    return clock.advance(max(run_at - clock.now(), timedelta(0)))
