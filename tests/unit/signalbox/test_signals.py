"""Signals are counted, end a wait, and leave everything as it was."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from signalbox.signals import STOPPING, Signals
from tests.support.slowdown import assert_within


@pytest.mark.parametrize("number", STOPPING)
def test_a_request_to_stop_is_counted_and_ends_a_wait(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # whoever runs the tests under nohup ignores SIGHUP
    try:
        with Signals() as signals:
            began = time.monotonic()
            threading.Timer(0.05, os.kill, (os.getpid(), number)).start()

            signals.wait(30)

            assert signals.stops == 1
            assert_within(time.monotonic() - began, 10)
    finally:
        signal.signal(number, before)


def test_the_end_of_a_child_ends_a_wait_and_asks_nobody_to_stop() -> None:
    with Signals() as signals:
        began = time.monotonic()
        child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "pass"])

        signals.wait(30)

        assert_within(time.monotonic() - began, 10)
        assert signals.stops == 0
        assert child.wait(timeout=10) == 0


def test_a_wait_ends_by_itself() -> None:
    with Signals() as signals:
        signals.wait(0.01)

        assert signals.stops == 0


def test_signals_that_came_before_the_wait_are_not_lost() -> None:
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        began = time.monotonic()

        signals.wait(30)

        assert signals.stops == 1
        assert_within(time.monotonic() - began, 10)


def test_under_nohup_a_closed_terminal_is_no_request_to_stop() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            signals.wait(0.01)

            assert signals.stops == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_handlers_of_before_come_back() -> None:
    before = [signal.getsignal(number) for number in (*STOPPING, signal.SIGCHLD)]

    with Signals():
        assert signal.getsignal(signal.SIGTERM) not in before

    assert [signal.getsignal(number) for number in (*STOPPING, signal.SIGCHLD)] == before


LOST = """
import os, signal, weakref
from signalbox.signals import end_in_order_on_sigterm

interruption = end_in_order_on_sigterm()
interruption.check()


class Thing:
    pass


def ask(_gone):
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1_000):  # the handler runs in here
        pass


thing = Thing()
watched = weakref.ref(thing, ask)
del thing  # what a callback raises is ignored by the interpreter
try:
    interruption.check()
except KeyboardInterrupt:
    print("asked again")
"""


def test_an_interrupt_that_strikes_where_nothing_may_be_raised_is_not_forgotten() -> None:
    told = subprocess.run(
        [sys.executable, "-c", LOST], capture_output=True, text=True, check=False, timeout=30
    )

    assert (told.returncode, told.stdout) == (0, "asked again\n"), told.stderr
