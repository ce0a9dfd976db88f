"""How a dispatcher lives in a Celery worker: as a step of the worker, not of its consumer.

Consumer steps restart with every connection to the broker; this one ticks with the broker absent, killed, back or
frozen. `worker_shutting_down` begins the drain, because a bootstep's `stop` comes too late when the broker hangs
in `recv`, and a timer ends the process should the main thread hang there for good.

A process that has drained ends without finalising the interpreter: the handlers that were given up still run in their threads,
in whatever library they are, and an interpreter that is taken down around them now and then ends in SIGSEGV instead of 0.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading
import time
from typing import Any, Protocol

from celery import Celery, bootsteps, signals

from common.memory import take_few_arenas

WORN_OUT = 75
"""The exit code of a process that ends to be started anew (EX_TEMPFAIL of sysexits.h)."""
LAST_WORD = 2.0
LEAST_LAST_WORD = 0.5


class Duty(Protocol):
    """What a worker process is for: started with the worker, drained and ended with it."""

    def start(self) -> None: ...

    def begin_drain(self) -> None:
        """Take no new work; called from a signal handler's context, so it only sets flags."""

    def drain(self) -> None:
        """Finish or give back what is held, and say good-bye."""


_exit_code = 0


def collect_rarely() -> None:
    """Look for garbage among what is made from now on alone, and less often: what is made for a step is gone with it.

    What was imported stays, and a collection that looks through it would take milliseconds of a step.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def end_worn_out() -> None:
    """Let this worker drain and end with the exit code `WORN_OUT`, for its supervisor to start another."""
    global _exit_code  # noqa: PLW0603 - one worker a process
    _exit_code = WORN_OUT
    os.kill(os.getpid(), signal.SIGTERM)


def install(app: Celery, make_duty: Any) -> None:
    """Let every worker of `app` carry the duty that `make_duty()` builds when the worker starts."""

    class DutyStep(bootsteps.StartStopStep):
        requires = ("celery.worker.components:Pool",)

        def __init__(self, worker: Any, **options: Any) -> None:
            super().__init__(worker, **options)
            self.hub: Any = None  # is made after this
            self.duty: Duty = make_duty()
            self.ending = threading.Event()
            self.ended = threading.Event()
            signals.worker_shutting_down.connect(self.begin_drain, weak=False)

        def start(self, parent: Any) -> None:
            self.hub = parent.hub
            collect_rarely()
            take_few_arenas()
            # Where nothing calls `stop`; before all that were registered earlier, once the main thread is done.
            atexit.register(self._leave)
            self.duty.start()

        def begin_drain(self, **_: Any) -> None:
            if not self.ending.is_set():
                self.ending.set()
                self.duty.begin_drain()
                threading.Thread(target=self._drain, name="drain", daemon=True).start()

        def stop(self, parent: Any) -> None:
            self.begin_drain()
            self.ended.wait(15)
            # The consumer has said good-bye. All that is left is to close its connection, and that would wait for the broker's
            # answer to the last question for a message: up to a second, for a doorbell that may be lost.
            if parent.pidlock:
                parent.pidlock.release()
            _fail_as(parent.exitcode)
            self._leave()

        terminate = stop

        def _leave(self) -> None:
            if self.ended.is_set():
                _exit()

        def _drain(self) -> None:
            began = time.monotonic()
            try:
                self.duty.drain()
            finally:
                self.ended.set()
                if _exit_code:  # what made it worn out may also keep the interpreter from ending
                    _exit()
                if self.hub is None:
                    _exit()  # there is no broker to take leave of, and nothing wakes the main thread
                self.hub.call_soon(_wake_up)
                # The main thread may hang in a dead broker's socket; work is stored, so the process may just end.
                # After a long drain it has had its time: together they must stay below what a supervisor grants.
                left = LAST_WORD - (time.monotonic() - began)
                last_word = threading.Timer(max(left, LEAST_LAST_WORD), _exit)
                last_word.daemon = True
                last_word.start()

    app.steps["worker"].add(DutyStep)


def _fail_as(code: int | None) -> None:
    """Celery gave this worker up: its supervisor shall know that it did not end as it was asked to."""
    global _exit_code  # noqa: PLW0603 - one worker a process
    _exit_code = _exit_code or code or 0


def _wake_up() -> None:
    """Do nothing: a main thread that waits for the broker, for up to a second, sees that it is to end once it has done this."""


def _exit() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_exit_code)
