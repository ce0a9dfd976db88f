"""Prefect with flows that are called directly, in a few processes that each run some at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from driver import SETTINGS, WARM_UP, serve, timed
from server import running_server

STOP_SECONDS = 10


class Caller:
    """A process that runs flows when asked to, as `caller.py` does."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("caller.py"))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answer()

    def ask(self, mode: str, n: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": mode, "n": n}) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer = json.loads(line or '{"error": "a caller has ended"}')
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main() -> None:
    with ExitStack() as ending:
        ending.enter_context(running_server())
        callers = [Caller() for _ in range(SETTINGS["processes"])]
        for caller in callers:
            ending.callback(caller.stop)

        def on_all(n: int) -> None:
            """The last callers get one less where `n` cannot be dealt out evenly."""
            asked = [(n + len(callers) - 1 - place) // len(callers) for place in range(len(callers))]
            for caller, share in zip(callers, asked, strict=True):
                caller.ask("live", share)
            for caller in callers:
                caller.answer()

        def on_one(mode: str, n: int) -> dict[str, Any]:
            callers[0].ask(mode, n)
            return callers[0].answer()

        on_all(WARM_UP)
        serve(
            {
                "live": lambda n: timed(lambda: on_all(n)),
                "latencies": lambda n: on_one("latencies", n),
                "fan_out": lambda n: on_one("fan_out", n),
            }
        )


if __name__ == "__main__":
    main()
