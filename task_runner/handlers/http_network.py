"""One HTTP/1.1 exchange over one connection to a checked address, and never longer than its deadline.

A name is resolved once for each connection, every address is checked, and the socket is connected to one of exactly
these: what a name server says a moment later changes nothing. TLS still verifies the name. There is no pool, no cookie
jar and no environment: whatever one task's exchange leaves behind, no other task meets.

Sockets do not block. Each operation waits in short slices for the deadline and for `is_cancelled`, so that a server which
sends a byte a second gains nothing by it. Messages are parsed by h11, through httpcore2.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import httpcore2
import httpx2

from task_runner.handlers.http_guard import Network, Resolve, check_address, resolve_name, resolve_within
from task_runner.handlers.http_proxy import MAX_ANSWER_BYTES, Proxy, refusal

MAX_HEAD_BYTES = 64_000
"""Of an answer: status line and headers, interim answers included."""
SLICE_SECONDS = 0.2
CONNECT_SECONDS = 5.0
"""How long an address may be silent before the next one of the same name is tried."""

# At level DEBUG it logs the headers of answers, Set-Cookie among them.
logging.getLogger("httpcore2").setLevel(logging.WARNING)

T = TypeVar("T")


class Overdue(Exception):
    """The time for the whole task is over. `during` says what was waited for."""

    def __init__(self, during: str) -> None:
        super().__init__(during)
        self.during = during


class Cancelled(Exception):
    """Nobody waits for the answer any more."""


class HeadTooLarge(Exception):
    """The headers of an answer are larger than `MAX_HEAD_BYTES`."""


class Unreachable(Exception):
    """No connection: the name leads nowhere, or nobody takes the connection there. Its text is safe to show."""


class Untrusted(Exception):
    """The certificate does not prove the name. Its text is safe to show."""


class Broken(Exception):
    """The connection broke, or what came over it is not HTTP. Its text is safe to show."""


class Deadline:
    """A budget of time for a whole task, with all its connections."""

    def __init__(self, seconds: float, is_cancelled: Callable[[], bool]) -> None:
        self._ends = time.monotonic() + seconds
        self._is_cancelled = is_cancelled

    def slice(self, during: str) -> float:
        """Seconds to wait before asking again. Raises `Overdue` or `Cancelled`."""
        if self._is_cancelled():
            raise Cancelled
        left = self._ends - time.monotonic()
        if left <= 0:
            raise Overdue(during)
        return min(left, SLICE_SECONDS)

    def at_most(self, seconds: float) -> Deadline:
        """A budget for a part: `seconds` from now, and not longer than the whole."""
        return Deadline(min(seconds, self._ends - time.monotonic()), self._is_cancelled)

    def wait_for(self, done: threading.Event, during: str) -> None:
        """Wait for an event of another thread. Raises `Overdue` or `Cancelled`."""
        while not done.wait(self.slice(during)):
            pass


@dataclass(frozen=True, slots=True)
class Egress:
    """How this process reaches the world: the networks it may enter beyond the public ones, how names are found.

    And whom it trusts for TLS, and the proxy that all connections are tunnelled through, where there is one.
    """

    allow: tuple[Network, ...]
    resolve: Resolve
    tls: Callable[[], ssl.SSLContext]
    proxy: Proxy | None = None


@cache
def trust_of_the_system() -> ssl.SSLContext:
    """Certificates are verified by the system's authorities, or those in `SSL_CERT_FILE`. Made once: it reads them all."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


