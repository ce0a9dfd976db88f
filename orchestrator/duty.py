"""What the process of an orchestrator does all day. `orchestrator.worker` makes a Celery worker of it.

Reading it in reads no settings: `signalbox up` has it loaded before it knows them, see `signalbox.fork_server`.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from common import faults
from common.commands.presence import Presence, arrive, leave, stay
from common.config import Limits, Settings
from common.courtesy import Courtesy
from common.db import LONGEST_TRANSACTION, ORCHESTRATOR_QUEUE, RESERVE_QUEUE, Database, reason
from common.db.schema import require_schema
from common.ids import WorkerId
from common.queues import doorbell
from common.queues.alive import SignOfLife
from common.queues.answers import Envelope
from common.queues.calls import Listener
from common.queues.changes import Changes
from common.queues.dispatcher import DUE_CHECK, TOGETHER, Dispatcher, Drained, Looks
from common.queues.handed import TaskSealer
from common.queues.light_line import LightLine
from common.queues.offers import OFFERS, Offers
from common.retention import Keeping
from common.store import breakers, timers, workers
from common.store.coming import read_coming
from common.version import signalbox_version
from orchestrator.advance import advance_ready, save_all
from orchestrator.advancing import Advancing
from orchestrator.answers import Answers, store
from orchestrator.laps import Sweep
from orchestrator.light_calls import LightCalls
from orchestrator.map_children import start_items
from orchestrator.passed import Pass
from orchestrator.places import PlaceLook, give
from orchestrator.reserve import LOOKS, Crowd, Relief
from orchestrator.retention import Sweeper
from orchestrator.schedules import Fired, fire_due_schedules
from orchestrator.sweep import (
    expire_due_leases,
    forget,
    forget_answers,
    time_out_due_tasks,
    wake_waiting_for_breakers,
)
from orchestrator.timers import fire_due_timers
from orchestrator.triggers import start_published

log = structlog.get_logger("signalbox.orchestrator")
FORGET_SECONDS = 600.0
FORGET_MORE_SECONDS = 0.5
"""Between two portions of answers that are to be forgotten: more than callers make of them meanwhile."""
HEARING_SECONDS = 0.02
"""How long who hears answers may step by itself; what is left then is the resident thread's."""
DRAIN_SECONDS = 10.0
"""For so long a process that ends waits for what it steps and saves."""
LOOK_GAP_SECONDS = 0.025
"""How much later a timer may fire so that timers that fall due one after the other do not cost a look at everything each."""


