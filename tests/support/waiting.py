"""Wait for a fact, never for time: a condition is asked again until it holds or a deadline passes.

A test that sleeps is slow where it is right and wrong where it is slow. Every wait of the suite goes
through `wait_until`, so that a failure names what was awaited and what was there instead.
"""

import os
import time
from collections.abc import Callable
from typing import TypeVar

from tests.support.slowdown import slower

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
    pause, patience = FIRST_PAUSE_SECONDS, 1.0
    while True:
        answer = condition()
        if answer:
            return answer
        waited = time.monotonic() - began
        if waited >= seconds and waited >= seconds * (patience := max(patience, crowd())):
            raise AssertionError(f"waited {seconds:g} s for {what}; the last answer was {answer!r}")
        time.sleep(min(pause, seconds - waited) if waited < seconds else pause)
        pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)


def crowd() -> float:
    """How much longer things may take because others use the machine, or because it is slow: 1 to 10.

    Runnable processes per core, times what the processor needs for work that never changes. For waits alone, whose end is a failure
    anyway. What a test asserts of times that it measured is not stretched by this, see `slowdown.py`.
    """
    busy = max(os.getloadavg()[0] / (os.cpu_count() or 1), 1.0)
    return min(busy * slower(time.process_time), 10.0)
