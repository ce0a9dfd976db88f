"""Runners in the process of a test, on its engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol

from common import faults
from task_runner.run import Runner
from tests.support.engine import Engine


class MakeRunner(Protocol):
    """Makes a runner that has begun; options as of `Runner`."""

    def __call__(self, **options: Any) -> Runner: ...


@contextmanager
def runners(engine: Engine) -> Iterator[MakeRunner]:
    """Make runners of an engine; what they still hold at the end is given back."""
    made: list[Runner] = []

    def make(**options: Any) -> Runner:
        usual: dict[str, Any] = {
            "worker": engine.worker,
            "slots": 4,
            "lease": timedelta(seconds=30),
            "max_output_bytes": 100_000,
            "on_room": lambda: None,
        }
        runner = Runner(engine.database, engine.registry, **{**usual, **options})
        runner.start()
        made.append(runner)
        return runner

    yield make
    faults.disarm()
    for runner in made:
        runner.drain(5)
