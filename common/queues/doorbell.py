"""Ringing: after a commit, from a background thread, coalesced, best effort.

Two bells. The **call** is a bare Redis publish that the resident dispatchers listen to: 0.1 ms, at most one per 2 ms and
queue. The **ring** is the Celery message, which any worker takes and Flower shows; a message costs its worker about a
millisecond, so while somebody hears the calls it goes out at most twice a second, and without (another broker, no
worker yet) the leading edge at once and then one per 10 ms. None goes out while 50 wait untaken (asked after the commit,
so each of those 50 is followed by a read that sees the new row). Every note is followed by a call or a ring after it, so
no wake-up depends on an interval. What was leased to a worker is called to that worker alone, and rung for Flower.
A broker that does not answer is left alone for a second; callers never wait for it, and
the look finds every row that nobody rang for.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from celery import Celery
from kombu import Connection as Broker

from common.config import Settings
from common.db import ARRIVALS, TASK_RUNNER_QUEUE, Bells, Database
from common.queues.app import TASK_OF_QUEUE, make_app
from common.queues.arrivals import Announcer
from common.queues.calls import Caller
from common.queues.handed import TaskSealer, worker_call

log = structlog.get_logger("signalbox.doorbell")

INTERVAL = 0.010
HEARD_INTERVAL = 0.500
CALL_INTERVAL = 0.002
ENOUGH = 50
HINTS = 20
ASK_EVERY = 10
UNSAID = 1_000
"""Calls to single workers that wait for the thread; of more the oldest are dropped, and found by a look."""
REST = 1.0
_NEVER = float("inf")


@dataclass
class _Bell:
    """What is asked of one queue and not told yet. Times are monotonic seconds."""

    ids: list[str] = field(default_factory=list)
    count: int = 0
    wants_call: bool = False
    wants_ring: bool = False
    called_at: float = 0.0
    rang_at: float = 0.0
    is_heard: bool = (
        False  # a worker listens to calls, so that the Celery message is for Flower and for late-comers
    )

    def note(self, ids: Sequence[str]) -> None:
        self.note_ring(ids)
        self.wants_call = True

    def note_ring(self, ids: Sequence[str]) -> None:
        self.ids.extend(ids[: max(HINTS - len(self.ids), 0)])
        self.count += max(len(ids), 1)
        self.wants_ring = True

    @property
    def call_at(self) -> float:
        return self.called_at + CALL_INTERVAL if self.wants_call else _NEVER

    @property
    def ring_at(self) -> float:
        interval = HEARD_INTERVAL if self.is_heard else INTERVAL
        return self.rang_at + interval if self.wants_ring else _NEVER

    def called(self, now: float, *, is_heard: bool) -> None:
        self.wants_call, self.called_at, self.is_heard = False, now, is_heard

    def take_hints(self) -> tuple[list[str], int]:
        hints = self.ids, self.count
        self.ids, self.count, self.wants_ring = [], 0, False
        return hints


class Doorbells:
    """One process's bells. `ring` returns at once; a daemon thread does the talking."""

    def __init__(self, broker_url: str) -> None:
        self.on_unheard: Callable[[str], None] = lambda _whom: None
        self.answered_at: str | None = None  # whom to call with how a task ended that was leased here
        self.sealer: TaskSealer | None = None  # by whom runners are told what tasks are
        self._app: Celery = make_app(broker_url, name="signalbox", queue=next(iter(TASK_OF_QUEUE)))
        self._calls = Caller.open(broker_url)
        self._announcer = Announcer(self._calls)
        self._bells = {queue: _Bell() for queue in TASK_OF_QUEUE}
        self._wake = threading.Condition()
        self._closing = False
        self._rings: Counter[str] = Counter()
        self._full: set[str] = set()
        self._unsaid: deque[tuple[str, bytes]] = deque(maxlen=UNSAID)
        self._broker: Broker | None = None
        self._quiet_until = 0.0
        self._sleeps_until = 0.0  # when the thread looks by itself; it is woken only for what comes before
        self._thread = threading.Thread(target=self._run, name="doorbell", daemon=True)
        self._thread.start()

    def ring(self, bells: Bells) -> None:
        """Ask for queues to be rung, with ids as hints for whoever watches Flower. Never blocks, never raises.

        A call goes out from here where it is its turn: another thread would first have to wait for this one.
        """
        with self._wake:
            for queue, ids in bells.items():
                if queue == ARRIVALS:
                    self._announcer.announce(ids)
                    continue
                if queue not in self._bells:
                    self._hand(queue, ids)
                    continue
                bell = self._bells[queue]
                bell.note(ids)
                now = time.monotonic()
                if bell.call_at <= now and self._calls.call_at_once(queue):
                    bell.called(now, is_heard=self._calls.is_heard(queue))
            if self._next_turn() < self._sleeps_until:
                self._wake.notify()

    def say(self, whom: str, hints: bytes) -> int | None:
        """Call somebody who is no queue; how many heard the last such call of which that is known. Never blocks, never raises."""
        with self._wake:
            self._say(whom, hints)
            if self._next_turn() < self._sleeps_until:
                self._wake.notify()
        return self._calls.heard_by(whom)

    def _say(self, whom: str, hints: bytes) -> None:
        if self._unsaid or not self._calls.call_at_once(whom, hints):
            self._unsaid.append((whom, hints))

    def _hand(self, worker: str, notes: Sequence[str]) -> None:
        """Tell a worker what was leased to it, and what is stored. The ring is for Flower, and has it look should the call be lost."""
        call, leased = worker_call(worker, notes, self.answered_at, self.sealer)
        self._say(worker, call)
        if leased:
            bell = self._bells[TASK_RUNNER_QUEUE]
            bell.note_ring(leased)
            bell.is_heard = self._calls.is_heard(worker)
        if self._calls.heard_by(worker) == 0:
            self.on_unheard(worker)

    def close(self, *, wait: float = 1.0) -> None:
        """Ring what was noted and stop."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(wait)

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wait_for_a_turn()
                now = time.monotonic()
                calls = [queue for queue, bell in self._bells.items() if bell.call_at <= now]
                rings = [
                    queue
                    for queue, bell in self._bells.items()
                    if bell.ring_at <= now or (self._closing and bell.wants_ring)
                ]
                is_last = self._closing
                for queue in calls:
                    self._bells[queue].called(now, is_heard=self._bells[queue].is_heard)
                unsaid = list(self._unsaid)
                self._unsaid.clear()
            for whom, hints in unsaid:
                self._calls.call(whom, hints)
            for queue in calls:
                self._bells[queue].is_heard = self._calls.call(queue)
            self._tell(rings)
            if is_last:
                break
        self._hang_up()
        self._calls.close()

    def _wait_for_a_turn(self) -> None:
        while not self._closing:
            turn = self._next_turn()
            if turn <= time.monotonic():
                break
            self._sleeps_until = turn
            self._wake.wait(None if turn == _NEVER else turn - time.monotonic())
        self._sleeps_until = 0.0

    def _next_turn(self) -> float:
        if self._unsaid:
            return 0.0
        return min(min(bell.call_at, bell.ring_at) for bell in self._bells.values())

    def _tell(self, queues: Sequence[str]) -> None:
        """Ring queues whose turn it is. A heard call comes first, and makes its ring wait for the longer interval."""
        taken = {}
        with self._wake:
            for queue in queues:
                bell = self._bells[queue]
                if bell.ring_at > time.monotonic() and not self._closing:
                    continue
                bell.rang_at = time.monotonic()
                taken[queue] = bell.take_hints()
        if time.monotonic() < self._quiet_until:
            return  # the broker does not answer; these rows are found by the look
        try:
            for queue, (ids, count) in taken.items():
                self._send(queue, ids, count)
        except Exception as error:  # noqa: BLE001 - each transport has errors of its own, and nobody would ring again
            log.warning(
                "broker.unreachable", error=f"{type(error).__name__}: {error}"[:200], rest_seconds=REST
            )
            self._quiet_until = time.monotonic() + REST
            self._hang_up()

    def _send(self, queue: str, ids: list[str], count: int) -> None:
        if self._broker is None:
            self._broker = self._app.connection_for_write(connect_timeout=1)
            self._broker.ensure_connection(max_retries=1, timeout=1)
        if self._is_full(queue):
            return
        self._app.send_task(
            TASK_OF_QUEUE[queue],
            kwargs={"ids": ids, "count": count},
            queue=queue,
            connection=self._broker,
            retry=False,
            ignore_result=True,
        )

    def _is_full(self, queue: str) -> bool:
        """Whether 50 doorbells wait untaken: asked at each tenth ring, because the question costs as much as a ring."""
        if queue in self._full or self._rings[queue] % ASK_EVERY == 0:
            (self._full.add if self._waiting(queue) >= ENOUGH else self._full.discard)(queue)
        self._rings[queue] += 1
        return queue in self._full

    def _waiting(self, queue: str) -> int:
        """How many doorbells wait untaken. The default channel is used, so nothing is opened per ring."""
        channel: Any = self._broker.default_channel  # type: ignore[union-attr]
        return int(channel.queue_declare(queue=queue, durable=True, auto_delete=False).message_count)

    def _hang_up(self) -> None:
        if self._broker is not None:
            broker, self._broker = self._broker, None
            try:
                broker.release()
            except Exception as error:  # noqa: BLE001 - each transport has errors of its own, and the connection is given up
                log.debug("broker.release", error=str(error))


def attach(database: Database, settings: Settings) -> Doorbells | None:
    """Ring after each commit of `database` in this process; returns the bells to close, or None when they are off."""
    if not settings.doorbells or not settings.redis_url:
        return None
    bells = Doorbells(settings.redis_url)
    database.listeners.append(bells.ring)
    return bells
