"""An orchestrator's way to the runners that call light handlers for its steps (`light_calls.py`)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Self

import redis
import structlog

from common.config import Settings
from common.ids import LeaseToken, WorkerId, new_id
from common.queues.answers import Envelope
from common.queues.calls import channel, client_of, connect, subscribe
from common.queues.light_calls import Called, LightReply, calls_address
from common.queues.told_task import ToldTask

UNREAD = 16
"""Answers of the broker that may wait to be read: who called for which is known, and most calls are answered by their runners before."""
BROKER_SECONDS = 0.1
"""How long a broker may take for what it does at once: a step waits for it with locks in its hands, and a frozen one never answers."""
REST = 1.0
"""Seconds in which nobody is called after the broker failed."""
log = structlog.get_logger("signalbox.light_calls")


class LightLine:
    """One orchestrator's way to the runners that call light handlers for it. For one thread at a time.

    It has two connections of its own, one that calls and one that hears: who waits reads the socket itself, since a thread that had to be woken
    would double what a call takes.
    """

    def __init__(self, client: redis.Redis, envelope: Envelope, worker: WorkerId) -> None:
        self._client = client
        self._envelope = envelope
        self._sender = new_id()  # of this process, as its counts are
        self._reply_to = envelope.address_of("lit", worker)
        self._number = 0
        self._calls: Any = None
        self._replies: Any = None
        self._called: deque[WorkerId] = deque()
        self._unheard: set[WorkerId] = set()
        self._quiet_until = 0.0

    @classmethod
    def open(cls, settings: Settings, envelope: Envelope | None, worker: WorkerId) -> Self | None:
        """The line of an orchestrator; None where nobody can be called: without doorbells, a secret, or Redis. Connects with the first call."""
        client = (
            client_of(settings.redis_url, patience=BROKER_SECONDS)
            if settings.doorbells and settings.redis_url
            else None
        )
        return None if client is None or envelope is None else cls(client, envelope, worker)

    def send(self, worker: WorkerId, tasks: Sequence[ToldTask]) -> bool:
        """Have a runner call the handlers of some tasks; False where that cannot be said, and nobody was called. Never raises."""
        if time.monotonic() < self._quiet_until:
            return False
        self._number += 1
        address = calls_address(self._envelope, worker)
        told = [self._sender, self._number, self._reply_to, [one.told() for one in tasks]]
        try:
            if self._calls is None:
                self._connect()
            self._calls.send_command(
                "PUBLISH", channel(address), self._envelope.seal_value(address, told), check_health=False
            )
        except (redis.RedisError, OSError) as error:
            self._hang_up(error)
            return False
        self._called.append(worker)
        return True

    def unheard(self) -> set[WorkerId]:
        """Whom of those that were called since the last time this was asked did nobody hear? Waits for the broker, which answers at once. Never raises."""
        self._read_heard(leave=0)
        unheard, self._unheard = self._unheard, set()
        return unheard

    def _read_heard(self, *, leave: int) -> None:
        """Read how many heard each call, of all but the last few."""
        while self._calls is not None and len(self._called) > leave:
            try:
                if not self._calls.read_response():
                    self._unheard.add(self._called[0])
            except (
                redis.RedisError,
                OSError,
            ) as error:  # what was called by then, and what not, nobody knows
                self._hang_up(error)
                return
            self._called.popleft()

    def replies(self, seconds: float) -> list[LightReply] | None:
        """What has been answered, at the latest after so many seconds; None where nothing came or can come. Never raises."""
        if self._replies is None:
            return None
        try:
            if not self._replies.can_read(timeout=max(seconds, 0.0)):
                return None
            kind, _, said = self._replies.read_response()
        except (redis.RedisError, OSError, ValueError) as error:
            self._hang_up(error)
            return None
        self._read_heard(leave=UNREAD)
        if kind != b"message":
            return []
        try:
            _, told = self._envelope.open_value(self._reply_to, said)
            return [LightReply(LeaseToken(token), Called(called), output) for token, called, output in told]
        except (ValueError, TypeError) as error:
            log.warning("light_reply.unreadable", error=str(error)[:200])
            return []

    def close(self) -> None:
        """Give the connections back."""
        for one in (self._calls, self._replies):
            if one is not None:
                one.disconnect()
        self._calls = self._replies = None
        self._called.clear()
        self._unheard.clear()

    def _connect(self) -> None:
        self._replies = connect(self._client)
        subscribe(self._replies, [channel(self._reply_to)])
        self._calls = connect(self._client)

    def _hang_up(self, error: Exception) -> None:
        self._quiet_until = time.monotonic() + REST
        self.close()
        log.debug("light_call.unsaid", error=str(error))
