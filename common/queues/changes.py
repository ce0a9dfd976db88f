"""Telling who waits that an instance may have come to rest: a call (`calls.py`), best effort. A look each 250 ms backs it up.

Only ids travel. Whoever advances instances writes them to the socket and is done; where that cannot be done at once, because nothing is
connected yet or the broker hangs, a thread of its own tells them. With a broker that is not Redis, or none, nothing is told and the look alone serves.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import orjson
import structlog

from common.queues.calls import Caller, Listener

CHANGED = "changed"
"""Whom to call with the ids of instances: all who wait."""
LOOK_SECONDS = 0.25
"""Who waits looks by himself after so long."""
UNTOLD_MAX = 10_000
"""Ids that wait to be told; what comes beyond is left to the look."""
log = structlog.get_logger("signalbox.changes")


class Changes:
    """One process's end of the channel: workers publish, the API listens with one thread for all who wait."""

    def __init__(self, redis_url: str) -> None:
        self._caller = Caller.open(redis_url)
        self._listener = Listener.open(redis_url)
        self._waiting: dict[str, list[threading.Event]] = {}
        self._turn = threading.Lock()
        self._listens = False
        self._closed = threading.Event()
        self._untold: dict[str, None] = {}
        self._tell = threading.Condition()
        self._teller: threading.Thread | None = None

    @classmethod
    def open(cls, redis_url: str) -> Changes:
        """Open the channel; connects lazily, and works without anybody at the other end."""
        return cls(redis_url)

    def publish(self, ids: Sequence[str]) -> None:
        """Tell that these instances may have come to rest. Returns at once, never raises; an unreachable Redis is left alone for a second."""
        if not ids:
            return
        with self._tell:
            if not self._untold and self._caller.call_at_once(CHANGED, orjson.dumps(list(ids))):
                return
            if len(self._untold) < UNTOLD_MAX:
                self._untold.update(dict.fromkeys(ids))
            if self._teller is None:
                self._teller = threading.Thread(target=self._tell_all, name="changes-teller", daemon=True)
                self._teller.start()
            self._tell.notify()

    def _tell_all(self) -> None:
        while True:
            with self._tell:
                self._tell.wait_for(lambda: self._untold or self._closed.is_set())
                ids, self._untold = list(self._untold), {}
            if not ids:
                return
            self._caller.call(CHANGED, orjson.dumps(ids))

    @contextmanager
    def subscribe(self, instance_id: str) -> Iterator[threading.Event]:
        """Yield an event that is set whenever the instance may have come to rest; clear it before looking."""
        changed = threading.Event()
        with self._turn:
            self._waiting.setdefault(instance_id, []).append(changed)
            if not self._listens:
                self._listens = True
                self._listener.listen({CHANGED: self._hear})
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
        self._listener.close()
        with self._tell:
            self._tell.notify()
        if self._teller is not None:
            self._teller.join(wait)
        self._caller.close()

    def _hear(self, hints: Sequence[bytes]) -> None:
        for said in hints:
            try:
                ids = orjson.loads(said)
            except ValueError as error:
                log.debug("change.unreadable", error=str(error))
                continue
            if isinstance(ids, list):
                self._wake([one for one in ids if isinstance(one, str)])

    def _wake(self, ids: Sequence[str]) -> None:
        with self._turn:
            for id_ in ids:
                for changed in self._waiting.get(id_, ()):
                    changed.set()
