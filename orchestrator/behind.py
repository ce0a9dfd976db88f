"""A batch that is saved behind the one that is stepped: while PostgreSQL writes the one, Python decides the next.

Theory of operation. A drain has a second thread, which saves what it is given: it writes, commits, and does what follows a commit. One
batch at a time; who has stepped the next waits for it. Two batches are two transactions that lock different instances, as
those of two orchestrators are, and each is saved or not by itself.

One thing two orchestrators do not have: the second waits for the first, and holds locks meanwhile. Should the first wait for one of them (or
for one that nobody lets go of), neither would end, and the database would see no circle in it. So who has waited for `PATIENCE` gives up
what it has stepped, which is nothing but decisions so far, and only then waits for as long as it takes.

A process that has drained waits for nobody here: what hangs at the database by then is rolled back by its end. So the thread is a daemon, as
none of `concurrent.futures` is, which are all waited for when an interpreter ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue

import structlog

from orchestrator.passed import Pass

Given = tuple[Future[Pass], Callable[[], Pass]]

log = structlog.get_logger("signalbox.orchestrator")

PATIENCE = 1.0
"""Seconds to wait for the batch before, with locks: a session that idles in a transaction for 5 s loses it."""
WORTH = 16
"""Instances that a batch has at least that is saved behind: to save fewer takes hardly longer than to have a thread do it."""


class Behind:
    """The thread that saves, of one drain at a time."""

    def __init__(self) -> None:
        self._given: SimpleQueue[Given | None] | None = None
        self._saving: Future[Pass] | None = None
        self._saved: list[Pass] = []

    def is_free(self, *, within: float | None) -> bool:
        """Wait until nothing is being saved, for so many seconds at most; None: as long as it takes. Never raises what became of it."""
        return self._saving is None or not wait([self._saving], timeout=within).not_done

    def save(self, work: Callable[[], Pass]) -> None:
        """Have a batch saved, behind the one before. Raises what that one was lost by, after the new one has been begun."""
        if self._given is None:
            self._given = SimpleQueue()
            threading.Thread(target=_save_each, args=(self._given,), name="behind", daemon=True).start()
        before, self._saving = self._saving, Future()
        self._given.put((self._saving, work))
        self._note(before)

    def saved(self) -> list[Pass]:
        """What was saved since the last time. Does not wait for what is being saved."""
        saved, self._saved = self._saved, []
        return saved

    def join(self) -> list[Pass]:
        """Wait until everything is saved; what was since the last time. Raises what the last one was lost by."""
        before, self._saving = self._saving, None
        self._note(before)
        return self.saved()

    def abandon(self) -> None:
        """Wait until nothing is being saved, whatever becomes of it: who was to hear of it has an error of his own."""
        before, self._saving = self._saving, None
        self._saved.clear()
        if before is not None and (error := before.exception()) is not None:
            log.warning("batch.lost", error=type(error).__name__)

    def close(self) -> None:
        """Let the thread end, once it has saved what it was given. Does not wait for it."""
        given, self._given = self._given, None
        if given is not None:
            given.put(None)

    def _note(self, saving: Future[Pass] | None) -> None:
        if saving is not None:
            self._saved.append(saving.result())


def _save_each(given: SimpleQueue[Given | None]) -> None:
    while (one := given.get()) is not None:
        saving, work = one
        try:
            saving.set_result(work())
        except BaseException as error:  # noqa: BLE001 - told to who waits for it
            saving.set_exception(error)
        del one, saving, work  # a batch is not kept until the next one comes
