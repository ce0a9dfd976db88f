"""The orchestrator as a Celery worker: `celery -A orchestrator.worker worker -Q workflow-orchestrator`.

Celery carries doorbells; the dispatcher does the work, and does it without them too.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

import structlog
from celery import signals

from common.config import Settings
from common.db import ORCHESTRATOR_QUEUE
from common.observability import configure_logging
from common.queues import bootstep
from common.queues.alive import SignOfLife
from common.queues.app import ADVANCE, make_app
from common.queues.dispatcher import Dispatcher
from common.retention import Keeping
from common.store import breakers, timers
from common.store.coming import read_coming
from orchestrator.map_children import start_items
from orchestrator.nursery import Steppers
from orchestrator.places import PlaceLook
from orchestrator.retention import Sweeper
from orchestrator.schedules import Fired, fire_due_schedules
from orchestrator.stepper import Stepper, step_beside
from orchestrator.sweep import (
    expire_due_leases,
    forget,
    time_out_due_tasks,
    wake_waiting_for_breakers,
)
from orchestrator.timers import fire_due_timers
from orchestrator.triggers import start_published

log = structlog.get_logger("signalbox.orchestrator")
FORGET_SECONDS = 600.0
LOOK_GAP_SECONDS = 0.025
"""How much later a timer may fire so that timers that fall due one after the other do not cost a look at everything each."""
STEPPERS_END = 10.0
"""Seconds in which steppers drain: as long as a round of their dispatcher may take."""


class Orchestrator(Stepper):
    """This process's duty: advance instances, fire timers and schedules, expire leases, delete what was kept long enough.

    `steppers` step beside it when there is more than it can.
    """

    def __init__(self, settings: Settings, steppers: Steppers | None = None) -> None:
        self._steppers = steppers
        super().__init__(settings)
        self.sweeper = Sweeper(
            self.database, Keeping.of(settings), look_seconds=settings.retention_look_seconds
        )
        self._places = PlaceLook()
        self._forgot_at = time.monotonic()

    def make_dispatcher(self) -> Dispatcher:
        return Dispatcher(
            "orchestrator",
            work=self.work,
            due=self.look_at_the_clock,
            look_seconds=self.settings.look_seconds,
            on_round=SignOfLife(self.settings.alive_folder, "orchestrator").give,
        )

    def call_others(self) -> None:
        if self._steppers is not None:
            self._steppers.call()

    def start(self) -> None:
        super().start()
        self.sweeper.start()
        self.call_others()  # they begin with the first call
        log.info("worker.ready", worker_id=self.presence.id, settings=self.settings.redacted())

    def listen(self) -> None:
        # Who hears a call answers it: to wake another thread takes longer than a step waits for anything else.
        self.calls.listen({ORCHESTRATOR_QUEUE: lambda _hints: self.answer()})
        super().listen()

    def answer(self) -> dict[str, Any]:
        """Answer a doorbell or a call; a stepper does where this process is at work already."""
        done = self.dispatcher.answer()
        if "coalesced" in done:
            self.call_others()
        return done

    def begin_drain(self) -> None:
        super().begin_drain()
        self.sweeper.begin_end()
        if self._steppers is not None:
            self._steppers.begin_end()

    def drain(self) -> None:
        self.sweeper.end(wait=2)
        super().drain()
        if self._steppers is not None and not self._steppers.end(wait=STEPPERS_END):
            log.warning("steppers.killed", waited_seconds=STEPPERS_END)
        log.info("worker.ended", worker_id=self.presence.id)

    def look_at_the_clock(self) -> float | None:
        """Fire and expire what is due, then tell how long until the next instant."""
        with self.database.looking() as tx:
            coming = read_coming(tx)
            now, timer = coming.now, coming.timer_at
            retry = breakers.next_look_at(tx, now=now) if coming.has_breakers else None
        lease, overdue, item = coming.lease_at, coming.overdue_at, coming.item_at
        fired = fire_due_timers(self.database) if timer is not None and timer <= now else 0
        if fired:
            self.dispatcher.ring()
            with self.database.looking() as tx:
                timer = read_coming(tx).timer_at  # the one that was asked for has fired
        if lease is not None and lease < now and expire_due_leases(self.database):
            self.dispatcher.ring()
        if overdue is not None and overdue <= now and time_out_due_tasks(self.database):
            self.dispatcher.ring()
        if item is not None and item <= now and start_items(self.database, self.advancing.limits):
            self.dispatcher.ring()
        if retry is not None and retry <= now:
            wake_waiting_for_breakers(self.database)
        started = fire_due_schedules(self.database, self.limits) if coming.is_schedule_due else Fired()
        if started.turns:
            self.dispatcher.ring()
        if coming.has_published and start_published(
            self.database, self.limits
        ):  # by who died before it could
            self.dispatcher.ring()
        # What who died before it could give.
        if coming.are_places_wanted and self._places.look(self.database):
            self.dispatcher.ring()
        if time.monotonic() - self._forgot_at > FORGET_SECONDS:
            self._forgot_at = time.monotonic()
            forget(self.database)
        if started.more or (fired and fired % timers.BATCH == 0):
            return 0.0  # more are due: look again right after the next round of steps
        instants = (timer, lease, overdue, item, coming.run_at, retry)
        ahead = [instant for instant in instants if instant is not None and instant > now]
        return max((min(ahead) - now).total_seconds(), LOOK_GAP_SECONDS) if ahead else None


settings = Settings.load()
app = make_app(settings.redis_url, name="orchestrator", queue=ORCHESTRATOR_QUEUE)
_duty: list[Orchestrator] = []


def _make_duty() -> Orchestrator:
    _duty[:] = [Orchestrator(settings, _fork_steppers())]
    return _duty[0]


def _fork_steppers() -> Steppers | None:
    """Those that the settings ask for: SQLite has one writer at a time, and who is to die at a point of the code dies alone."""
    count = settings.orchestrator_processes - 1
    is_able = sys.platform == "linux" and not settings.database_url.startswith("sqlite")
    if not count or not is_able or settings.faults:
        return None
    return Steppers.fork(count, _step_beside)


def _step_beside(calls: socket.socket) -> None:
    _configure_logging()
    step_beside(settings, calls)


bootstep.install(app, _make_duty)


@signals.setup_logging.connect
def _configure_logging(**_: Any) -> None:
    configure_logging("orchestrator", log_format=settings.log_format, level=settings.log_level)


@app.task(name=ADVANCE)
def advance(ids: Sequence[str] = (), count: int = 0) -> dict[str, Any]:  # noqa: ARG001 - hints, for Flower
    """Answer a doorbell: step every instance that is ready. Safe to run twice, safe to miss."""
    return _duty[0].answer() if _duty else {"unready": True}
