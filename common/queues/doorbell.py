"""Ringing: after a commit, from a background thread, coalesced, best effort.

The leading edge goes out at once; then at most one ring per 10 ms and queue, none while 50 wait untaken (asked after the
commit, so each of those 50 is followed by a read that sees the new row). A broker that does not answer is left alone
for a second; callers never wait for it, and the look finds every row that nobody rang for.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from celery import Celery
from kombu import Connection as Broker
from kombu.exceptions import OperationalError

from common.config import Settings
from common.db import Bells, Database
from common.queues.app import TASK_OF_QUEUE, make_app

log = structlog.get_logger("signalbox.doorbell")

INTERVAL = 0.010
ENOUGH = 50
HINTS = 20
ASK_EVERY = 10
REST = 1.0


class Doorbells:
    """One process's bells. `ring` returns at once; a daemon thread does the talking."""

    def __init__(self, broker_url: str) -> None:
        self._app: Celery = make_app(broker_url, name="signalbox", queue=next(iter(TASK_OF_QUEUE)))
        self._broker_url = broker_url
        self._noted: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}
        self._wake = threading.Condition()
        self._closing = False
        self._rang_at: dict[str, float] = {}
        self._rings: Counter[str] = Counter()
        self._full: set[str] = set()
        self._broker: Broker | None = None
        self._quiet_until = 0.0
        self._thread = threading.Thread(target=self._run, name="doorbell", daemon=True)
        self._thread.start()

    def ring(self, bells: Bells) -> None:
        """Ask for queues to be rung, with ids as hints for whoever watches Flower. Never blocks, never raises."""
        with self._wake:
            for queue, ids in bells.items():
                noted = self._noted.setdefault(queue, [])
                noted.extend(ids[: HINTS - len(noted)] if len(noted) < HINTS else ())
                self._counts[queue] = self._counts.get(queue, 0) + max(len(ids), 1)
            self._wake.notify()

    def close(self, *, wait: float = 1.0) -> None:
        """Ring what was noted and stop."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(wait)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._noted and not self._closing:
                    self._wake.wait()
                if not self._noted:
                    break
                delay = (
                    min(self._rang_at.get(queue, 0.0) + INTERVAL for queue in self._noted) - time.monotonic()
                )
                if delay > 0 and not self._closing:
                    self._wake.wait(delay)
                    if (
                        min(self._rang_at.get(queue, 0.0) + INTERVAL for queue in self._noted)
                        > time.monotonic()
                    ):
                        continue
                now = time.monotonic()
                due = {
                    queue: ids
                    for queue, ids in self._noted.items()
                    if self._rang_at.get(queue, 0.0) + INTERVAL <= now
                }
                due = due or (dict(self._noted) if self._closing else {})
                counts = {queue: self._counts.pop(queue, 0) for queue in due}
                for queue in due:
                    del self._noted[queue]
                    self._rang_at[queue] = now
            self._tell(due, counts)
        self._hang_up()

    def _tell(self, due: Mapping[str, Sequence[str]], counts: Mapping[str, int]) -> None:
        if time.monotonic() < self._quiet_until:
            return  # the broker does not answer; these rows are found by the look
        try:
            for queue, ids in due.items():
                self._send(queue, list(ids), counts[queue])
        except Exception as error:
            if not isinstance(error, (OperationalError, OSError, *self._broker_errors())):
                raise
            log.warning(
                "broker.unreachable", error=f"{type(error).__name__}: {error}"[:200], rest_seconds=REST
            )
            self._quiet_until = time.monotonic() + REST
            self._hang_up()

    def _broker_errors(self) -> tuple[type[BaseException], ...]:
        broker = self._broker
        return (*broker.connection_errors, *broker.channel_errors) if broker is not None else ()

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
