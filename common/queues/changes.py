"""Telling who waits that an instance changed: Redis pub/sub, best effort. A look each 250 ms backs it up.

Only ids travel. With a broker that is not Redis, or none, nothing is published and the look alone serves.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import orjson
import redis
import structlog

CHANNEL = "signalbox:changed"
REST = 1.0
log = structlog.get_logger("signalbox.changes")


class Changes:
    """One process's end of the channel: workers publish, the API listens with one thread for all who wait."""

    def __init__(self, client: redis.Redis | None) -> None:
        self._client = client
        self._waiting: dict[str, list[threading.Event]] = {}
        self._turn = threading.Lock()
        self._listener: threading.Thread | None = None
        self._quiet_until = 0.0
        self._closed = threading.Event()

    @classmethod
    def open(cls, redis_url: str) -> Changes:
        """Open the channel; connects lazily, and works without anybody at the other end."""
        if not redis_url.startswith(("redis://", "rediss://", "unix://")):
            return cls(None)
        return cls(redis.Redis.from_url(redis_url, socket_connect_timeout=1, socket_timeout=2))

    def publish(self, ids: Sequence[str]) -> None:
        """Tell that these instances changed. Never raises; an unreachable Redis is left alone for a second."""
        if self._client is None or not ids or time.monotonic() < self._quiet_until:
            return
        try:
            self._client.publish(CHANNEL, orjson.dumps(list(ids)))
        except redis.RedisError as error:
            self._quiet_until = time.monotonic() + REST
            log.debug("changes.unpublished", error=str(error))

    @contextmanager
    def subscribe(self, instance_id: str) -> Iterator[threading.Event]:
        """Yield an event that is set whenever the instance may have changed; clear it before looking."""
        changed = threading.Event()
        with self._turn:
            self._waiting.setdefault(instance_id, []).append(changed)
            if self._listener is None and self._client is not None:
                self._listener = threading.Thread(target=self._listen, name="changes", daemon=True)
                self._listener.start()
        try:
            yield changed
        finally:
            with self._turn:
                self._waiting[instance_id].remove(changed)
                if not self._waiting[instance_id]:
                    del self._waiting[instance_id]

    def close(self) -> None:
        self._closed.set()
        if self._client is not None:
            self._client.close()

    def _listen(self) -> None:
        while not self._closed.is_set():
            try:
                self._listen_once()
            except (redis.RedisError, OSError, ValueError) as error:
                log.debug("changes.listener", error=str(error))
                self._closed.wait(REST)

    def _listen_once(self) -> None:
        assert self._client is not None  # noqa: S101 - the listener is started only with a client
        with self._client.pubsub(ignore_subscribe_messages=True) as channel:  # type: ignore[no-untyped-call]
            channel.subscribe(CHANNEL)
            while not self._closed.is_set():
                message = channel.get_message(timeout=1.0)
                if message is not None:
                    self._wake(orjson.loads(message["data"]))

    def _wake(self, ids: Sequence[str]) -> None:
        with self._turn:
            for id_ in ids:
                for changed in self._waiting.get(id_, ()):
                    changed.set()
