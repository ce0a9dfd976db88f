"""A batch that is saved behind the one that is stepped: while PostgreSQL writes the one, Python decides the next.

Theory of operation. A drain has a second thread, which saves what it is given: it writes, commits, and does what follows a commit. One
batch at a time; who has stepped the next waits for it. Two batches are two transactions that lock different instances, as
those of two orchestrators are, and each is saved or not by itself.

One thing two orchestrators do not have: the second waits for the first, and holds locks meanwhile. Should the first wait for one of them (or
for one that nobody lets go of), neither would end, and the database would see no circle in it. So who has waited for `PATIENCE` gives up
what it has stepped, which is nothing but decisions so far, and only then waits for as long as it takes.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import structlog

from orchestrator.passed import Pass

log = structlog.get_logger("signalbox.orchestrator")

PATIENCE = 1.0
"""Seconds to wait for the batch before, with locks: a session that idles in a transaction for 5 s loses it."""
WORTH = 16
"""Instances that a batch has at least that is saved behind: to save fewer takes hardly longer than to have a thread do it."""


class Behind:
    """The thread that saves, of one drain at a time."""

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None
        self._saving: Future[Pass] | None = None
        self._saved: list[Pass] = []

    def is_free(self, *, within: float | None) -> bool:
        """Wait until nothing is being saved, for so many seconds at most; None: as long as it takes. Never raises what became of it."""
        return self._saving is None or not wait([self._saving], timeout=within).not_done

    def save(self, work: Callable[[], Pass]) -> None:
        """Have a batch saved, behind the one before. Raises what that one was lost by, after the new one has been begun."""
        before, self._saving = self._saving, self._executor().submit(work)
        self._note(before)

    def join(self) -> list[Pass]:
        """Wait until everything is saved; what was since the last time. Raises what the last one was lost by."""
        before, self._saving = self._saving, None
        self._note(before)
        saved, self._saved = self._saved, []
        return saved

    def abandon(self) -> None:
        """Wait until nothing is being saved, whatever becomes of it: who was to hear of it has an error of his own."""
        before, self._saving = self._saving, None
        self._saved.clear()
        if before is not None and (error := before.exception()) is not None:
            log.warning("batch.lost", error=f"{type(error).__name__}: {error}"[:300])

    def close(self) -> None:
        """Let the thread end, once nothing is being saved."""
        if self._threads is not None:
            self._threads.shutdown(
                wait=False
            )  # a database that does not answer keeps it, and nobody who ends waits for that here

    def _note(self, saving: Future[Pass] | None) -> None:
        if saving is not None:
            self._saved.append(saving.result())

    def _executor(self) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(1, thread_name_prefix="behind")
        return self._threads