@contextmanager
def exchange(request: httpx2.Request, egress: Egress, deadline: Deadline) -> Iterator[httpx2.Response]:
    """Send a request, and yield the answer with its body unread and undecoded (`iter_raw`); then close the connection.

    Raises `Refused` for an address that may not be reached, and the exceptions of this module, also while the body is read.
    """
    url = httpcore2.URL(
        scheme=request.url.raw_scheme,
        host=request.url.raw_host,
        port=request.url.port,
        target=request.url.raw_path,
    )
    stream = _connect(url, egress, deadline)
    try:
        connection = httpcore2.HTTP11Connection(origin=url.origin, stream=stream)
        asked = httpcore2.Request(request.method, url, headers=request.headers.raw, content=request.read())
        with _broken_as_ours(stream):
            answer = connection.handle_request(asked)
        stream.end_head()
        yield httpx2.Response(answer.status, headers=answer.headers, stream=_Body(answer.stream, stream))
    finally:
        stream.close()


class _Body(httpx2.SyncByteStream):
    def __init__(self, parts: Any, stream: _Stream) -> None:
        self._parts = parts
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        with _broken_as_ours(self._stream):
            yield from self._parts


class _Stream(httpcore2.NetworkStream):
    """A non-blocking socket under a deadline. The `timeout` arguments of httpcore2 are for single operations: unused."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock = sock
        self._deadline = deadline
        self._head_left: int | None = MAX_HEAD_BYTES
        self.was_answered = False

    def end_head(self) -> None:
        """From here on bytes are the body's, whose reader counts them."""
        self._head_left = None

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        if self._head_left is None:
            return self._receive(max_bytes, "the body")
        # A read may bring some of the body along, so it is not refused for its size but for coming after the budget was spent; and
        # none goes beyond that, since the parser has a limit of its own and calls what is longer broken.
        if self._head_left <= 0:
            raise HeadTooLarge
        data = self._receive(min(max_bytes, self._head_left), "the answer")
        self._head_left -= len(data)
        return data

    def _receive(self, at_most: int, during: str) -> bytes:
        data = _patiently(self._sock, self._deadline, during, lambda: self._sock.recv(at_most))
        self.was_answered = self.was_answered or bool(data)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        view = memoryview(buffer)
        while view:
            view = view[self._send(view) :]

    def _send(self, view: memoryview) -> int:
        try:
            return _patiently(self._sock, self._deadline, "sending", lambda: self._sock.send(view))
        except OSError as error:
            # httpcore2 goes on to read then: a server may refuse a request before it has taken all of it.
            raise httpcore2.WriteError(_reason(error)) from None

    def close(self) -> None:
        self._sock.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore2.NetworkStream:
        try:
            secured = ssl_context.wrap_socket(
                self._sock, server_hostname=server_hostname, do_handshake_on_connect=False
            )
            self._sock = secured
            _patiently(secured, self._deadline, "the TLS handshake", secured.do_handshake)
        except ssl.SSLCertVerificationError as error:
            raise Untrusted(f"the certificate is not accepted: {error.verify_message}") from None
        return self


def _connect(url: httpcore2.URL, egress: Egress, deadline: Deadline) -> _Stream:
    """Resolve, check every address, connect to one of them, and make it secure where the scheme says so."""
    host, port = url.host.decode("ascii"), url.origin.port
    addresses = _resolved(host, port, egress.resolve, deadline)
    # All of them, before the first is tried: a name that leads inwards as well is not to be trusted at all.
    for address in addresses:
        check_address(address, egress.allow)
    try:
        if egress.proxy is None:
            sock = _dial_any(addresses, port, deadline)
        else:
            sock = _tunnel(egress.proxy, addresses[0], port, deadline)
    except OSError as error:
        raise Unreachable(f'no connection to "{host}" port {port}: {_reason(error)}') from None
    stream = _Stream(sock, deadline)
    try:
        if url.scheme == b"https":
            stream.start_tls(egress.tls(), server_hostname=host)
    except OSError as error:
        stream.close()
        raise Unreachable(f'no TLS with "{host}": {_reason(error)}') from None
    except BaseException:
        stream.close()
        raise
    return stream


