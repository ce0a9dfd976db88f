"""What every process has that steps instances: its connections, its dispatcher, and whom it hears and tells.

An orchestrator (`worker.py`) is one that looks after the clock as well, after schedules, leases and retention. The others stand beside one
(`nursery.py`): they step what is ready when it calls, and fire the timers that they have armed themselves.
"""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

import structlog
from sqlalchemy.exc import SQLAlchemyError

from common import faults
from common.commands.presence import Presence, arrive, leave, stay
from common.config import Limits, Settings
from common.courtesy import Courtesy
from common.db import LONGEST_TRANSACTION, Database
from common.db.schema import require_schema
from common.ids import WorkerId
from common.queues import doorbell
from common.queues.answers import Envelope
from common.queues.bootstep import collect_rarely
from common.queues.calls import Listener
from common.queues.changes import Changes
from common.queues.dispatcher import Dispatcher, Drained
from common.queues.light_line import LightLine
from common.queues.offers import OFFERS, Offers
from common.store import workers
from common.version import signalbox_version
from orchestrator.advance import advance_ready
from orchestrator.advancing import Advancing
from orchestrator.answers import Answers, store
from orchestrator.laps import Sweep
from orchestrator.light_calls import LightCalls
from orchestrator.map_children import start_items
from orchestrator.nursery import wait_for_calls
from orchestrator.places import give
from orchestrator.timers import fire_due_timers
from orchestrator.triggers import start_published

HEARING_SECONDS = 0.02
"""How long who hears answers may step by itself; what is left then is the resident thread's."""
NEVER = 3_600.0
"""Seconds: nobody else's timers are a stepper's to fire."""
log = structlog.get_logger("signalbox.orchestrator")


class Stepper:
    """Steps what is ready when it is called."""

    def __init__(self, settings: Settings) -> None:
        faults.arm_from_environment(settings.faults)
        self.settings = settings
        self.database = Database.open(
            settings.database_url,
            name="signalbox-orchestrator",
            longest_transaction=LONGEST_TRANSACTION,
        )
        require_schema(self.database)
        self.bells = doorbell.attach(self.database, settings)
        self.offers = Offers(self._is_runner)
        if self.bells is not None:
            self.bells.on_unheard = self.offers.forget
        self.presence = Presence.of("orchestrator")
        envelope = Envelope.of(settings)
        self.answers = Answers(envelope, self.presence.id)
        self.light = LightCalls(self.offers, LightLine.open(settings, envelope, self.presence.id))
        if self.bells is not None:
            self.bells.answered_at = self.answers.address
        self.calls = Listener.open(settings.redis_url)
        self.changes = Changes.open(settings.redis_url)
        limits = self.limits = Limits()
        self.advancing = Advancing(
            self.database,
            limits.max_context_bytes,
            limits=limits,
            publish=self.changes.publish,
            offers=self.offers,
            answers=self.answers,
            light=self.light,
            last_death=lambda: self.last_death,
            on_due=lambda seconds: self.dispatcher.due_in(seconds),  # noqa: PLW0108 - made below
            on_many=self.call_others,
        )
        self.last_death: datetime | None = None
        self.dispatcher = self.make_dispatcher()
        self._sweep = Sweep(courtesy=Courtesy())
        self._ending = threading.Event()
        self._beat = threading.Thread(target=self._stay, name="presence", daemon=True)

    def make_dispatcher(self) -> Dispatcher:
        """Whom calls, rings and looks wake."""
        return Dispatcher(
            "stepper", work=self.work, due=self._fire_own_timers, look_seconds=0, due_check=NEVER
        )

    def call_others(self) -> None:
        """There is more to step than this process can."""

    def start(self) -> None:
        """Say that it is here, and begin to hear."""
        self.database.run(lambda tx: arrive(tx, self.presence, version=signalbox_version()))
        self.last_death = self.database.run(lambda tx: stay(tx, self.presence))
        self.dispatcher.start()
        if self.settings.doorbells:
            self.listen()
        self._beat.start()

    def listen(self) -> None:
        """Hear what is said to it. Offers and answers have threads of their own: who hears answers steps them."""
        if self.answers.address is not None:
            self.calls.listen({self.answers.address: self._hear_answers})
        self.calls.listen({OFFERS: self.offers.hear})

    def begin_drain(self) -> None:
        """Take no new work."""
        self._ending.set()
        self.dispatcher.begin_end()

    def drain(self) -> None:
        """Finish what runs, store what was heard, and say good-bye."""
        self.dispatcher.end(wait=10)
        try:
            store(self.database, self.answers.take())  # which no step will take any more
            self.database.run(lambda tx: leave(tx, self.presence))
        except SQLAlchemyError as error:
            log.warning("worker.goodbye_unsaid", error=type(error).__name__)
        self.calls.close()
        self.light.close()
        if self.bells is not None:
            self.bells.close()
        self.changes.close()

    def work(self, until: float) -> Drained:
        """Step what is ready, and what follows from it at once, until the monotonic instant `until`."""
        done = advance_ready(self.advancing, until=until, sweep=self._sweep)
        counts = Counter(steps=done.steps, instances=done.instances, tasks=done.tasks)
        if done.rest:
            self.dispatcher.ring_in(done.rest)
        caused = start_items(self.database, self.advancing.limits) if done.starts_items else 0
        if self.advancing.emitted.is_set():
            self.advancing.emitted.clear()
            caused += start_published(self.database, self.limits)
        vacancies = self.advancing.vacancies.take()
        goes_on = bool(vacancies) and give(self.database, vacancies)
        return Drained(counts, more=done.more or caused > 0 or goes_on)

    def _hear_answers(self, hints: Sequence[bytes]) -> None:
        self.answers.hear(hints)
        # Their runners wait for a receipt: who hears them must not go through a flood meanwhile.
        self.dispatcher.answer(budget=HEARING_SECONDS)

    def _fire_own_timers(self) -> None:
        if fire_due_timers(self.database):
            self.dispatcher.ring()

    def _is_runner(self, worker: WorkerId) -> bool:
        try:
            with self.database.each_alone() as tx:
                return workers.is_here(tx, worker, "task-runner")
        except SQLAlchemyError as error:  # its next offer asks again
            log.warning("offer.unchecked", error=type(error).__name__)
            return False

    def _stay(self) -> None:
        while not self._ending.wait(self.settings.beat_seconds):
            try:
                self.last_death = self.database.run(lambda tx: stay(tx, self.presence))
            except Exception as error:  # noqa: BLE001 - an outer loop: should it end, we would be taken for dead
                log.warning("presence.unsaid", error=f"{type(error).__name__}: {error}"[:300])


def step_beside(settings: Settings, calls: socket.socket) -> None:
    """Be a stepper until its orchestrator drains."""
    stepper = Stepper(settings)
    collect_rarely()
    stepper.start()
    log.info("stepper.ready", worker_id=stepper.presence.id)
    wait_for_calls(calls, stepper.dispatcher.answer)
    stepper.begin_drain()
    stepper.drain()
    log.info("stepper.ended", worker_id=stepper.presence.id)
