"""Light handlers: claimed, called and reported in one transaction, without lease and beat. (Those that steps wait for: `light_calls.py`.)

A handler that is `light` promises to wait for nothing and to take less than 10 ms, so that a commit may wait for it. Its task
is locked, called, and where it just succeeds written once: ended, with one attempt that tells of its beginning and its end.
What ends otherwise, or writes by itself, is begun first, as any other task. If the process dies meanwhile, the transaction never was:
nothing counts, and the task is due as before. So that one which kills its process does not do so for ever, light handlers
are run as ordinary ones, with a lease and an attempt on record first, wherever a runner has just died unsaid; and one
that breaks its promise is without the privilege in this process for a minute.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from datetime import datetime

import structlog

from common.commands.outcome import AtOnce, Outcome
from common.ids import TaskId
from common.store.claims import TaskClaim
from task_runner.registry import Handler

log = structlog.get_logger("signalbox.task_runner")

BUDGET_SECONDS = 0.05
"""When it is used up, what was claimed and not called yet goes to the slots, under its lease."""
PROMISE_SECONDS = 0.01
PATIENCE_SECONDS = 0.1
"""One call that takes so long breaks the promise at once; of shorter ones, `BREACHES` in a row do."""
BREACHES = 5
WITHOUT_SECONDS = 60.0
"""For so long a handler is without the privilege: a machine that was frozen or crowded for a moment looks like one that breaks its promise."""


class LightHandlers:
    """Which handlers of this process have the privilege, by name. Safe to ask from any thread."""

    def __init__(self, handlers: Iterable[Handler]) -> None:
        self._names = frozenset(handler.name for handler in handlers if handler.options.light)
        self._without_until: dict[str, float] = {}
        self._breaches: dict[str, int] = {}
        self._turn = threading.Lock()

    @property
    def are_any(self) -> bool:
        """Is there any handler in this process that has the privilege?"""
        return bool(self.names)

    @property
    def names(self) -> frozenset[str]:
        """The handlers that have it."""
        if not self._without_until:
            return self._names
        with self._turn:
            now = time.monotonic()
            self._without_until = {name: until for name, until in self._without_until.items() if until > now}
            return self._names - self._without_until.keys()

    def has(self, handler: Handler) -> bool:
        """Tell whether a handler may be called inside the claiming transaction."""
        return handler.options.light and handler.name in self.names

    def note(self, name: str, seconds: float) -> None:
        """Take note of how long a call took."""
        with self._turn:
            if seconds < PROMISE_SECONDS:
                self._breaches.pop(name, None)
                return
            breaches = self._breaches[name] = self._breaches.get(name, 0) + 1
            if seconds < PATIENCE_SECONDS and breaches < BREACHES:
                return
            self._without_until[name] = time.monotonic() + WITHOUT_SECONDS
        log.warning(
            "handler.not_light", handler=name, seconds=round(seconds, 3), promised_seconds=PROMISE_SECONDS,
            rest_seconds=WITHOUT_SECONDS,
        )  # fmt: skip


class LightEnds:
    """How the light handlers of one claim ended: `at_once` is what nobody has begun, `outcomes` is what holds a lease by then."""

    def __init__(self) -> None:
        self.at_once: list[AtOnce] = []
        self.outcomes: list[Outcome] = []
        self._begun: set[TaskId] = set()
        self._unbegun: list[TaskClaim] = []

    def __bool__(self) -> bool:
        return bool(self.at_once or self.outcomes)

    def note_begun(self, claim: TaskClaim) -> bool:
        """Note that a claim is begun now, before its handler has ended. False when it was already."""
        is_news = claim.id not in self._begun
        self._begun.add(claim.id)
        return is_news

    def add(self, claim: TaskClaim, outcome: Outcome, ended_at: datetime) -> None:
        """Take how a handler ended, at that instant of the database's clock."""
        if outcome.is_plain_success and claim.id not in self._begun:
            self.at_once.append(AtOnce(claim, outcome, ended_at))
            return
        self.outcomes.append(outcome)
        if claim.id not in self._begun:
            self._unbegun.append(claim)

    def take_unbegun(self) -> list[TaskClaim]:
        """The claims that have to be begun before their outcomes can be reported."""
        taken, self._unbegun = self._unbegun, []
        return taken
