"""gunicorn's threads, with fewer ways between them, and an end that leaves nobody in a queue.

A request of ours takes some hundred microseconds, so what a server does around it counts. gunicorn's thread hands a connection
that it has answered back to the main thread through a pipe, and that one waits for the next request on it; here the thread
puts it where the main thread waits already. An answer goes out in one piece, head and body.
"""

from __future__ import annotations

import errno
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

import structlog
from gunicorn.http import wsgi
from gunicorn.http.errors import InvalidRequestLine, LimitRequestHeaders, ParseException
from gunicorn.workers.gthread import _DEFER, STOP_KEEPALIVE_LINGER, ThreadWorker

from api.answering import harden, refuse
from api.problems import unread
from api.unserved import HEAD_SECONDS, Head, Watch, head_of, is_closed, starts_with
from common.randomness import random_bytes

UNREAD_SECONDS = 1.0
"""How long a thread stays with a sender whose request could not be read."""
_PATIENCE = struct.pack("@ll", int(HEAD_SECONDS), 0)
"""As the kernel wants it: how long a thread waits for the next piece of a request."""
HEALTH = b"GET /health/"
UNREAD: Mapping[Head | None, ParseException] = {
    Head.TOO_LARGE: LimitRequestHeaders("more bytes than a head may have"),
    Head.TLS: InvalidRequestLine("the beginning of TLS"),
}
"""Heads that no thread reads, and what their senders are told."""
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
FULL_SECONDS = 1.0
SPARE = 4
"""Threads beside all others, for whoever asks how this process is: when all are taken it is busy, and not dead."""
log = structlog.get_logger("signalbox.api")


