"""Processes beside an orchestrator that step instances when it has more to do than it can: one interpreter uses one core.

Theory of operation. Before the worker has a thread or a connection it forks a *nursery*: a process that does nothing but fork steppers,
and another one where one of them ends. A socket leads from the worker to all of them. Its first byte says that the worker has begun,
each further one that there is more than it can do, and wakes one stepper; its end says that the worker drains, and they drain too. Where
the worker is killed, Linux kills the nursery, and with it the steppers.

Forked processes share what was loaded, so that one takes a third of the memory of a worker. A stepper is registered as a worker of its own, and
whatever is promised of two orchestrators holds for both.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, Self

import structlog

from common.parent import die_with_parent

FIRST_REST = 1.0
"""Seconds after which a stepper that has ended is replaced, twice as many each time until one has lasted a minute."""
LONGEST_REST = 30.0
LASTED = 60.0
CALL = b"1"
log = structlog.get_logger("signalbox.steppers")


class Steppers:
    """The worker's end: calls them when there is much to do, and ends them."""

    def __init__(self, ours: socket.socket, nursery: int) -> None:
        self._ours = ours
        self._nursery = nursery
        self._are_there = True

    @classmethod
    def fork(cls, count: int, step_beside: Callable[[socket.socket], None]) -> Self:
        """Prepare `count` steppers, which begin with the first call; each runs `step_beside` on its end of the socket. Before any thread is started."""
        ours, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        gc.freeze()  # what is shared stays shared: a collection writes into all that it looks at
        worker = os.getpid()
        nursery = os.fork()
        if nursery == 0:
            _be(lambda: _Nursery(theirs, step_beside, count).go_on(), parent=worker, unused=ours)
        theirs.close()
        ours.setblocking(False)
        return cls(ours, nursery)

    def call(self) -> None:
        """There is more to do than this process can. Returns at once."""
        if not self._are_there:
            return
        try:
            self._ours.send(CALL)
        except BlockingIOError:  # called often enough
            pass
        except OSError as error:
            self._are_there = False
            log.warning(
                "steppers.gone", error=str(error), hint="start this orchestrator anew to have them back"
            )

    def begin_end(self) -> None:
        """Let them drain. Only tells them so: it is called in a signal handler."""
        self._are_there = False
        with suppress(OSError):  # they are gone
            self._ours.shutdown(socket.SHUT_WR)

    def end(self, *, wait: float) -> bool:
        """Wait until they have drained, at most so many seconds; False where one goes on: it is killed with this process."""
        self.begin_end()
        until = time.monotonic() + wait
        while time.monotonic() < until:
            try:
                if os.waitpid(self._nursery, os.WNOHANG)[0]:
                    return True
            except ChildProcessError:  # somebody else has waited for it
                return True
            time.sleep(0.01)
        return False


class _Nursery:
    """Keeps so many steppers until the worker drains. It has one thread, so that it can fork whenever it wants."""

    def __init__(
        self, theirs: socket.socket, step_beside: Callable[[socket.socket], None], count: int
    ) -> None:
        self._theirs = theirs
        self._step_beside = step_beside
        self._count = count
        self._began: dict[int, float] = {}
        self._rest = FIRST_REST
        self._missing_until = 0.0

    def go_on(self) -> None:
        """Wait for the first call, then keep steppers until the socket ends and they have, too."""
        for number in (
            signal.SIGTERM,
            signal.SIGINT,
            signal.SIGHUP,
        ):  # whom a whole group is told of, the worker tells us
            signal.signal(number, signal.SIG_IGN)
        read, written = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(written, False)
        signal.set_wakeup_fd(written)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        told = select.poll()
        told.register(self._theirs, select.POLLIN | select.POLLRDHUP)
        while not told.poll():
            pass
        ends = select.poll()
        ends.register(self._theirs, select.POLLRDHUP)
        ends.register(read, select.POLLIN)
        is_over = _has_ended(self._theirs)
        while not is_over or self._began:
            if not is_over:
                self._fill()
            found = ends.poll(None if is_over else self._pause())
            with suppress(BlockingIOError):
                os.read(read, 1_024)
            self._bury()
            if not is_over and any(fd == self._theirs.fileno() for fd, _ in found):
                is_over = True
                ends.unregister(self._theirs)

    def _fill(self) -> None:
        while len(self._began) < self._count and time.monotonic() >= self._missing_until:
            nursery = os.getpid()
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _be(lambda: self._step_beside(self._theirs), parent=nursery)
            self._began[pid] = time.monotonic()

    def _pause(self) -> float | None:
        """Milliseconds until one is to be forked."""
        if len(self._began) >= self._count:
            return None
        return max(self._missing_until - time.monotonic(), 0.0) * 1_000 + 1

    def _bury(self) -> None:
        while self._began:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            has_lasted = time.monotonic() - self._began.pop(pid) > LASTED
            self._rest = FIRST_REST if has_lasted else self._rest
            self._missing_until = time.monotonic() + self._rest
            self._rest = min(self._rest * 2, LONGEST_REST)


def _has_ended(theirs: socket.socket) -> bool:
    return not theirs.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)


def _be(work: Callable[[], None], *, parent: int, unused: socket.socket | None = None) -> NoReturn:
    """Be a forked process that ends with its parent, at the latest: never returns."""
    code = 1
    try:
        if unused is not None:
            unused.close()
        die_with_parent()
        if os.getppid() == parent:
            work()
        code = 0
    except BaseException as error:  # nobody is above; another one is forked
        log.exception("stepper.failed", error=type(error).__name__)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait_for_calls(theirs: socket.socket, on_call: Callable[[], object]) -> None:
    """In a stepper: run `on_call` for the calls that come, until the worker drains or this process is asked to end (SIGTERM)."""
    read, written = os.pipe()
    os.set_blocking(written, False)
    is_over = threading.Event()

    def end(*_: object) -> None:
        is_over.set()
        with suppress(BlockingIOError):
            os.write(written, CALL)

    signal.signal(signal.SIGTERM, end)
    heard = select.poll()
    heard.register(theirs, select.POLLIN)
    heard.register(read, select.POLLIN)
    while not is_over.is_set():
        heard.poll()
        try:
            said = theirs.recv(4_096, socket.MSG_DONTWAIT)
        except BlockingIOError:  # another stepper has taken it
            continue
        if not said:
            return
        on_call()
