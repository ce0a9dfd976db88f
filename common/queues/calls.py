"""Calls: the faster bell, a bare Redis publish to the dispatchers that listen. It carries nothing at all.

Lost calls are found by the Celery doorbell that follows, and lost doorbells by the look.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import redis
import structlog

REST = 1.0
log = structlog.get_logger("signalbox.calls")


class Calls:
    """One process's end: `call` says that a queue's tables have work, `listen` hears it."""

    def __init__(self, client: redis.Redis | None) -> None:
        self._client = client
        self._quiet_until = 0.0
        self._closed = threading.Event()

    @classmethod
    def open(cls, broker_url: str) -> Calls:
        """Open for a broker; one that is not Redis has no calls, and `call` is never heard."""
        if not broker_url.startswith(("redis://", "rediss://", "unix://")):
            return cls(None)
        return cls(redis.Redis.from_url(broker_url, socket_connect_timeout=1, socket_timeout=2))

    def call(self, queue: str) -> bool:
        """Call those who answer for `queue`; True when somebody heard. Never raises."""
        if self._client is None or time.monotonic() < self._quiet_until:
            return False
        try:
            return bool(self._client.publish(_channel(queue), b""))
        except redis.RedisError as error:
            self._quiet_until = time.monotonic() + REST
            log.debug("call.unsaid", error=str(error))
            return False

    def listen(self, queue: str, heard: Callable[[], None]) -> None:
        """Run `heard` at each call for `queue`, from a thread of its own, until `close`."""
        if self._client is not None:
            threading.Thread(target=self._listen, args=(queue, heard), name="calls", daemon=True).start()

    def close(self) -> None:
        """Stop listening within a second."""
        self._closed.set()

    def _listen(self, queue: str, heard: Callable[[], None]) -> None:
        while not self._closed.is_set():
            try:
                self._hear(queue, heard)
            except (redis.RedisError, OSError, ValueError) as error:
                log.debug("calls.unheard", error=str(error))
                self._closed.wait(REST)

    def _hear(self, queue: str, heard: Callable[[], None]) -> None:
        assert self._client is not None  # noqa: S101 - only a client listens
        with self._client.pubsub(ignore_subscribe_messages=True) as channel:  # type: ignore[no-untyped-call]
            channel.subscribe(_channel(queue))
            heard()  # what was called before we listened
            while not self._closed.is_set():
                if channel.get_message(timeout=1.0) is not None:
                    heard()


def _channel(queue: str) -> str:
    return f"signalbox:call:{queue}"