class Worker(ThreadWorker):  # type: ignore[misc]
    """What serves.

    gunicorn stops accepting at once but holds the socket until the last connection is over. For these seconds the kernel
    would go on to complete connections, only to reset them in the end: a caller, or the proxy before us, has sent its
    request by then and cannot know what became of it. So what has connected is served, and what comes later is refused,
    which is safe to try elsewhere, or is the successor's where the socket is shared.
    """

    def init_process(self) -> None:
        self._watch = Watch()
        self._full_until = 0.0
        super().init_process()

    def get_thread_pool(self) -> Threads:
        return Threads(self.cfg.threads)

    def enqueue_req(self, conn: Any) -> None:
        """In the main thread: have a connection served whose request has come, and else wait without a thread."""
        if not conn.initialized:
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _PATIENCE)
        conn.sock.setblocking(False)
        head = head_of(conn)
        if head is Head.BEGUN:
            self._watch.head(conn, self._go_on, self._give_up)
        elif head is not None:
            self._submit(conn, head)
        elif self.alive:
            self.finish_request(conn, _Done(_DEFER))
        else:  # it has connected, so that its caller cannot know whether it is served: a thread waits for it
            self.tpool.submit(partial(self._serve, conn))

    def _go_on(self, conn: Any) -> None:
        self._submit(conn, head_of(conn))

    def _submit(self, conn: Any, head: Head | None) -> None:
        conn.data_ready = True
        if head in UNREAD:
            self.tpool.submit(partial(self._refuse, conn, UNREAD[head]))
        else:
            self.tpool.submit(partial(self._serve, conn), is_urgent=starts_with(conn, HEALTH))

    def _give_up(self, conn: Any) -> None:
        is_closed(conn)  # it reads away what came, for which the kernel would reset the connection
        self._let_go(conn)

    def _let_go(self, conn: Any) -> None:
        self.method_queue.defer(self._drop, conn)

    def _drop(self, conn: Any) -> None:
        self.nr_conns -= 1
        conn.close()

    def accept(self, listener: Any) -> None:
        """Accept a connection. Where this process has no descriptor left for it, newcomers wait a second in the kernel's queue, and nobody is ended for them."""
        try:
            super().accept(listener)
        except OSError as error:
            if error.errno not in _NO_DESCRIPTOR:
                raise
            log.warning(
                "connections.waiting",
                error=error.strerror,
                connections=self.nr_conns,
                rest_seconds=FULL_SECONDS,
            )
            self._full_until = time.monotonic() + FULL_SECONDS
            if self.alive:
                super().set_accept_enabled(False)
            return
        if self.alive and self.nr_conns >= self.worker_connections:
            self._make_room()

    def _make_room(self) -> None:
        """In the main thread: end the connection that has been silent for longest, as 30 s of silence would, so that silence keeps no newcomer out.

        Who has never said anything goes first. Of those that were answered before, threads may just be adding one, so the last few stay.
        """
        for waiting, kept in ((self.pending_conns, 0), (self.keepalived_conns, self.cfg.threads)):
            oldest = tuple(waiting)[: max(len(waiting) - kept, 0)]
            silent = next((conn for conn in oldest if head_of(conn) is None), None)
            if silent is not None:
                waiting.remove(silent)
                self.poller.unregister(silent.sock)
                self._drop(silent)
                return

    def on_pending_socket_readable(self, conn: Any, client: Any) -> None:
        if not _was_let_go(client):
            super().on_pending_socket_readable(conn, client)

    def on_client_socket_readable(self, conn: Any, client: Any) -> None:
        if not _was_let_go(client):
            super().on_client_socket_readable(conn, client)

    def set_accept_enabled(self, enabled: bool) -> None:
        if enabled and time.monotonic() < self._full_until:
            return
        super().set_accept_enabled(enabled)
        if enabled or self.alive:
            return
        for listener in self.sockets:
            listener.setblocking(False)
            before = -1
            while before < self.nr_conns < self.worker_connections:
                before = self.nr_conns
                self.accept(listener)
            listener.close()

    # -- in a thread that serves ----------------------------------------------------------------------------------

    def _serve(self, conn: Any) -> None:
        result: Any = False
        try:
            result = self.handle(conn)
        except BaseException:  # a thread outlives whatever it has called, as those of an executor do
            self.log.exception("Error handling request")
        if result is False:
            self._end(conn)
        elif not (result is True and self.alive and self._await_next(conn)):
            self.method_queue.defer(self.finish_request, conn, _Done(result))

    def _refuse(self, conn: Any, why: ParseException) -> None:
        """Refuse a head unread: reading it to its end could take a thread as long as its sender likes."""
        self.handle_error(None, conn.sock, conn.client, why)
        self._end(conn)

    def _end(self, conn: Any) -> None:
        """End a connection whose last answer is on its way: closing it while the other side sends would lose that."""
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            conn.sock.setblocking(False)
        except OSError:  # it has gone
            self._let_go(conn)
            return
        if is_closed(conn):
            self._let_go(conn)
        else:
            self._watch.close(conn, self._let_go)

    def _await_next(self, conn: Any) -> bool:
        """Leave a connection to the main thread, which is waiting on this poller and need not be woken for it.

        False where that cannot be: its next request has been read already, or it is broken.
        """
        if conn.parser.unreader.buf.getvalue():
            return False
        conn.set_timeout()
        # First into the list: once it is registered, the main thread may take it out again.
        self.keepalived_conns.append(conn)
        try:
            self.poller.register(
                conn.sock, selectors.EVENT_READ, partial(self.on_client_socket_readable, conn)
            )
        except (OSError, ValueError, KeyError):
            self.keepalived_conns.remove(conn)
            return False
        if not self.alive:  # it has begun to end meanwhile, and may have looked through the list already
            conn.timeout = min(conn.timeout, time.monotonic() + STOP_KEEPALIVE_LINGER)
        return True

    def _cap_keepalive(self, deadline: float) -> None:
        self._watch.end_by(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)
        for conn in tuple(self.keepalived_conns):  # threads may still add to it
            conn.timeout = min(conn.timeout, deadline)

    def handle_request(self, req: Any, conn: Any) -> bool:
        """Answer one request; True when the connection may be used for another one."""
        response, environ = wsgi.create(
            req, conn.sock, conn.client, conn.server, self.cfg, response_class=_Response
        )
        environ["wsgi.multithread"] = True
        if not self.alive or len(self.keepalived_conns) >= self.max_keepalived:
            response.force_close()
        try:
            pieces = self.wsgi(environ, response.start_response)
            try:
                for piece in pieces:
                    response.write(piece)
                response.close()
            finally:
                if hasattr(pieces, "close"):
                    pieces.close()
        except OSError:
            raise
        except Exception:
            if response.headers_sent:
                # Whatever gunicorn would answer to an error would stand in the middle of this answer.
                self.log.exception("Error handling request")
                raise StopIteration from None
            raise
        return not response.should_close()

    def handle_error(self, req: Any, client: Any, _addr: Any, exc: BaseException) -> None:
        """Answer what never reached the application, or left it, as the application answers: a problem, and a line in the log."""
        structlog.contextvars.clear_contextvars()  # of the request before, in this thread
        trace_id = random_bytes(16).hex()
        about = {"method": None if req is None else req.method, "path": "", "trace_id": trace_id}
        problem = unread(exc, trace_id=trace_id)
        answer = harden(refuse(problem, cause=exc, about=about), trace_id=trace_id)
        lines = [f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in answer.headers]
        try:
            client.settimeout(UNREAD_SECONDS)
            client.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + answer.get_data())
            client.shutdown(socket.SHUT_WR)
            _read_away(client)
        except OSError as error:  # it has gone, or does not listen
            self.log.debug("a refusal was not taken: %s", type(error).__name__)

    def _keepalive_after(self, conn: Any, keepalive: bool) -> bool:
        if keepalive and _is_read(conn.parser.mesg.body):
            return True
        return bool(super()._keepalive_after(conn, keepalive))


