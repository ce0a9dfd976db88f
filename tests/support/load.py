"""Load on a running engine, and the book that is kept of it: what was acknowledged, to whom, and when.

A few senders, each a thread of its own, send events to a population of instances, most of them to the first few (Zipf),
and cancel some, which another takes the place of. The book of what was acknowledged is kept outside the database; the
audit compares it with the histories, event by event, by an `id` that each event carries.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from common.commands.control import cancel_instance
from common.commands.send import send_event
from common.commands.start import Start, start_instance
from common.errors import Conflict
from common.ids import InstanceId
from tests.support.engine import LIMITS, Engine


def _assign(path: str) -> dict[str, Any]:
    return {"type": "assign", "params": {"path": path, "value": f"${{context.{path} + 1}}"}}


def _create(task: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "createTask", "params": {"task": {**task, "completionEvent": "WORKED"}}}


CHART: Mapping[str, Any] = {
    "id": "stress",
    "initial": "idle",
    "context": {"counted": 0, "passed": 0, "worked": 0},
    "on": {
        "COUNT": {"actions": _assign("counted")},
        "PASS": {
            "actions": {
                "type": "send",
                "params": {
                    "to": {"instanceId": "${event.to}"},
                    "event": {"type": "PASSED", "id": "passed-${event.id}"},
                },
            }
        },
        "PASSED": {"actions": _assign("passed")},
        "WORK": {"actions": _create({"type": "SYSTEM", "name": "test.rest", "input": {"ms": "${event.ms}"}})},
        "KEYED": {
            "actions": _create({"type": "test.rest", "input": {"ms": 5}, "idempotencyKey": "${event.key}"})
        },
        "RETRY": {"actions": _create({"type": "test.unsteady", "retry": {"interval": "100ms"}})},
        "LATER": {"actions": _create({"type": "test.rest", "input": {"ms": 1}, "delay": "150ms"})},
        "WORKED": {"actions": _assign("worked")},
    },
    "states": {
        "idle": {"on": {"TURN": "busy"}},
        "busy": {
            "invoke": {"src": "test.rest", "input": {"ms": 60}, "onDone": "idle"},
            "after": {"200": "idle"},
            "on": {"TURN": "idle"},
        },
    },
}
"""Takes everything that the senders say but NOISE: counting, events to others, tasks of each kind, a state with a
task and a timer that is left before either ends."""

KINDS = {"COUNT": 40, "PASS": 15, "TURN": 15, "WORK": 12, "NOISE": 8, "KEYED": 4, "RETRY": 3, "LATER": 3}
CANCELLED_SHARE = 0.03
KEYS = 5
"""So many idempotency keys an instance: most tasks that name one have been asked for before."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One acknowledged event: when its sending began and when it was acknowledged, in monotonic seconds."""

    event_id: str
    type: str
    instance_id: str
    sender: int
    began: float
    acknowledged: float
    to: str | None


class Population:
    """Instances by rank: the first is spoken to most. A cancelled one makes place for another."""

    def __init__(self, ids: Sequence[InstanceId], *, exponent: float = 1.1) -> None:
        self._ids = list(ids)
        self._turn = threading.Lock()
        self._weights = list(accumulate(1 / rank**exponent for rank in range(1, len(ids) + 1)))

    def pick(self, chance: random.Random) -> tuple[int, InstanceId]:
        rank = chance.choices(range(len(self._ids)), cum_weights=self._weights)[0]
        with self._turn:
            return rank, self._ids[rank]

    def replace(self, rank: int, instance_id: InstanceId) -> None:
        with self._turn:
            self._ids[rank] = instance_id


@dataclass
class Book:
    """What was acknowledged, by one sender."""

    sent: list[Sent] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    refused: int = 0


