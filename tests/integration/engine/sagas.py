"""Definitions whose work is undone, and the ledger in which their handlers write what they have done."""

from __future__ import annotations

from typing import Any

from signalbox import Permanent
from tests.integration.engine.documents import Document
from tests.support.engine import Engine

ONCE = {"maxAttempts": 1}


def step(name: str, then: str, **compensate: Any) -> Document:
    """A state that does `name`; `compensate` says more about its undoing, `undone=False` that it has none."""
    is_undone = compensate.pop("undone", True)
    undo = {"type": f"undo.{name}", "input": {"of": "${event.output.receipt}"}, "retry": ONCE, **compensate}
    invoke: Document = {"src": f"do.{name}", "id": name, "retry": ONCE, "onDone": then}
    return {"invoke": invoke | ({"compensate": undo} if is_undone else {})}


def trip(*, last: str = "car", wait: bool = False, **root: Any) -> Document:
    """Books a flight, a hotel and a car, each undone by its own task; with `wait` it waits for GO before the car."""
    states: Document = {
        "flight": step("flight", "hotel"),
        "hotel": step("hotel", "waiting" if wait else last),
        last: step(last, "booked"),
        "booked": {"type": "final"},
    }
    if wait:
        states["waiting"] = {"on": {"GO": last}}
    return {"id": "trip", "initial": "flight", "states": states, **root}


class Ledger:
    """What handlers have done, in order; those named in `failing` fail for good."""

    def __init__(self, engine: Engine, *names: str) -> None:
        self.lines: list[str] = []
        self.inputs: dict[str, Any] = {}
        self.failing: set[str] = set()
        for name in names or ("flight", "hotel", "car"):
            for kind in (f"do.{name}", f"undo.{name}"):
                engine.handler(kind, self._handler(kind, name))

    def _handler(self, kind: str, name: str) -> Any:
        def work(input: Any) -> Any:
            self.inputs[kind] = input
            if kind in self.failing:
                raise Permanent(f"{kind} is not possible", code=f"{name}.gone")
            self.lines.append(kind)
            return {"receipt": f"{name}-1"}

        return work