class Orchestrator:
    """This process's duty: advance instances, fire timers and schedules, expire leases."""

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
            self.bells.sealer = None if envelope is None else TaskSealer(envelope)
        self.calls = Listener.open(settings.redis_url)
        self.changes = Changes.open(settings.redis_url)
        limits = self.limits = Limits.load()
        self.relief = Relief(in_reserve=settings.reserve)
        # The one writer of SQLite is not relieved by another.
        self.crowd = Crowd(None if self.database.is_sqlite else self.bells)
        self.advancing = Advancing(
            self.database,
            limits.max_context_bytes,
            limits=limits,
            publish=self.changes.publish,
            offers=self.offers,
            answers=self.answers,
            light=self.light,
            last_death=lambda: self.last_death,
            on_crowd=self._note_crowd,
            on_due=lambda seconds: self.dispatcher.due_in(seconds),  # noqa: PLW0108 - made below
        )
        self.last_death: datetime | None = None
        self.dispatcher = Dispatcher(
            "orchestrator",
            work=self._work,
            due=self.look_at_the_clock,
            due_check=DUE_CHECK * self._looks_less,
            on_round=SignOfLife(settings.alive_folder, "orchestrator").give,
        )
        self.sweeper = Sweeper(
            self.database, Keeping.of(settings), look_seconds=settings.retention_look_seconds
        )
        self._sweep = Sweep(courtesy=Courtesy())
        self._looks = Looks(settings.look_seconds * self._looks_less, early=TOGETHER * self._looks_less)
        self._places = PlaceLook()
        self._ending = threading.Event()
        self._beat = threading.Thread(target=self._stay, name="presence", daemon=True)
        self._forgets_at = self._forgets_answers_at = time.monotonic() + FORGET_SECONDS

    def start(self) -> None:
        self.database.run(self._arrive)
        self.last_death = stay(self.database, self.presence, register=self._arrive)
        self.dispatcher.start()
        if self.settings.doorbells:
            # Who hears a call answers it: to wake another thread takes longer than a step waits for anything else. So offers
            # and answers have threads of their own.
            if self.settings.reserve:
                self.calls.listen({RESERVE_QUEUE: lambda hints: self._relieve() if hints else None})
            else:
                self.calls.listen({ORCHESTRATOR_QUEUE: lambda _hints: self.dispatcher.answer()})
            if self.answers.address is not None:
                self.calls.listen({self.answers.address: self._hear_answers})
            self.calls.listen({OFFERS: self.offers.hear})
        self._beat.start()
        self.sweeper.start()
        log.info("worker.ready", worker_id=self.presence.id, settings=self.settings.redacted())

    def answer(self) -> dict[str, Any]:
        """Answer a doorbell. Who takes one has to see to it, in reserve as well: it was started on the queue of the others then."""
        self.relief.begin()
        return self.dispatcher.answer()

    def begin_drain(self) -> None:
        self._ending.set()
        self.sweeper.begin_end()
        self.dispatcher.begin_end()

    def drain(self) -> None:
        until = time.monotonic() + DRAIN_SECONDS
        self.dispatcher.end(wait=DRAIN_SECONDS)
        self.advancing.behind.is_free(within=max(until - time.monotonic(), 0.0))
        self.sweeper.end(wait=2)
        try:
            store(self.database, self.answers.take())  # which no step will take any more
            self.database.run(lambda tx: leave(tx, self.presence))
        except SQLAlchemyError as error:
            log.warning("worker.goodbye_unsaid", error=type(error).__name__)
        self.calls.close()
        self.light.close()
        self.advancing.behind.close()
        if self.bells is not None:
            self.bells.close()
        self.changes.close()
        log.info("worker.ended", worker_id=self.presence.id)

    def _hear_answers(self, hints: Sequence[bytes]) -> None:
        self.answers.hear(hints)
        # Their runners wait for a receipt: who hears them must not go through a flood meanwhile.
        self.dispatcher.answer(budget=HEARING_SECONDS)

    @property
    def _looks_less(self) -> int:
        return LOOKS if self.settings.reserve else 1

    def _note_crowd(self) -> None:
        """There is more to step than this process can. In reserve it goes on: it may be the only one that is there."""
        self.crowd.call()
        self.relief.begin()

    def _relieve(self) -> None:
        """Step what is ready. In reserve because it was called, has looked, or has itself made something ready: nobody else is rung for that."""
        self.relief.begin()
        self.dispatcher.ring()

    def _work(self, until: float) -> Drained:
        if self.relief.is_over and not self.answers.are_any:
            done = self._hand_back()
        else:
            self.relief.owes_look = True  # also should this fail
            done = advance_ready(self.advancing, until=self.relief.until(until), sweep=self._sweep)
            self.relief.owes_look = done.more or done.rest > 0
            self.relief.note_drain(more=done.more)
        counts = Counter(steps=done.steps, instances=done.instances, tasks=done.tasks)
        if done.rest:
            self.dispatcher.ring_in(done.rest)
        caused = start_items(self.database, self.advancing.limits) if done.starts_items else 0
        if self.advancing.emitted.is_set():
            self.advancing.emitted.clear()
            caused += start_published(self.database, self.limits)
        vacancies = self.advancing.vacancies.take()
        goes_on = bool(vacancies) and give(self.database, vacancies)
        if caused or goes_on:
            self.relief.begin()
        return Drained(counts, more=done.more or caused > 0 or goes_on)

    def _hand_back(self) -> Pass:
        """Save the last batch, and have others look for what they passed by meanwhile, because its instances were locked."""
        done = save_all(self.advancing)
        if self.relief.owes_look and self.bells is not None:
            self.bells.ring({ORCHESTRATOR_QUEUE: []})
        self.relief.owes_look = False
        return done

    def look_at_the_clock(self) -> float | None:
        """Fire and expire what is due, ring for what waits to be stepped, and tell how long until the next instant."""
        with self.database.looking() as tx:
            coming = read_coming(tx)
            now, timer = coming.now, coming.timer_at
            retry = breakers.next_look_at(tx, now=now) if coming.has_breakers else None
        if coming.is_any_ready and self._looks.is_time():
            self._relieve()
        lease, overdue, item = coming.lease_at, coming.overdue_at, coming.item_at
        fired = fire_due_timers(self.database) if timer is not None and timer <= now else 0
        if fired:
            self._relieve()
            with self.database.looking() as tx:
                timer = read_coming(tx).timer_at  # the one that was asked for has fired
        if lease is not None and lease < now and expire_due_leases(self.database):
            self._relieve()
        if overdue is not None and overdue <= now and time_out_due_tasks(self.database):
            self._relieve()
        if item is not None and item <= now and start_items(self.database, self.advancing.limits):
            self._relieve()
        if retry is not None and retry <= now:
            wake_waiting_for_breakers(self.database)
        started = fire_due_schedules(self.database, self.limits) if coming.is_schedule_due else Fired()
        if started.turns:
            self._relieve()
        if coming.has_published and start_published(
            self.database, self.limits
        ):  # by who died before it could
            self._relieve()
        # What who died before it could give.
        if coming.are_places_wanted and self._places.look(self.database):
            self._relieve()
        if time.monotonic() > self._forgets_at:
            self._forgets_at = time.monotonic() + FORGET_SECONDS
            forget(self.database)
        if time.monotonic() > self._forgets_answers_at:
            has_more = forget_answers(self.database)
            self._forgets_answers_at = time.monotonic() + (
                FORGET_MORE_SECONDS if has_more else FORGET_SECONDS
            )
        if started.more or (fired and fired % timers.BATCH == 0):
            return 0.0  # more are due: look again right after the next round of steps
        instants = (timer, lease, overdue, item, coming.run_at, retry)
        ahead = [instant for instant in instants if instant is not None and instant > now]
        return max((min(ahead) - now).total_seconds(), LOOK_GAP_SECONDS) if ahead else None

    def _is_runner(self, worker: WorkerId) -> bool:
        try:
            with self.database.each_alone() as tx:
                return workers.is_here(tx, worker, "task-runner")
        except SQLAlchemyError as error:  # its next offer asks again
            log.warning("offer.unchecked", error=type(error).__name__)
            return False

    def _arrive(self, tx: Connection) -> None:
        arrive(tx, self.presence, version=signalbox_version())

    def _stay(self) -> None:
        while not self._ending.wait(self.settings.beat_seconds):
            try:
                self.last_death = stay(self.database, self.presence, register=self._arrive)
            except Exception as error:  # noqa: BLE001 - an outer loop: should it end, we would be taken for dead
                log.warning("presence.unsaid", error=reason(error))
