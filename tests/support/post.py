"""What orchestrators and runners call to each other, delivered when a test says so."""

from __future__ import annotations

from typing import Any

from common.queues.answers import Envelope
from common.queues.handed import TaskSealer, worker_call
from common.queues.offers import OFFERS, Offer, name_of
from task_runner.run import Runner
from tests.support.engine import Engine


class Post:
    """What the processes say to each other, delivered when the test says so."""

    def __init__(self, engine: Engine, envelope: Envelope | None = None) -> None:
        self.engine = engine
        self._sealer = None if envelope is None else TaskSealer(envelope)
        self.offers: list[Offer] = []
        self.handed: list[bytes] = []
        engine.database.listeners.append(self._ring)

    def say(self, whom: str, hints: bytes) -> int:
        assert whom == OFFERS
        self.offers.append(Offer.read(hints))
        self.engine.advancing.offers.hear([hints])
        return 1

    def _ring(self, bells: Any) -> None:
        self.handed += [
            worker_call(whom, notes, None, self._sealer)[0]
            for whom, notes in bells.items()
            if whom == name_of(self.engine.worker)
        ]

    def deliver(self, runner: Runner) -> None:
        hints, self.handed = self.handed, []
        runner.take_up(hints)
