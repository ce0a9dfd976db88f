"""Wait for a fact, never for time: a condition is asked again until it holds or a deadline passes.

A test that sleeps is slow where it is right and wrong where it is slow. Every wait of the suite goes
through `wait_until`, so that a failure names what was awaited and what was there instead.
"""

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.002
LONGEST_PAUSE_SECONDS = 0.05


def wait_until(condition: Callable[[], T], *, what: str, seconds: float = 10.0) -> T:
    """Ask `condition` until it answers something true; return that answer.

    `what` completes the sentence "waited 10 s for ...". The pause between two questions grows from
    2 ms to 50 ms: quick facts are seen at once, slow ones do not eat the core they are waiting for.
    Raises `AssertionError` with the last answer when `seconds` have passed without a true one, on a
    machine of one's own: see `crowd`.
    An exception of `condition` is a failure of the test and is not caught.
    """
    began = time.monotonic()
    pause = FIRST_PAUSE_SECONDS
    while True:
        answer = condition()
        if answer:
            return answer
        waited = time.monotonic() - began
        if waited >= seconds and waited >= seconds * crowd():
            raise AssertionError(f"waited {seconds:g} s for {what}; the last answer was {answer!r}")
        time.sleep(min(pause, seconds - waited) if waited < seconds else pause)
        pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)


def crowd() -> float:
    """How much longer things may take because others use the machine: runnable processes per core, 1 to 10.

    For waits alone, whose end is a failure anyway. What a test asserts of times that it measured is the promise: it is not stretched
    by this, or it could not fail. A reference of the same run may be added to it, see `slowdown.py` and the tests of recovery.
    """
    return min(max(os.getloadavg()[0] / (os.cpu_count() or 1), 1.0), 10.0)
