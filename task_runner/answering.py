"""Telling steps how their tasks ended (`common.queues.answers`), and the outcomes that no receipt has come for yet.

The first answer is called at once, those that end within two milliseconds of it go together. What no receipt comes for is handed back to
be stored by this process itself: the other side may have died, lost the call, or be too busy to be waited for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.commands.outcome import Outcome, known_end
from common.ids import WorkerId
from common.queues.answers import ANSWER_BYTES, Answer, Envelope
from common.randomness import random_bytes
from task_runner.offering import Say

PATIENCE = 0.5
"""Seconds that a receipt may take: many times what a busy process takes for a batch, and not long for who waits for the instance."""
ON_THEIR_WAY_MAX = 1_000
"""Answers without receipt, beyond which outcomes are stored here: who is called has more to do than he can."""
TOGETHER = 0.002
"""Seconds between two calls; each costs its listener a wake-up."""
_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class _OnItsWay:
    outcome: Outcome
    address: str
    until: float


class Answering:
    """The answers of one process. Safe to use from any thread. `hand_back` is called with each outcome that is to be stored here."""

    def __init__(
        self, *, worker: WorkerId, say: Say, envelope: Envelope, hand_back: Callable[[Outcome], None]
    ) -> None:
        self._worker = worker
        self._say = say
        self._envelope = envelope
        self._hand_back = hand_back
        self._turn = threading.Condition()
        self._on_their_way: dict[str, _OnItsWay] = {}
        self._unsaid: dict[str, list[Answer]] = {}
        self._said_at = 0.0
        self._looks_at = 0.0  # when the thread wakes by itself; it is woken only for what comes before
        self._is_closed = False
        self._thread = threading.Thread(target=self._look_after, name="answers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def tell(self, outcome: Outcome, address: str) -> bool:
        """Tell how a task ended to who listens at `address`; False where that cannot be done, and nothing is kept of it."""
        if not outcome.is_known or not self._envelope.may_seal(address):
            return False
        end = known_end(outcome)
        if len(end.body) + len(end.output or "") > ANSWER_BYTES:
            return False
        now = time.monotonic()
        with self._turn:
            if self._is_closed or len(self._on_their_way) >= ON_THEIR_WAY_MAX:
                return False
            receipt = random_bytes(8).hex()
            self._on_their_way[receipt] = _OnItsWay(outcome, address, now + PATIENCE)
            self._unsaid.setdefault(address, []).append(Answer(self._worker, receipt, end))
            if now < self._said_at + TOGETHER:
                self._wake_by(self._said_at + TOGETHER)
                return True
            self._wake_by(now + PATIENCE)
            unsaid = self._take_unsaid(now)
        self._say_all(unsaid)
        return True

    def take(self, receipts: Sequence[str]) -> list[Outcome]:
        """The outcomes that are stored, as `receipts` say."""
        with self._turn:
            stored = [self._on_their_way.pop(one, None) for one in receipts]
        return [one.outcome for one in stored if one is not None]

    def close(self) -> list[Outcome]:
        """Tell nothing any more; the outcomes of which nobody knows whether they are stored."""
        with self._turn:
            self._is_closed = True
            left = [one.outcome for one in self._on_their_way.values()]
            self._on_their_way.clear()
            self._unsaid.clear()
            self._turn.notify_all()
        return left

    def _wake_by(self, instant: float) -> None:
        if instant < self._looks_at:
            self._looks_at = instant
            self._turn.notify_all()

    def _take_unsaid(self, now: float) -> dict[str, list[Answer]]:
        unsaid, self._unsaid, self._said_at = self._unsaid, {}, now
        return unsaid

    def _say_all(self, unsaid: dict[str, list[Answer]]) -> None:
        for address, answers in unsaid.items():
            if (
                self._say(address, self._envelope.seal(address, answers)) == 0
            ):  # the call before was heard by nobody
                self._hand_back_all(address=address)

    def _hand_back_all(self, *, address: str | None = None, until: float = 0.0) -> None:
        """Hand back what was told to `address`, and what was waited for `until` then."""
        with self._turn:
            over = {
                receipt: one
                for receipt, one in self._on_their_way.items()
                if one.address == address or one.until <= until
            }
            for receipt in over:
                del self._on_their_way[receipt]
        for one in over.values():
            self._hand_back(one.outcome)

    def _look_after(self) -> None:
        while True:
            with self._turn:
                now = time.monotonic()
                self._looks_at = self._next_look(now)
                while not self._is_closed and now < self._looks_at:
                    self._turn.wait(None if self._looks_at == _NEVER else self._looks_at - now)
                    now = time.monotonic()
                if self._is_closed:
                    return
                unsaid = self._take_unsaid(now) if self._unsaid else {}
            self._say_all(unsaid)
            self._hand_back_all(until=now)

    def _next_look(self, now: float) -> float:
        if self._unsaid:
            return self._said_at + TOGETHER
        first = next(iter(self._on_their_way.values()), None)
        if first is not None:
            return first.until
        # Who has just told something will again: woken for each answer, this thread would cost as much as they do.
        return self._said_at + PATIENCE if now < self._said_at + PATIENCE else _NEVER
