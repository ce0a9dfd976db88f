"""A relay between the processes and their broker that can double or drop every Celery message on its way.

It stands on a port of its own, and passes on every byte between its callers and a real Valkey. Of what callers say it
understands whole commands, and only two kinds concern it: the `LPUSH` by which kombu puts a message into the list of a
queue, and the `PUBLISH` by which a bell is called. In mode `double` each message is put into the list once more, over a
connection of the relay's own; in mode `drop` the caller's command becomes another one with an answer of the same kind, so
that it believes to be heard and nobody hears it.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

import redis

from common.queues.app import TASK_OF_QUEUE
from signalbox.ports import LOOPBACK

Mode = Literal["pass", "double", "drop"]
Command = tuple[bytes, ...]

_QUEUES = frozenset(queue.encode() for queue in TASK_OF_QUEUE)
_CALL = b"signalbox:call:"
_NOBODY = b"chaos:nobody"
_CHUNK = 65_536


@dataclass
class Relayed:
    """Messages that came through so far, by what became of them. Calls are bells that carry no message."""

    passed: int = 0
    doubled: int = 0
    dropped: int = 0
    dropped_calls: int = 0


class Relay:
    """A listening relay in front of the Redis or Valkey at `port`; `mode` may change at any time."""

    def __init__(self, port: int) -> None:
        self.mode: Mode = "pass"
        self.counts = Relayed()
        self._upstream = (LOOPBACK, port)
        self._copies = redis.Redis(host=LOOPBACK, port=port, socket_timeout=2, socket_connect_timeout=1)
        self._turn = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server((LOOPBACK, 0))
        self._ending = False
        self._thread = threading.Thread(target=self._accept, name="relay", daemon=True)

    @property
    def url(self) -> str:
        """What the processes are told as their broker."""
        return f"redis://{LOOPBACK}:{self._listener.getsockname()[1]}/0"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._turn:
            for each in list(self._open):
                _shut(each)
        self._thread.join(5)
        self._copies.close()

    def _accept(self) -> None:
        while not self._ending:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return  # closed: the end
            try:
                broker = socket.create_connection(self._upstream, timeout=1)
            except OSError:  # the broker is away, and so are we
                caller.close()
                continue
            broker.settimeout(None)
            with self._turn:
                self._open |= {caller, broker}
            for run in (self._ask, self._answer):
                threading.Thread(target=run, args=(caller, broker), name=run.__name__, daemon=True).start()

    def _answer(self, caller: socket.socket, broker: socket.socket) -> None:
        """Everything that the broker says goes to the caller as it is."""
        with suppress(OSError):
            while said := broker.recv(_CHUNK):
                caller.sendall(said)
        self._hang_up(caller, broker)

    def _ask(self, caller: socket.socket, broker: socket.socket) -> None:
        """What the caller says goes to the broker, command by command."""
        reader = CommandReader()
        with suppress(OSError):
            while said := caller.recv(_CHUNK):
                for command in reader.feed(said):
                    broker.sendall(encode(self._decide(command)))
        self._hang_up(caller, broker)

    def _decide(self, command: Command) -> Command:
        """What to pass on for a command; doubling puts the second copy first."""
        verb = command[0].upper()
        if verb == b"LPUSH" and command[1] in _QUEUES:
            return self._decide_message(command)
        if verb == b"PUBLISH" and command[1].startswith(_CALL) and self.mode == "drop":
            self.counts.dropped_calls += 1
            return (b"PUBLISH", _NOBODY, *command[2:])
        return command

    def _decide_message(self, command: Command) -> Command:
        match self.mode:
            case "drop":
                self.counts.dropped += 1
                return (b"LLEN", command[1])
            case "double":
                with suppress(redis.RedisError):  # the broker is away: then the first copy is lost as well
                    self._copies.lpush(command[1], *command[2:])
                    self.counts.doubled += 1
            case "pass":
                self.counts.passed += 1
        return command

    def _hang_up(self, *ends: socket.socket) -> None:
        for end in ends:
            _shut(end)
            with self._turn:
                self._open.discard(end)
            end.close()


@dataclass
class CommandReader:
    """Cuts a stream of bytes into commands, as RESP writes them: arrays of bulk strings."""

    _rest: bytearray = field(default_factory=bytearray)

    def feed(self, said: bytes) -> Iterator[Command]:
        """Take what came in; give the commands that are complete now.

        Raises `ValueError` for anything that no Redis client says.
        """
        self._rest += said
        while (found := self._parse()) is not None:
            command, end = found
            del self._rest[:end]
            yield command

    def _parse(self) -> tuple[Command, int] | None:
        head = self._number(b"*", 0)
        if head is None:
            return None
        count, at = head
        parts = []
        for _ in range(count):
            length = self._number(b"$", at)
            if length is None or len(self._rest) < length[1] + length[0] + 2:
                return None
            size, at = length
            parts.append(bytes(self._rest[at : at + size]))
            at += size + 2
        return tuple(parts), at

    def _number(self, sign: bytes, at: int) -> tuple[int, int] | None:
        """The number behind `sign` at this place and where its line ends; None while the line is not complete."""
        end = self._rest.find(b"\r\n", at)
        if end < 0:
            return None
        line = bytes(self._rest[at:end])
        if line[:1] != sign:
            raise ValueError(f"relay: expected {sign!r} and a number, found {line[:40]!r}")
        return int(line[1:]), end + 2


def encode(command: Command) -> bytes:
    """A command as a client writes it."""
    parts = [b"*%d\r\n" % len(command)]
    parts += [b"$%d\r\n%b\r\n" % (len(part), part) for part in command]
    return b"".join(parts)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
