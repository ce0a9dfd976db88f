"""Light handlers: claimed, called and reported in one transaction, without lease and beat.

A handler that is `light` promises to wait for nothing and to take less than 10 ms, so that a commit may wait for it. Its
attempt is a row like any other, written with its outcome. If the process dies meanwhile, the transaction never was:
nothing counts, and the task is due as before. So that one which kills its process does not do so for ever, light handlers
are run as ordinary ones, with a lease and an attempt on record first, wherever a runner has just died unsaid; and one
that breaks its promise loses the privilege in this process.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

import structlog

from task_runner.registry import Handler

log = structlog.get_logger("signalbox.task_runner")

BUDGET_SECONDS = 0.05
"""When it is used up, what was claimed and not called yet goes to the slots, under its lease."""
PROMISE_SECONDS = 0.01
PATIENCE_SECONDS = 0.1
"""One call that takes so long breaks the promise at once; of shorter ones, `BREACHES` in a row do."""
BREACHES = 5


class LightHandlers:
    """Which handlers of this process have the privilege, by name. Safe to ask from any thread."""

    def __init__(self, handlers: Iterable[Handler]) -> None:
        self._names = {handler.name for handler in handlers if handler.options.light}
        self._breaches: dict[str, int] = {}
        self._turn = threading.Lock()

    def has(self, handler: Handler) -> bool:
        """Tell whether a handler may be called inside the claiming transaction."""
        return handler.options.light and handler.name in self._names

    def note(self, name: str, seconds: float) -> None:
        """Take note of how long a call took."""
        with self._turn:
            if seconds < PROMISE_SECONDS:
                self._breaches.pop(name, None)
                return
            breaches = self._breaches[name] = self._breaches.get(name, 0) + 1
            if seconds < PATIENCE_SECONDS and breaches < BREACHES:
                return
            self._names.discard(name)
        log.warning(
            "handler.not_light", handler=name, seconds=round(seconds, 3), promised_seconds=PROMISE_SECONDS
        )