def _resolved(host: str, port: int, resolve: Resolve, deadline: Deadline) -> Sequence[str]:
    try:
        found = resolve_within(resolve, host, port, lambda done: deadline.wait_for(done, "the name server"))
    except (OSError, UnicodeError) as error:
        raise Unreachable(f'the name "{host}" cannot be resolved: {_reason(error)}') from None
    if not found:
        raise Unreachable(f'the name "{host}" has no address')
    return found


def _tunnel(proxy: Proxy, address: str, port: int, deadline: Deadline) -> socket.socket:
    """A socket to an address by way of the proxy, whose own address is not checked. Raises `OSError`, `Unreachable`."""
    sock = _dial_any(_resolved(proxy.host, proxy.port, resolve_name, deadline), proxy.port, deadline)
    try:
        refused = refusal(_asked(_Stream(sock, deadline), proxy.asked_for(address, port)))
        if refused is not None:
            raise Unreachable(refused)
    except httpcore2.WriteError:
        sock.close()
        raise Unreachable("the proxy does not take the request") from None
    except BaseException:
        sock.close()
        raise
    return sock


def _asked(stream: _Stream, request: bytes) -> bytes:
    """The proxy's answer up to an empty line, or to where it ends or becomes too long."""
    stream.write(request)
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < MAX_ANSWER_BYTES:
        part = stream.read(MAX_ANSWER_BYTES)
        if not part:
            break
        answer += part
    return answer


def _dial_any(addresses: Sequence[str], port: int, deadline: Deadline) -> socket.socket:
    """Connect to the first address that answers, of one or more. Raises the last one's `OSError`."""
    for address in addresses[:-1]:
        with suppress(OSError, Overdue):
            return _dial(address, port, deadline.at_most(CONNECT_SECONDS))
    return _dial(addresses[-1], port, deadline)


def _dial(address: str, port: int, deadline: Deadline) -> socket.socket:
    """Connect to an address, which is not resolved again: it is numeric, and the flag says so. Raises `OSError`."""
    found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    family, kind, protocol, _, place = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sock.connect(place)
        except BlockingIOError:
            _wait(sock, select.POLLOUT, deadline, "the connection")
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number))
    except BaseException:
        sock.close()
        raise
    return sock


def _patiently(sock: socket.socket, deadline: Deadline, during: str, operation: Callable[[], T]) -> T:
    """Do something with a socket that does not block, as soon as it can be done."""
    while True:
        deadline.slice(during)  # also where data always waits: an endless body must end
        try:
            return operation()
        except ssl.SSLWantWriteError:
            _wait(sock, select.POLLOUT, deadline, during)
        except ssl.SSLWantReadError:
            _wait(sock, select.POLLIN, deadline, during)
        except BlockingIOError:
            _wait(sock, select.POLLOUT if during == "sending" else select.POLLIN, deadline, during)


def _wait(sock: socket.socket, events: int, deadline: Deadline, during: str) -> None:
    ready = select.poll()  # select() takes no descriptor beyond 1,023
    ready.register(sock, events)
    while not ready.poll(deadline.slice(during) * 1_000):
        pass


@contextmanager
def _broken_as_ours(stream: _Stream) -> Iterator[None]:
    """What goes wrong on the wire, in words of ours: the library's quote the bytes that they choke on."""
    try:
        yield
    except httpcore2.RemoteProtocolError:
        if not stream.was_answered:
            raise Broken("the server closed the connection without an answer") from None
        raise Broken(
            "what the server sent is not a whole HTTP answer: its status line, its headers or its length is wrong"
        ) from None
    except httpcore2.LocalProtocolError:
        raise Broken("the request cannot be written as HTTP") from None
    except ssl.SSLError as error:
        raise Broken(f"the TLS connection broke: {error.reason}") from None
    except OSError as error:
        raise Broken(f"the connection broke: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    match error:
        case ssl.SSLError():
            return str(error.reason or type(error).__name__)
        case OSError(strerror=str() as reason):
            return reason
        case _:
            return type(error).__name__
