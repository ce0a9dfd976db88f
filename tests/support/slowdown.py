"""How much slower everything goes here and now than on the machine that the suite's bounds were set on.

There are two references. Work that never changes, done by the test itself, tells of a slow machine and of a busy one: what a test
measured is held to its bound as it was set, and where it misses that, to as much more as the reference takes (`assert_within`).
The other one, `Slowdown`, goes on beside what a test measures: a process needs the processor for 2 ms, ten times a second, and
tells how long it took. With two cores and nobody else it takes 2 ms; where others want them too, it takes as much longer as
whatever is measured does.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from statistics import median
from types import TracebackType
from typing import Self

MOST = 3.0
"""No bound is stretched further: a promise that is kept on a busy machine only, is not kept."""
WINDOW_SECONDS = 2.0
REFERENCE_SECONDS = 0.009
"""What `reference` took on the machine that the bounds were set on, with nobody else there."""
SLOWEST = 6.0
"""Nor is one by the speed of a machine, further than this. There a bound may let pass what it keeps out on a faster one, such as a wait for a time-out."""
_PROBE = """
import sys, time
while True:
    began, used = time.monotonic(), time.process_time()
    while time.process_time() - used < 0.002:
        pass
    ended = time.monotonic()
    print(ended, (ended - began) / 0.002, flush=True)
    time.sleep(0.1)
"""


def reference(clock: Callable[[], float] = time.perf_counter) -> float:
    """The seconds of some work that never changes."""
    began, total, kept = clock(), 0, {}
    for number in range(200_000):
        total += number
        kept[number & 255] = total
    return clock() - began


def slower(clock: Callable[[], float] = time.perf_counter) -> float:
    """How many times longer things take now, 1 to `SLOWEST`; with `time.process_time` of the processor's time alone."""
    taken = median(reference(clock) for _ in range(3))
    return min(max(taken / REFERENCE_SECONDS, 1.0), SLOWEST)


def assert_within(
    seconds: float, bound: float, why: str = "", clock: Callable[[], float] = time.perf_counter
) -> None:
    """That what took `seconds` by this clock took less than `bound` would be on the machine that it was set on."""
    if seconds < bound:
        return
    times = slower(clock)
    assert seconds < bound * times, (
        f"it took {seconds:.2f} s, not less than {bound:g} s on a machine {times:.1f} times slower"
        f"{why and f': {why}'}"
    )


class Slowdown:
    """Measures while the block lasts. Instants are those of `time.monotonic`, which all processes share."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, float]] = []
        self._probe: subprocess.Popen[str]
        self._thread: threading.Thread

    def __enter__(self) -> Self:
        self._probe = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROBE],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        self._thread = threading.Thread(target=self._read, name="slowdown", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._probe.kill()
        self._probe.wait()
        self._thread.join(5)
        if self._probe.stdout is not None:
            self._probe.stdout.close()

    def between(self, since: float, until: float) -> float:
        """The mean between two instants, and a second before: 1 to `MOST`. 1 where nothing was measured."""
        found = [times for at, times in self._samples if since - WINDOW_SECONDS / 2 <= at <= until]
        return min(max(sum(found) / len(found), 1.0), MOST) if found else 1.0

    def worst(self) -> float:
        """That of the worst two seconds so far."""
        return max((self.between(at, at + WINDOW_SECONDS / 2) for at, _ in self._samples), default=1.0)

    def _read(self) -> None:
        assert self._probe.stdout is not None
        for line in self._probe.stdout:
            at, _, times = line.partition(" ")
            self._samples.append((float(at), float(times)))
