"""What the process of a task runner does all day. `task_runner.worker` makes a Celery worker of it.

Handlers run in our own slots, so that tasks claimed together never share a fate. Reading it in reads no settings and no handlers.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from common import faults
from common.canonical import dumps
from common.commands.presence import Presence, arrive, leave, stay
from common.config import Limits, Settings
from common.db import LONGEST_TRANSACTION, TASK_RUNNER_QUEUE, Database, reason
from common.db.schema import require_schema
from common.links import Links
from common.queues import bootstep, doorbell
from common.queues.alive import SignOfLife
from common.queues.answers import Envelope
from common.queues.arrivals import Arrivals
from common.queues.calls import Caller, Listener
from common.queues.dispatcher import Dispatcher, Looks
from common.queues.offers import name_of
from common.sealing import SealingKeys
from common.store.workers import PublishedHandler
from common.version import signalbox_version
from task_runner.due import DueTasks
from task_runner.isolate import Surroundings
from task_runner.links import TaskLinks
from task_runner.registry import REGISTRY, SYSTEM, Handler, discover
from task_runner.resolve import Resolver, Secrets
from task_runner.run import Runner

log = structlog.get_logger("signalbox.task_runner")

LONG_LOOK = 0.01
LOOK_SHARE = 20
"""How many times as long as a long look for delayed tasks took nobody looks again: at most a twentieth of the time goes into it."""


class TaskRunner:
    """This process's duty: claim, call, beat, report."""

    def __init__(self, settings: Settings) -> None:
        faults.arm_from_environment(settings.faults)
        self.settings = settings
        discover(settings.handlers)
        self.database = Database.open(
            settings.database_url,
            name="signalbox-task-runner",
            longest_transaction=LONGEST_TRANSACTION,
        )
        require_schema(self.database)
        self.bells = doorbell.attach(self.database, settings)
        self.calls = Listener.open(settings.redis_url)
        self.presence = Presence.of("task-runner", types=REGISTRY.types(), slots=settings.slots)
        self.runner = Runner(
            self.database,
            REGISTRY,
            worker=self.presence.id,
            slots=settings.slots,
            lease=timedelta(seconds=settings.lease_seconds),
            max_output_bytes=Limits.load().max_output_bytes,
            on_room=lambda: self.dispatcher.ring(),  # noqa: PLW0108 - made below
            on_wearing_out=self.begin_drain,
            on_worn_out=self._end_worn_out,
            is_wary=lambda: self.last_death is not None,
            ring_in=lambda seconds: self.dispatcher.ring_in(seconds),  # noqa: PLW0108 - made below
            on_due=lambda seconds: self.dispatcher.due_in(seconds),  # noqa: PLW0108 - made below
            surroundings=Surroundings(
                settings.log_format, settings.log_level, settings.isolated_memory_mb * 2**20
            ),
            breakers=settings.breaker_policy(),
            say=None if self.bells is None else self.bells.say,
            envelope=Envelope.of(settings),
            caller=Caller.open(settings.redis_url) if settings.doorbells and settings.redis_url else None,
            resolver=Resolver(
                {
                    "secret": Secrets(lambda: SealingKeys.read(*settings.installation_secrets())),
                    "link": TaskLinks(
                        lambda: Links.read_secrets(*settings.installation_secrets(), settings.public_url)
                    ),
                }
            ),
        )
        self.dispatcher = Dispatcher(
            "task-runner",
            work=self.runner.claim,
            due=self.look_at_the_clock,
            on_round=SignOfLife(settings.alive_folder, "task-runner").give,
        )
        self.arrivals = Arrivals(settings.redis_url, self.runner.note_arrivals)
        self.last_death: datetime | None = None
        self._is_worn_out = False
        self._ended = threading.Event()
        self._due_tasks = DueTasks(self.presence.id, REGISTRY.types(), REGISTRY.functions())
        self._looks = Looks(settings.look_seconds)
        self._rests_until = 0.0
        self._beat = threading.Thread(target=self._stay, name="beat", daemon=True)

    def start(self) -> None:
        self.database.run(self._arrive)
        self.last_death = stay(self.database, self.presence, register=self._arrive)
        self.runner.start()
        self.dispatcher.start()
        if self.settings.doorbells:
            rung = lambda _hints: self.dispatcher.ring()  # noqa: E731
            self.calls.listen({TASK_RUNNER_QUEUE: rung, name_of(self.presence.id): self.runner.take_up})
            if self.runner.light is not None:  # in a thread of its own: steps wait for it
                self.calls.listen({self.runner.light.address: self.runner.light.hear})
        self._beat.start()
        log.info(
            "worker.ready",
            worker_id=self.presence.id,
            types=REGISTRY.types(),
            settings=self.settings.redacted(),
        )

    def answer(self) -> dict[str, Any]:
        return self.dispatcher.answer()

    def begin_drain(self) -> None:
        self.dispatcher.begin_end()
        self.runner.limited.is_leaving = True

    def drain(self) -> None:
        self.runner.end_offers()
        self.dispatcher.end(wait=2)
        try:
            released = self.runner.drain(self.settings.drain_seconds)
            self.database.run(lambda tx: leave(tx, self.presence))
            log.info("worker.ended", worker_id=self.presence.id, released=released)
        except SQLAlchemyError as error:
            # The leases end by themselves; another runner takes the tasks up.
            log.warning("worker.goodbye_unsaid", error=type(error).__name__)
        self._ended.set()
        self.calls.close()
        self.arrivals.listen(False)
        if self.runner.light is not None:
            self.runner.light.close()
        if self.bells is not None:
            self.bells.close()

    def _end_worn_out(self) -> None:
        """Threads that overran their time cannot be stopped, a process can: let another take its place."""
        if not self._is_worn_out:
            self._is_worn_out = True
            log.warning(
                "worker.worn_out", worker_id=self.presence.id, zombies=self.runner.slots.zombies,
                slots=self.settings.slots, exit_code=bootstep.WORN_OUT,
            )  # fmt: skip
            bootstep.end_worn_out()

    def look_at_the_clock(self) -> float | None:
        """Ring for delayed tasks and retries whose time has come, and for what waits though nobody rang; tell how long until the next.

        A look reads all that waits, so it may take its part of the time and no more: whoever has that many tasks is busy, and claims blindly.
        """
        began = time.monotonic()
        rest = self._rests_until - began
        if rest > 0:
            if self._looks.is_time():
                self.dispatcher.ring()
            return rest
        with self.database.looking() as tx:
            seen = self._due_tasks.look(tx)
        took = time.monotonic() - began
        if took > LONG_LOOK:
            self._rests_until = time.monotonic() + LOOK_SHARE * took
        is_time = self._looks.is_time()
        if seen.fell_due or (is_time and (seen.is_any or not self.runner.is_idle)):
            self.dispatcher.ring()
        elif is_time:
            self.runner.offer_idle()
        return seen.next_in

    def _arrive(self, tx: Connection) -> None:
        published = [row for handler in REGISTRY.all() for row in _published(handler)]
        arrive(tx, self.presence, version=signalbox_version(), published=published)

    def _stay(self) -> None:
        while not self._ended.wait(self.settings.beat_seconds):
            try:
                self.runner.beat()
                self.arrivals.listen(self.settings.doorbells and self.runner.is_in_a_flood)
                self.last_death = stay(self.database, self.presence, register=self._arrive)
            except Exception as error:  # noqa: BLE001 - an outer loop: should it end, every lease here would run out
                log.warning("beat.missed", error=reason(error))


def _published(handler: Handler) -> list[PublishedHandler]:
    """A handler's rows: under its own name, and as a function of SYSTEM unless it is a built-in type."""
    row = PublishedHandler(
        handler.name, "", handler.description, light=handler.options.light,
        isolated=handler.options.isolated,
        retry=dumps(dict(handler.options.retry)) if handler.options.retry else None,
        input_schema=dumps(dict(handler.input_schema)) if handler.input_schema else None,
        output_schema=dumps(dict(handler.output_schema)) if handler.output_schema else None,
    )  # fmt: skip
    if handler.built_in:
        return [row]
    return [row, replace(row, type=SYSTEM, name=handler.name)]