@dataclass
class Load:
    """Senders at work on an engine for `seconds`. `errors` holds what a sender ended with, for the test to raise."""

    engine: Engine
    population: Population
    senders: int
    seconds: float
    seed: int = 1
    books: list[Book] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)

    @classmethod
    def on(cls, engine: Engine, *, instances: int, senders: int, seconds: float) -> Load:
        """Apply the chart and start the first instances."""
        key = engine.apply(CHART)
        first = Book()
        ids = [_start(engine, key) for _ in range(instances)]
        first.started += ids
        return cls(engine, Population(ids), senders, seconds, books=[first])

    def run(self) -> float:
        """Send until the time is over; returns the seconds that it took. Raises what a sender ended with."""
        began = time.monotonic()
        threads = []
        for number in range(self.senders):
            book = Book()
            self.books.append(book)
            sender = _Sender(self, number, book, until=began + self.seconds)
            threads.append(threading.Thread(target=sender.run, name=f"sender-{number}"))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(self.seconds + 60)
            assert not thread.is_alive(), f"{thread.name} still sends a minute after its time"
        if self.errors:
            raise self.errors[0]
        return time.monotonic() - began

    @property
    def sent(self) -> list[Sent]:
        return [one for book in self.books for one in book.sent]

    @property
    def started(self) -> list[str]:
        return [one for book in self.books for one in book.started]

    @property
    def cancelled(self) -> list[str]:
        return [one for book in self.books for one in book.cancelled]

    @property
    def refused(self) -> int:
        return sum(book.refused for book in self.books)


def _start(engine: Engine, key: str) -> InstanceId:
    def use_case(tx: Any) -> InstanceId:
        request = Start(definition_key=key)
        return start_instance(tx, engine.tenant_id, request, actor="sender", limits=LIMITS).instance_id

    return engine.database.run(use_case)


class _Sender:
    """One sender: says one thing after the other, and writes down what was acknowledged."""

    def __init__(self, load: Load, number: int, book: Book, *, until: float) -> None:
        self._load = load
        self._number = number
        self._book = book
        self._until = until
        self._chance = random.Random(load.seed * 1_000 + number)
        self._kinds = list(KINDS)
        self._weights = list(accumulate(KINDS.values()))

    def run(self) -> None:
        try:
            count = 0
            while time.monotonic() < self._until:
                count += 1
                self._speak(f"{self._number}-{count}")
        except BaseException as error:  # noqa: BLE001 - kept for the thread of the test, which raises it
            self._load.errors.append(error)

    def _speak(self, event_id: str) -> None:
        rank, instance_id = self._load.population.pick(self._chance)
        if self._chance.random() < CANCELLED_SHARE:
            self._cancel(rank, instance_id)
        else:
            self._send(event_id, instance_id)

    def _send(self, event_id: str, instance_id: InstanceId) -> None:
        engine = self._load.engine
        kind = self._chance.choices(self._kinds, cum_weights=self._weights)[0]
        event: dict[str, Any] = {"type": kind, "id": event_id}
        match kind:
            case "PASS":
                event["to"] = self._load.population.pick(self._chance)[1]
            case "WORK":
                event["ms"] = self._chance.randrange(20)
            case "KEYED":
                event["key"] = f"key-{self._chance.randrange(KEYS)}"
        began = time.monotonic()
        try:
            engine.database.run(
                lambda tx: send_event(
                    tx, engine.tenant_id, instance_id, event, actor=f"sender:{self._number}", limits=LIMITS
                )
            )
        except Conflict:  # it has just been cancelled: not acknowledged, so nobody may find it again
            self._book.refused += 1
            return
        self._book.sent.append(
            Sent(event_id, kind, instance_id, self._number, began, time.monotonic(), event.get("to"))
        )

    def _cancel(self, rank: int, instance_id: InstanceId) -> None:
        engine = self._load.engine
        try:
            engine.database.run(
                lambda tx: cancel_instance(tx, engine.tenant_id, instance_id, reason="stress", actor="sender")
            )
        except Conflict:
            self._book.refused += 1
            return
        self._book.cancelled.append(instance_id)
        successor = _start(engine, "stress")
        self._book.started.append(successor)
        self._load.population.replace(rank, successor)
