"""Connections that no thread serves: looked at until their head is there, or their time is over."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from api import unserved
from api.unserved import Head, Watch
from tests.support.waiting import wait_until

HALF = b"GET / HTTP/1.1\r\nHost: x\r\n"


class Connection:
    """As gunicorn has it."""

    initialized = False

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock


class Connections:
    """Pairs of sockets, and what became of those that are served."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.watch = Watch()
        self.gone_on: list[Any] = []
        self.given_up: list[Any] = []

    def open(self, said: bytes) -> tuple[Any, socket.socket]:
        ours, theirs = (self._stack.enter_context(one) for one in socket.socketpair())
        ours.setblocking(False)
        theirs.sendall(said)
        return Connection(ours), theirs

    def slow(self, said: bytes = HALF) -> tuple[Any, socket.socket]:
        conn, theirs = self.open(said)
        self.watch.head(conn, self.gone_on.append, self.given_up.append)
        return conn, theirs


@pytest.fixture
def connections() -> Iterator[Connections]:
    with ExitStack() as stack:
        yield Connections(stack)


def test_one_goes_on_once_its_head_is_there(connections: Connections) -> None:
    conn, theirs = connections.slow()
    other, _ = connections.slow()
    theirs.sendall(b"\r\n")

    wait_until(lambda: connections.gone_on == [conn], what="the head")
    assert connections.given_up == []
    assert conn.sock.recv(100) == HALF + b"\r\n", "nothing of it is lost"
    assert unserved.head_of(other) is Head.BEGUN


def test_one_that_closes_goes_on_and_one_that_takes_too_long_is_given_up(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unserved, "HEAD_SECONDS", 0.1)
    closing, theirs = connections.slow(b"")
    theirs.close()
    slow, _ = connections.slow()

    wait_until(lambda: connections.given_up == [slow], what="the end of its time")
    assert connections.gone_on == [closing], "whoever reads it is told that it has ended"


def test_where_too_many_are_slow_who_has_been_longest_has_to_go(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unserved, "MOST", 3)
    conns = [connections.slow()[0] for _ in range(5)]

    assert connections.given_up == conns[:2]


def test_one_with_which_something_goes_wrong_disturbs_no_other(connections: Connections) -> None:
    broken, theirs = connections.open(HALF)

    def fail(_conn: Any) -> None:
        raise RuntimeError("no thread can be started")

    connections.watch.head(broken, fail, connections.given_up.append)
    theirs.sendall(b"\r\n")
    good, others = connections.slow()
    others.sendall(b"\r\n")

    wait_until(lambda: connections.gone_on == [good], what="the other one")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (HALF, Head.BEGUN),
        (HALF + b"\r\n", Head.READABLE),
        (HALF + b"X: " + b"y" * 20_000, Head.BEGUN),
        (HALF + b"X: " + b"y" * 20_000 + b"\r\n\r\n", Head.READABLE),
        (HALF + b"X: " + b"y" * 40_000, Head.TOO_LARGE),
        (b"\x16\x03\x01\x02\x00\x01", Head.TLS),
        (b"GET /" + b"y" * 40_000, Head.READABLE),  # to be told that its first line is too long
    ],
)
def test_how_a_head_stands(connections: Connections, said: bytes, expected: Head) -> None:
    conn, _ = connections.open(said)

    assert unserved.head_of(conn) is expected


def test_of_nothing_nobody_knows(connections: Connections) -> None:
    assert unserved.head_of(connections.open(b"")[0]) is None
