"""Calls: the faster bell, a bare Redis publish to the processes that listen. It carries hints, and sealed answers (`answers.py`).

Lost calls are found by the Celery doorbell that follows, and lost doorbells by the look.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import redis
import structlog

from common.config import is_redis

REST = 1.0
HEARING = 5.0
"""Seconds for which who listens waits for the next call at once: to wake for nothing costs, and nobody has to hear of the end sooner."""
UNANSWERED = 100
"""Calls without an answer, after which nobody calls any more without waiting: a broker that is frozen fills our buffers else."""
KNOWN_MAX = 1_000
Heard = Callable[[Sequence[bytes]], object]
"""Takes the hints of all calls that have come since the last time, oldest first; none at all when it begins to listen."""
log = structlog.get_logger("signalbox.calls")


class Caller:
    """One process's calls, over a connection that it keeps.

    A call is answered with how many heard it. Who has just committed does not wait for that: `call_at_once` writes to the
    socket and is done, in a fifth of the time, and the answer is read before the next one.
    """

    def __init__(self, client: redis.Redis | None) -> None:
        self._client = client
        self._turn = threading.Lock()
        self._connection: Any = None
        self._unanswered: deque[str] = deque()
        self._heard: dict[str, int] = {}
        self._quiet_until = 0.0

    @classmethod
    def open(cls, broker_url: str) -> Caller:
        """Open for a broker; one that is not Redis has no calls, and nobody hears them. Connects with the first call."""
        return cls(client_of(broker_url))

    def heard_by(self, whom: str) -> int | None:
        """How many heard the last call to `whom` of which that is known; None where nothing is."""
        return self._heard.get(whom)

    def is_heard(self, whom: str) -> bool:
        """Did somebody hear the last call to `whom` of which that is known?"""
        return bool(self._heard.get(whom))

    def call(self, whom: str, hints: bytes = b"") -> bool:
        """Call those who listen as `whom`; True when somebody heard. Connects if it must. Never raises."""
        with self._turn:
            if self._client is None or time.monotonic() < self._quiet_until:
                self._heard[whom] = 0
                return False
            try:
                if self._connection is None:
                    self._connection = connect(self._client)
                self._send(whom, hints)
                while self._unanswered:
                    self._read_answer()
            except (redis.RedisError, OSError) as error:
                self._hang_up(error)
            return self.is_heard(whom)

    def call_at_once(self, whom: str, hints: bytes = b"") -> bool:
        """Call without waiting for anything; False where that cannot be done, and `call` has to. Never raises."""
        if not self._turn.acquire(blocking=False):
            return False
        try:
            if self._connection is None:
                return False
            while self._unanswered and self._connection.can_read(timeout=0):
                self._read_answer()
            if len(self._unanswered) >= UNANSWERED:
                return False
            self._send(whom, hints)
        except (redis.RedisError, OSError) as error:
            self._hang_up(error)
            return False
        finally:
            self._turn.release()
        return True

    def close(self) -> None:
        """Give the connection back."""
        with self._turn:
            if self._connection is not None:
                self._connection.disconnect()
                self._connection = None

    def _send(self, whom: str, hints: bytes) -> None:
        self._connection.send_command("PUBLISH", channel(whom), hints, check_health=False)
        self._unanswered.append(whom)

    def _read_answer(self) -> None:
        answer = self._connection.read_response()
        if len(self._heard) >= KNOWN_MAX:  # each worker that ever was has a name of its own
            self._heard.clear()
        self._heard[self._unanswered.popleft()] = int(answer)

    def _hang_up(self, error: Exception) -> None:
        self._quiet_until = time.monotonic() + REST
        self._unanswered.clear()
        self._heard.clear()
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None
        log.debug("call.unsaid", error=str(error))


class Listener:
    """One process's ear: hears the calls to those that it answers for."""

    def __init__(self, client: redis.Redis | None) -> None:
        self._client = client
        self._closed = threading.Event()

    @classmethod
    def open(cls, broker_url: str) -> Listener:
        """Open for a broker; one that is not Redis has no calls to be heard."""
        return cls(client_of(broker_url))

    def listen(self, heard: Mapping[str, Heard]) -> None:
        """Tell each of `heard` of the calls to its name, from a thread that all share, until `close`."""
        if self._client is not None:
            threading.Thread(target=self._listen, args=(heard,), name="calls", daemon=True).start()

    def close(self) -> None:
        """Stop listening, within five seconds; what is called until then is heard still."""
        self._closed.set()

    def _listen(self, heard: Mapping[str, Heard]) -> None:
        while not self._closed.is_set():
            try:
                self._hear({channel(whom): tell for whom, tell in heard.items()})
            except (redis.RedisError, OSError, ValueError) as error:
                log.debug("calls.unheard", error=str(error))
                self._closed.wait(REST)

    def _hear(self, heard: Mapping[str, Heard]) -> None:
        assert self._client is not None  # noqa: S101 - only a client listens
        connection = connect(self._client)
        try:
            subscribe(connection, list(heard))
            for tell in heard.values():
                tell([])  # what was called before we listened
            while not self._closed.is_set():
                calls: dict[str, list[bytes]] = {}
                is_any = connection.can_read(timeout=HEARING)
                while is_any:  # all that is there: who hears is told once
                    kind, name, said = connection.read_response()
                    if kind == b"message":
                        calls.setdefault(name.decode(), []).append(said)
                    is_any = connection.can_read(timeout=0)
                for name, hints in calls.items():
                    heard[name](hints)
        finally:
            connection.disconnect()


def channel(whom: str) -> str:
    """Where the calls to a queue's workers go, or to one of them."""
    return f"signalbox:call:{whom}"


def connect(client: redis.Redis) -> Any:
    """A connection that only its caller uses. Raises what redis raises."""
    connection = client.connection_pool.make_connection()
    connection.connect()  # type: ignore[no-untyped-call]
    return connection


def subscribe(connection: Any, names: Sequence[str]) -> None:
    """Have a connection hear channels. Raises what redis raises."""
    connection.send_command("SUBSCRIBE", *names)
    for _ in names:
        connection.read_response()


def client_of(broker_url: str, *, patience: float = 2.0) -> redis.Redis | None:
    """The client of a broker, which waits for it for up to `patience` seconds; None for one that is not Redis, and has no calls."""
    if not is_redis(broker_url):
        return None
    # With the newer protocol the client writes each message that comes as text into a log that nobody reads.
    return redis.Redis.from_url(
        broker_url, protocol=2, socket_connect_timeout=min(patience, 1.0), socket_timeout=patience
    )
