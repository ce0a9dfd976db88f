"""The Python side of a peer's program: commands in, answers out, one JSON line each. Standard library only."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

SETTINGS: dict[str, Any] = json.loads(os.environ.get("PEER_SETTINGS", "{}"))
DATABASE_URL = os.environ.get("PEER_DATABASE_URL", "")
REDIS_URL = os.environ.get("PEER_REDIS_URL", "")
WARM_UP = 20
LOOK_SECONDS = 1.0


def serve(modes: dict[str, Callable[[int], dict[str, Any]]]) -> None:
    """Say that we are ready, then answer until the input ends. Call it when the system is up and warm."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    answers.write('{"ready": true}\n')
    answers.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = modes[asked["do"]](asked["n"])
        except Exception as error:  # noqa: BLE001 - the outer loop: a failure is an answer
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def end_with_parent() -> None:
    """Kill this process and all of its group, which is its own, as soon as whoever started it has gone without a word."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_SECONDS)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def timed(call: Callable[[], object]) -> dict[str, Any]:
    """The seconds of one call."""
    began = time.perf_counter()
    call()
    return {"seconds": time.perf_counter() - began}


def one_at_a_time(call: Callable[[], object], n: int) -> dict[str, Any]:
    """Milliseconds of each of `n` calls, the next after the one before."""
    return {"milliseconds": [timed(call)["seconds"] * 1_000 for _ in range(n)]}


def start_many(start: Callable[[], Any], n: int, threads: int = 4) -> list[Any]:
    """What `n` starts gave, from a few threads, each start a call of its own."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda _: start(), range(n)))


def await_count(count: Callable[[], int], wanted: int, pause: float = 0.02, seconds: float = 500) -> None:
    """Ask until at least `wanted` have ended."""
    deadline = time.monotonic() + seconds
    while (found := count()) < wanted:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{found} of {wanted} ended within {seconds:g} s")
        time.sleep(pause)


def backlog_seconds(begin: Callable[[], object], count: Callable[[], int], wanted: int) -> dict[str, Any]:
    """`seconds` from the first end that is seen to the last one, and `with_start` from the moment that the workers begin.

    `begin` starts the workers. What had ended at the first sight is not in the rate: `seconds` are scaled to all.
    """
    started = time.perf_counter()
    begin()
    await_count(count, 1, pause=0.005)
    first, began = count(), time.perf_counter()
    await_count(count, wanted)
    ended = time.perf_counter()
    return {"seconds": (ended - began) * wanted / max(wanted - first, 1), "with_start": ended - started}


class Workers:
    """Processes of the system, one command each; they write to our stderr and end with us."""

    def __init__(self, commands: Iterable[list[str]]) -> None:
        self._commands = list(commands)
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self._running = [
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=2) for command in self._commands
        ]

    def stop(self) -> None:
        for one in self._running:
            one.terminate()
        for one in self._running:
            try:
                one.wait(10)
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()
        self._running = []


class Ended:
    """Counts calls, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def add(self, *_: object) -> None:
        with self._lock:
            self._count += 1

    def count(self) -> int:
        return self._count
