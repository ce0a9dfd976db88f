"""Signals for a process that looks after others: they are counted and end a wait, and interrupt nothing else."""

from __future__ import annotations

import select
import signal
import socket
from types import FrameType, TracebackType
from typing import Any, Self

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Ctrl-C and SIGTERM end this process through every `finally`, so that nothing is left behind.

    The exception is lost where it strikes code that may not raise, such as a callback of the garbage collector: then
    `check`, which who takes long calls now and then, raises it again.
    """

    def __init__(self) -> None:
        self._was_asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._interrupt)

    def _interrupt(self, _number: int, _frame: object) -> None:
        self._was_asked = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raises `KeyboardInterrupt` where we were asked to end and have not."""
        if self._was_asked:
            raise KeyboardInterrupt


def end_in_order_on_sigterm() -> Interruption:
    """Let SIGTERM end this process as Ctrl-C does."""
    return Interruption()


class Signals:
    """While the block lasts: how often we were asked to stop, and a wait that any signal ends.

    An exception thrown from a handler could strike between a child's start and our note of it; a count cannot.
    The main thread's only: Python delivers signals there.
    """

    def __init__(self) -> None:
        self.stops = 0
        self._before: dict[int, Any] = {}
        self._wake_end, self._wait_end = socket.socketpair()
        self._wake_end.setblocking(False)
        self._wait_end.setblocking(False)

    def __enter__(self) -> Self:
        for number in STOPPING:
            if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # `nohup`: whoever started us wants us to outlive the terminal
            self._before[number] = signal.signal(number, self._stop)
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, _wake)
        signal.set_wakeup_fd(self._wake_end.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._wake_end.close()
        self._wait_end.close()

    def wait(self, seconds: float) -> None:
        """Return after `seconds`, or as soon as a signal has come, the end of a child included."""
        ready, _, _ = select.select([self._wait_end], [], [], seconds)
        if ready:
            self._wait_end.recv(4096)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stops += 1


def _wake(_number: int, _frame: FrameType | None) -> None:
    """A child has ended: that a handler exists is enough for the signal to end a wait."""
