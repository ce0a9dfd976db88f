"""Connections that no thread serves: those whose request has begun and whose head comes slowly, and those that were answered and not closed yet.

A thread that reads a request reads its head to the end, and there are as many threads as requests that are served at once. Some dozen connections that
send half a head, for which nobody needs a key, would keep everybody else from the API for as long as they like. Who has been answered for the last
time is given a moment to close, lest the end of the answer be lost to him; in the main thread, where gunicorn does that, all would wait for it.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import structlog

HEAD_SECONDS = 10.0
"""How long a head may take from its first byte to its last. Most come in one piece."""
LINGER_SECONDS = 2.0
"""How long who was answered may take to close."""
MOST = 500
"""Connections that may be slow at once: where more are, who has been longest has to go."""
FIRST_LOOK = 0.005
LAST_LOOK = 0.5
_TLS = b"\x16\x03"
_LINE_END = b"\r\n"
_END = b"\r\n\r\n"
_PEEKED = 8_192
_LARGEST = 32_768
"""Bytes that a head may have. No more than that may fit into a socket, so that nobody could wait for the end of a larger one without a thread."""
_DRAINED = 65_536
log = structlog.get_logger("signalbox.api")


class Head(Enum):
    """How far the head of a request has come."""

    BEGUN = "begun"
    READABLE = "readable"
    """It is whole, or nothing more will come: whoever reads it waits for nothing."""
    TOO_LARGE = "too large"
    TLS = "TLS"
    """Somebody takes this port for one of HTTPS, and waits for an answer to what is no line and never ends as one."""


def head_of(conn: Any) -> Head | None:
    """How the head of a connection's next request stands; None where nothing of it has come.

    Nothing of it is lost. `conn.sock` does not block.
    """
    said = _said(conn, _PEEKED)
    if said is None:
        return None
    if len(said) >= _PEEKED and _END not in said:
        said = _said(conn, _LARGEST) or said
    if said.startswith(_TLS):
        return Head.TLS
    if not said or _END in said:
        return Head.READABLE
    if len(said) < _LARGEST:
        return Head.BEGUN
    # Of a line that does not end its reader has enough as well, and says what is wrong with it.
    return Head.TOO_LARGE if _LINE_END in said[:_PEEKED] else Head.READABLE


def is_decided(conn: Any) -> bool:
    """Whether it is known what to do with a connection whose request has begun."""
    return head_of(conn) not in (Head.BEGUN, None)


def starts_with(conn: Any, beginning: bytes) -> bool:
    """Whether what has come begins so."""
    said = _said(conn, len(beginning))
    return said is not None and said.startswith(beginning)


def _said(conn: Any, most: int) -> bytes | None:
    """What has come and was not served yet: what was read with the request before, and `most` bytes of what was not read; None where that is nothing."""
    before: bytes = conn.parser.unreader.buf.getvalue() if conn.initialized else b""
    try:
        return before + bytes(conn.sock.recv(most, socket.MSG_PEEK))
    except (BlockingIOError, InterruptedError, TimeoutError):
        return before or None
    except OSError:
        return b""  # it is broken: whoever reads it will be told


def is_closed(conn: Any) -> bool:
    """Whether the other side has closed; what it still sends is thrown away."""
    try:
        return not conn.sock.recv(_DRAINED)
    except (BlockingIOError, InterruptedError, TimeoutError):
        return False
    except OSError:
        return True


Use = Callable[[Any], None]


@dataclass(slots=True)
class _Watched:
    is_there: Callable[[Any], bool]
    go_on: Use
    give_up: Use
    until: float
    look_at: float
    pause: float = FIRST_LOOK


class Watch:
    """Looks at connections from a thread of its own, the rarer the longer they take. Their sockets must not block."""

    def __init__(self) -> None:
        self._watched: dict[Any, _Watched] = {}  # by connection, who has been longest first
        self._turn = threading.Condition()
        self._is_looking = False
        self._end = float("inf")

    def head(self, conn: Any, go_on: Use, give_up: Use) -> None:
        """Go on with a connection whose request has begun when its head is there, or too large; give it up after 10 s."""
        self._watch(conn, is_decided, go_on, give_up, HEAD_SECONDS)

    def close(self, conn: Any, drop: Use) -> None:
        """Drop a connection that was answered, once the other side has closed or 2 s are over."""
        self._watch(conn, is_closed, drop, drop, LINGER_SECONDS)

    def end_by(self, end: float) -> None:
        """Wait for nobody beyond this instant (of the monotonic clock)."""
        self._end = end

    def _watch(
        self, conn: Any, is_there: Callable[[Any], bool], go_on: Use, give_up: Use, seconds: float
    ) -> None:
        now = time.monotonic()
        left: tuple[Any, _Watched] | None = None
        with self._turn:
            if len(self._watched) >= MOST:
                longest = next(iter(self._watched))
                left = longest, self._watched.pop(longest)
            self._watched[conn] = _Watched(is_there, go_on, give_up, now + seconds, now + FIRST_LOOK)
            if not self._is_looking:
                self._is_looking = True
                threading.Thread(target=self._look, name="unserved", daemon=True).start()
            self._turn.notify()
        if left is not None:
            left[1].give_up(left[0])

    def _look(self) -> None:
        while True:
            with self._turn:
                while not self._watched:
                    self._turn.wait()
                now = time.monotonic()
                due = [conn for conn, watched in self._watched.items() if watched.look_at <= now]
            for conn in due:
                self._look_at(conn)
            time.sleep(FIRST_LOOK)

    def _look_at(self, conn: Any) -> None:
        with self._turn:
            watched = self._watched.get(conn)
        if watched is None:  # it had to go for another one
            return
        is_there, now = watched.is_there(conn), time.monotonic()
        with self._turn:
            if not is_there and now <= min(watched.until, self._end):
                watched.pause = min(2 * watched.pause, LAST_LOOK)
                watched.look_at = now + watched.pause
                return
            if self._watched.get(conn) is not watched:
                return
            del self._watched[conn]
        use = watched.go_on if is_there else watched.give_up
        try:
            use(conn)
        except Exception:  # all others are looked at by this thread, too
            log.exception("connection.lost")
