"""Firing schedules: a due row moves to its next instant and the instance starts, in one transaction.

Theory of operation. Any number of orchestrators look; there is no leader. Due rows are locked, and what another process holds is
skipped: it fires them. The row says which instant it waits for, so what is to be started follows from the row and the
clock alone, and a process that dies leaves the row as it was. The move names the instant that was waited for, and the
instance's row names schedule and instant, uniquely: an instant starts one instance, whatever happens.

Each schedule is fired in a savepoint of its own. One that cannot start (no active version, its business key held, a
template without a value) says so on its row and goes on with the next instant; it stops nobody else.

`queue` and `cancel` set a run aside while an instance of the schedule lives. Nothing rings when that one has ended: the look
finds the row, half a second later at most.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from common import faults
from common.canonical import dumps, read, storable
from common.clock import instant_text, parse_instant
from common.commands.control import cancel_instance
from common.commands.schedules import actor_of, start_run, timing_of, waiting_for
from common.config import Limits
from common.db import Database, is_trouble
from common.db.now import read_now
from common.errors import Conflict, SignalboxError
from common.ids import InstanceId
from common.schedule import Overlap, Run, ScheduleInvalid, Turn, take_turn
from common.store import schedules
from common.store.schedules import Schedule
from orchestrator.batch import LostRace

log = structlog.get_logger("signalbox.orchestrator")

FIRE_SECONDS = 0.25
AT_ONCE = 20
"""Runs of one schedule in one transaction: catching up a hundred must not keep others waiting."""
MAX_QUEUED = 10
"""Runs of one schedule that wait for the one before; what comes beyond is skipped."""
REST_AFTER_ERROR = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Fired:
    """How many schedules had their turn, and how many instances started; `more`: the time was over first."""

    turns: int = 0
    started: int = 0
    more: bool = False


def fire_due_schedules(database: Database, limits: Limits, *, seconds: float = FIRE_SECONDS) -> Fired:
    """Fire what is due, the oldest first, 50 schedules a transaction, for about `seconds`."""
    until = time.monotonic() + seconds
    turns = started = 0
    while True:
        done = database.run(lambda tx: _fire_batch(tx, limits))
        turns, started = turns + done.turns, started + done.started
        if not done.more:
            return Fired(turns, started)
        if time.monotonic() > until:
            return Fired(turns, started, more=True)


def _fire_batch(tx: Connection, limits: Limits) -> Fired:
    now = read_now(tx)
    due = schedules.lock_due(tx, now=now)
    taken = {schedule.id for schedule in due}
    # Both queries may name a schedule: after its turn, the row that the second one read is no longer true.
    freed = [schedule for schedule in schedules.lock_freed(tx) if schedule.id not in taken]
    started = 0
    for schedule in due:
        started += _alone(tx, _Firing(tx, schedule, now, limits), is_due=True)
    for schedule in freed:
        started += _alone(tx, _Firing(tx, schedule, now, limits), is_due=False)
    if due or freed:
        faults.hit("before_schedule_commit")
    return Fired(len(due) + len(freed), started, more=bool(due or freed))


def _alone(tx: Connection, firing: _Firing, *, is_due: bool) -> int:
    """Fire one schedule; what goes wrong with it is its own, and is said on its row. Returns how many instances started."""
    try:
        with tx.begin_nested():
            return firing.take_turn() if is_due else firing.take_queued()
    except LostRace:
        raise
    except Exception as error:
        if is_trouble(error):
            raise
        log.exception("schedule.raised", schedule_id=firing.schedule.id, tenant_id=firing.schedule.tenant_id)
        firing.give_up(error)
        return 0


@dataclass
class _Firing:
    """One schedule in its turn, and what is to be written of it."""

    tx: Connection
    schedule: Schedule
    now: datetime
    limits: Limits
    started: int = 0
    skipped: int = 0
    refused: int = 0
    changes: dict[str, Any] = field(default_factory=dict)
    queued: list[str] = field(default_factory=list)

    def take_turn(self) -> int:
        """Start what is due now, and wait for what comes next."""
        schedule = self.schedule
        self.queued = list(read(schedule.queued))
        try:
            turn = self._turn()
        except ScheduleInvalid as invalid:
            self._say(invalid.message, "schedule.invalid", None)
            return self._save(None)
        if turn.has_missed:
            log.warning(
                "schedule.missed",
                schedule_id=schedule.id,
                tenant_id=schedule.tenant_id,
                since=instant_text(schedule.scheduled_at or self.now),
                started=len(turn.runs),
            )
        for instant in turn.runs:
            self._run(instant)
        return self._save(turn.next)

    def _turn(self) -> Turn:
        schedule = self.schedule
        if schedule.scheduled_at is None or schedule.next_at is None:
            raise AssertionError("unreachable: a due schedule waits for an instant")
        return take_turn(
            timing_of(schedule),
            Run(schedule.scheduled_at, schedule.next_at),
            self.now,
            catch_up=schedule.catch_up,
            catch_up_limit=schedule.catch_up_limit,
            at_once=AT_ONCE,
        )

    def take_queued(self) -> int:
        """Start the oldest run that waited for the one before, which has ended."""
        # Asked again under the lock: the query that chose this row may be older than a start by who held it before.
        if schedules.find_living(self.tx, self.schedule.id):
            return 0
        instant, *self.queued = read(self.schedule.queued)
        self._start(parse_instant(instant))
        waits_for = self.schedule
        following = (
            None
            if waits_for.scheduled_at is None or waits_for.next_at is None
            else Run(waits_for.scheduled_at, waits_for.next_at)
        )
        return self._save(following)

    def _run(self, instant: datetime) -> None:
        overlap = self.schedule.overlap
        if overlap is Overlap.ALLOW:
            self._start(instant)
            return
        living = schedules.find_living(self.tx, self.schedule.id)
        if not living and not self.queued:
            self._start(instant)
        elif overlap is Overlap.QUEUE and len(self.queued) < MAX_QUEUED:
            self.queued.append(instant_text(instant))
        elif overlap is Overlap.CANCEL:
            if not self.queued:  # else it has been said already
                self._cancel(living)
            self.skipped += len(self.queued)
            self.queued = [instant_text(instant)]
        else:
            self.skipped += 1

    def _cancel(self, living: list[InstanceId]) -> None:
        for instance_id in living:
            try:
                cancel_instance(
                    self.tx,
                    self.schedule.tenant_id,
                    instance_id,
                    reason="its schedule starts another one",
                    actor=actor_of(self.schedule),
                )
            except Conflict:
                continue  # it has ended since we looked

    def _start(self, instant: datetime) -> None:
        schedule = self.schedule
        self.changes |= {"last_scheduled_at": instant, "last_fired_at": self.now}
        try:
            with self.tx.begin_nested():
                instance_id = start_run(
                    self.tx,
                    schedule,
                    instant,
                    now=self.now,
                    actor=actor_of(schedule),
                    limits=self.limits,
                )
        except SignalboxError as error:
            self.refused += 1
            self._say(error.message, error.code, instant)
        except DBAPIError as error:
            if is_trouble(error):
                raise
            self.refused += 1
            self._say(f"the database refused it: {str(error.orig)[:500]}", "engine.rejected", instant)
        else:
            self.started += 1
            self.changes |= {"last_instance_id": instance_id, "last_error": None}

    def _say(self, message: str, code: str, instant: datetime | None) -> None:
        schedule = self.schedule
        log.warning(
            "schedule.refused",
            schedule_id=schedule.id,
            tenant_id=schedule.tenant_id,
            code=code,
            error=message,
        )
        self.changes["last_error"] = dumps(
            {
                "at": instant_text(self.now),
                "code": code,
                "message": storable(message)[:2_000],
                "scheduledAt": None if instant is None else instant_text(instant),
            }
        )

    def _save(self, following: Run | None) -> int:
        schedule = self.schedule
        is_ours = schedules.move(
            self.tx,
            schedule,
            **waiting_for(following),
            queued=dumps(self.queued),
            fired=schedule.fired + self.started,
            skipped=schedule.skipped + self.skipped,
            refused=schedule.refused + self.refused,
            **self.changes,
        )
        if not is_ours:
            raise LostRace("a schedule changed while it was locked")
        return self.started

    def give_up(self, error: Exception) -> None:
        """After what nobody foresaw: say so, and let it rest, so that it does not come again at once."""
        self.started = self.skipped = 0
        self.refused, self.changes, self.queued = 1, {}, []
        self._say(f"{type(error).__name__}: {error}", "engine.error", self.schedule.scheduled_at)
        waits_for = self.schedule.scheduled_at
        self._save(None if waits_for is None else Run(waits_for, self.now + REST_AFTER_ERROR))