def _was_let_go(client: Any) -> bool:
    """Whether a connection of which the poller has told was closed since, by what it told of before it."""
    return bool(client.fileno() < 0)


def _read_away(client: Any) -> None:
    """Take what a refused sender still sends, for a moment: closing on it would reset the connection, and it would lose the answer."""
    deadline = time.monotonic() + UNREAD_SECONDS
    while time.monotonic() < deadline and client.recv(65_536):
        pass


def _is_read(body: Any) -> bool:
    """Whether a body of known length has been read to its end, as almost every one has."""
    return getattr(body.reader, "length", None) == 0 and not body.failed and not body.buf.tell()


class _Done:
    """How a request ended, in the form of a future, which is what gunicorn's main thread takes."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def cancelled(self) -> bool:
        return False

    def result(self) -> Any:
        return self._result


class _Response(wsgi.Response):  # type: ignore[misc]
    """Sends head and body together where the body comes in one piece: one packet, and one system call."""

    def write(self, arg: bytes) -> None:
        if self.headers_sent or self.chunked or self._omits_body or len(arg) != self.response_length:
            super().write(arg)
            return
        lines = self.default_headers()
        lines.extend([f"{name}: {value}\r\n" for name, value in self.headers])
        lines.append("\r\n")
        self.headers_sent: bool = True
        self.sent = len(arg)
        self.sock.sendall("".join(lines).encode("latin-1") + arg)


class Threads:
    """Threads that call what is submitted, at most `most` at once, and a few urgent calls beside them.

    Who became free last is taken first, so that no more threads are in use than there is work for: each that wakes competes
    for the interpreter, and finds its stack out of the processor's caches.
    """

    def __init__(self, most: int) -> None:
        self._most = {False: most, True: SPARE}
        self._turn = threading.Lock()
        self._under_way = {False: 0, True: 0}
        self._free: list[_Thread] = []
        self._waiting: dict[bool, deque[Call]] = {False: deque(), True: deque()}
        self._is_over = False

    def submit(self, call: Call, *, is_urgent: bool = False) -> None:
        """Call it in a thread, now or as soon as one becomes free."""
        with self._turn:
            if self._under_way[is_urgent] >= self._most[is_urgent]:
                self._waiting[is_urgent].append(call)
                return
            self._under_way[is_urgent] += 1
            thread = self._free.pop() if self._free else None
        if thread is None:
            _Thread(self._next, call, is_urgent).start()
        else:
            thread.wake(call, is_urgent)

    def shutdown(self, wait: bool = True) -> None:
        """Let threads end that have nothing to do, and the others when they have done it."""
        with self._turn:
            self._is_over = True
            free, self._free = self._free, []
        for thread in free:
            thread.wake(None)
            if wait:
                thread.join()

    def _next(self, thread: _Thread) -> None:
        """Give a thread that has done its call another one like it, or None to end; else it is free, and will be woken."""
        waiting = self._waiting[thread.is_urgent]
        with self._turn:
            if not waiting:
                self._under_way[thread.is_urgent] -= 1
                if not self._is_over:
                    self._free.append(thread)
                    return
            call = waiting.popleft() if waiting else None
        thread.wake(call, thread.is_urgent)


Call = Callable[[], None]


class _Thread(threading.Thread):
    def __init__(self, ask: Callable[[_Thread], None], call: Call, is_urgent: bool) -> None:
        super().__init__(name="serve", daemon=True)
        self._ask = ask
        self._call: Call | None = call
        self.is_urgent = is_urgent
        self._bell = threading.Lock()
        self._bell.acquire()

    def wake(self, call: Call | None, is_urgent: bool = False) -> None:
        self._call = call
        self.is_urgent = is_urgent
        self._bell.release()

    def run(self) -> None:
        while self._call is not None:
            self._call()
            self._ask(self)
            self._bell.acquire()
