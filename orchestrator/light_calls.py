"""Light handlers that a batch of steps waits for (`common.queues.light_calls`).

Theory of operation. Instances are stepped one after the other; what they ask of light handlers goes to a runner in portions, so that it calls
the first of them while the last are still being stepped. As answers come, their instances go on, and may ask for more. The batch is saved
when nobody is waited for any more: an instance whose tasks are all light goes from its start to its end in one transaction.

A runner has `PATIENCE` to answer. What it does not answer is leased to it as the batch is saved, since it may have called it; then it is not
asked until it offers anew. New tasks are asked for until the time of the batch is over, so that a definition which never rests holds no lock for longer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from common.clock import ReadClock
from common.ids import LeaseToken, WorkerId
from common.queues.answers import ANSWER_BYTES
from common.queues.light_calls import Called, LightReply
from common.queues.light_line import LightLine
from common.queues.offers import Offer, Offers, name_of
from common.queues.told_task import ToldTask
from common.store.leased import CalledHere
from orchestrator.stepped import Stepped
from statechart.record import record

PATIENCE = 0.05
"""Seconds that a runner may take for what promises to be done within 10 ms each, and mostly is in a hundredth of that."""
SOON = 0.003
"""Seconds in which most calls are answered."""
PORTION = 20
"""Tasks of one call while others are still stepped: each call costs both sides 0.2 ms."""


class LightCalls:
    """The light calls of this process: of one batch at a time, others do without. Without a `line`, of none."""

    def __init__(self, offers: Offers | None = None, line: LightLine | None = None) -> None:
        self._offers = Offers() if offers is None else offers
        self._line = line
        self._turn = threading.Lock()

    @contextmanager
    def of_batch(self, clock: ReadClock, until: float) -> Iterator[Calling | None]:
        """Who calls for a batch whose steps are over at `until` (perf_counter seconds); None where nobody can."""
        if self._line is None or not self._offers or not self._turn.acquire(blocking=False):
            yield None
            return
        try:
            yield Calling(self._line, self._offers, clock, until)
        finally:
            self._turn.release()

    def close(self) -> None:
        """Call nobody any more."""
        if self._line is not None and self._turn.acquire(timeout=1.0):
            self._line.close()


@record
class _Asked:
    stepped: Stepped
    task: ToldTask
    worker: WorkerId
    at: datetime


class Calling:
    """What one batch has runners call, and waits for."""

    def __init__(self, line: LightLine, offers: Offers, clock: ReadClock, until: float) -> None:
        self._line = line
        self._offers = offers
        self._clock = clock
        self._until = until
        self._asked: dict[LeaseToken, _Asked] = {}
        self._unsent: list[tuple[Stepped, ToldTask, Offer]] = []
        self.has_called = False
        """Has it had anybody called?"""

    def ask(self, stepped: Stepped) -> None:
        """Have an instance's light tasks called, soon."""
        if time.perf_counter() > self._until:
            return
        for task, offer in stepped.light_tasks(self._offers.caller_of):
            if len(task.input) + len(task.options or "") <= ANSWER_BYTES:
                stepped.lend(task, offer)
                self._unsent.append((stepped, task, offer))
                self.has_called = True
        if len(self._unsent) >= PORTION:
            self._send()
            self._take(self._line.replies(0.0) or ())

    def wait(self) -> None:
        """Let all instances go on as far as light handlers take them."""
        while self._asked or self._unsent:
            self._send()
            replies = self._line.replies(SOON)
            if replies is None:  # to ask whether anybody heard costs a tenth of what a call takes
                self._forget_unheard()
                if not self._asked:
                    continue
                replies = self._line.replies(PATIENCE)
            if replies is None:
                for worker in {asked.worker for asked in self._asked.values()}:
                    self._offers.note_silent(worker)
                return
            self._take(replies)

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, []
        by_worker: dict[WorkerId, list[tuple[Stepped, ToldTask]]] = {}
        for stepped, task, offer in unsent:
            by_worker.setdefault(offer.worker, []).append((stepped, task))
        for worker, tasks in by_worker.items():
            for first in range(0, len(tasks), PORTION):
                self._send_portion(worker, tasks[first : first + PORTION])

    def _send_portion(self, worker: WorkerId, tasks: Sequence[tuple[Stepped, ToldTask]]) -> None:
        at = self._clock.time()
        if self._line.send(worker, [task for _, task in tasks]):
            self._asked.update((task.token, _Asked(stepped, task, worker, at)) for stepped, task in tasks)
            return
        for stepped, task in tasks:
            stepped.take_back(task)

    def _forget_unheard(self) -> None:
        unheard = self._line.unheard()
        for worker in unheard:
            self._offers.forget(name_of(worker))
        for token in (
            [one for one, asked in self._asked.items() if asked.worker in unheard] if unheard else ()
        ):
            asked = self._asked.pop(token)
            asked.stepped.take_back(asked.task)

    def _take(self, replies: Sequence[LightReply]) -> None:
        for reply in replies:
            asked = self._asked.pop(reply.token, None)
            if asked is None:  # it came too late for another batch
                continue
            if reply.called is Called.SUCCEEDED:
                called = CalledHere(asked.worker, reply.token, asked.at, self._clock.time(), reply.output)
                asked.stepped.go_on(asked.task, called)
                self.ask(asked.stepped)
            elif reply.called is Called.NOT_CALLED:
                asked.stepped.take_back(asked.task)
