"""Telling who waits that an instance may have come to rest: Redis pub/sub, best effort. A look each 250 ms backs it up.

Only ids travel, from a thread of its own: whoever advances instances must not wait for a Redis that hangs. With a
broker that is not Redis, or none, nothing is published and the look alone serves.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import orjson
import redis
import structlog

from common.queues.calls import client_of

CHANNEL = "signalbox:changed"
LOOK_SECONDS = 0.25
"""Who waits looks by himself after so long."""
REST = 1.0
UNPUBLISHED_MAX = 10_000
"""Ids that wait to be told; what comes beyond is left to the look."""
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
        self._untold: dict[str, None] = {}
        self._tell = threading.Condition()
        self._teller: threading.Thread | None = None

    @classmethod
    def open(cls, redis_url: str) -> Changes:
        """Open the channel; connects lazily, and works without anybody at the other end."""
        return cls(client_of(redis_url))

    def publish(self, ids: Sequence[str]) -> None:
        """Tell that these instances may have come to rest. Returns at once, never raises; an unreachable Redis is left alone for a second."""
        if self._client is None or not ids or time.monotonic() < self._quiet_until:
            return
        with self._tell:
            if len(self._untold) < UNPUBLISHED_MAX:
                self._untold.update(dict.fromkeys(ids))
            if self._teller is None:
                self._teller = threading.Thread(target=self._tell_all, name="changes-teller", daemon=True)
                self._teller.start()
            self._tell.notify()

    def _tell_all(self) -> None:
        assert self._client is not None  # noqa: S101 - the teller is started only with a client
        while True:
            with self._tell:
                self._tell.wait_for(lambda: self._untold or self._closed.is_set())
                ids, self._untold = list(self._untold), {}
            if not ids:
                return
            try:
                self._client.publish(CHANNEL, orjson.dumps(ids))
            except redis.RedisError as error:
                self._quiet_until = time.monotonic() + REST
                log.debug("changes.unpublished", error=str(error))

    @contextmanager
    def subscribe(self, instance_id: str) -> Iterator[threading.Event]:
        """Yield an event that is set whenever the instance may have come to rest; clear it before looking."""
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

    def close(self, *, wait: float = 0.2) -> None:
        """Tell what waits to be told, for up to `wait` seconds, and let go."""
        self._closed.set()
        with self._tell:
            self._tell.notify()
        if self._teller is not None:
            self._teller.join(wait)
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
