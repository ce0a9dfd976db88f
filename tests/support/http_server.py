"""A hostile HTTP server of the tests' own: real sockets, one thread a connection, each answer written byte by byte."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Server:
    """Answers each connection by `answer`, which is given the socket and the request's head and body."""

    port: int
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0

    def url(self, path: str = "/", host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"


Answer = Callable[[socket.socket, bytes], None]


def fixed(*raw: bytes) -> Answer:
    """An answer that is the same bytes to every request, or the next of several to each."""
    left = list(raw)

    def answer(connection: socket.socket, _request: bytes) -> None:
        connection.sendall(left.pop(0) if len(left) > 1 else left[0])

    return answer


def ok(body: bytes = b"", *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


@contextmanager
def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Serve on a free port of loopback until the block ends; connections that are open then are cut."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(listener.getsockname()[1])
    threads: list[threading.Thread] = []
    taken = _Taken()

    def serve(raw: socket.socket) -> None:
        # A client that goes away, or trusts no certificate, is what these tests are about.
        with suppress(OSError), closing(tls.wrap_socket(raw, server_side=True) if tls else raw) as connection:
            taken.add(connection)
            request = _request(connection)
            server.requests.append(request)
            answer(connection, request)

    def accept() -> None:
        with suppress(OSError):
            while True:
                raw, _ = listener.accept()
                server.connections += 1
                taken.add(raw)
                threads.append(threading.Thread(target=serve, args=(raw,), daemon=True))
                threads[-1].start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield server
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        taken.cut()
        for thread in (acceptor, *threads):
            thread.join(5)
            assert not thread.is_alive()


class _Taken:
    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def add(self, taken: socket.socket) -> None:
        self._sockets.append(taken)

    def cut(self) -> None:
        """Wake who waits on a connection; it is closed by the thread that serves it, which may be about to wait on it again."""
        for taken in self._sockets:
            with suppress(OSError):
                taken.shutdown(socket.SHUT_RDWR)


def _request(connection: socket.socket) -> bytes:
    """A request's head and its body of the length that it names."""
    raw = b""
    while b"\r\n\r\n" not in raw:
        raw += _more(connection)
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = [line.lower() for line in head.split(b"\r\n")]
    length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
    while len(body) < length:
        body += _more(connection)
    return head + b"\r\n\r\n" + body


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(65_536)
    if not data:
        raise ConnectionResetError("the client is gone")
    return data
