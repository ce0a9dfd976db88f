"""One duty played in the test's own process, turn after turn: a worker that costs no start-up.

Used beside a real process whose death is the test: as its counterpart, and as what takes its place.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from orchestrator.sweep import expire_due_leases
from orchestrator.timers import fire_due_timers
from tests.support.engine import Engine

PAUSE_SECONDS = 0.02


class Turns:
    """A thread that takes a turn every 20 ms while the block lasts; what it raises is raised at the block's end."""

    def __init__(self, turn: Callable[[], object]) -> None:
        self._turn = turn
        self._ending = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="turns", daemon=True)

    @classmethod
    def of_orchestrator(cls, engine: Engine) -> Self:
        """Advances instances, fires timers, takes back expired leases."""

        def turn() -> None:
            fire_due_timers(engine.database)
            expire_due_leases(engine.database)
            engine.advance()

        return cls(turn)

    @classmethod
    def of_task_runner(cls, engine: Engine) -> Self:
        """Claims, calls and reports; the engine must have the handlers."""
        return cls(engine.work)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join(10)
        if error is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._ending.wait(PAUSE_SECONDS):
                self._turn()
        except BaseException as error:  # noqa: BLE001 - kept for the thread of the test, which raises it
            self._error = error
