"""Sweeping finished instances whose time of keeping is over, and limits that no task asks for any more.

Any number of processes may sweep; none waits for another.

A sweep is made of small transactions with a rest after each: as long as the batch took where nothing else is to be
done, four times as long where events wait. So it never has more than half of one connection's time, and yields to load; a
slow database makes it slower by itself. It runs in a thread of its own, so that no step and no timer waits for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

import structlog

from common.commands.retention import due_rules
from common.db import Database, reason
from common.db.now import read_now
from common.retention import Keeping
from common.store import inbox, limits, retention
from common.store.limits import LimitKey
from common.store.retention import Position, Rule, Swept

log = structlog.get_logger("signalbox.retention")

REST_IDLE, REST_BUSY = 1.0, 4.0
"""How long a sweep rests after a batch, in times of what the batch took."""
LONGEST_REST = 2.0
REASON = "retention"
LIMITS_EVERY = 10
"""Limits are swept once in so many looks: that goes through all of them, used or not."""

Rest = Callable[[float], bool]
"""Rest for so many seconds, or until told to end: then True."""


def sweep(database: Database, keeping: Keeping, *, rest: Rest, batch: int = retention.BATCH) -> int:
    """Delete what is due, pass by pass, until a pass deletes nothing or `rest` says to end; how many went.

    Another pass may find parents whose last child went in the one before.
    """
    deleted = 0
    while True:
        done, is_ending = _sweep_once(database, keeping, rest, batch)
        deleted += done
        if is_ending or not done:
            return deleted


def _sweep_once(database: Database, keeping: Keeping, rest: Rest, batch: int) -> tuple[int, bool]:
    began = time.monotonic()
    with database.reading() as tx:
        rules = retention.rules_with_due(tx, due_rules(tx, keeping, now=read_now(tx)))
    if _rest_after(database, began, rest):  # of ten thousand versions that takes as long as many batches
        return 0, True
    deleted = 0
    for rule in rules:
        after: Position | None = None
        while True:
            began = time.monotonic()
            swept = _sweep_batch(database, rule, after, batch)
            deleted += swept.deleted
            if _rest_after(database, began, rest):
                return deleted, True
            if swept.reached is None:
                break
            after = swept.reached
    return deleted, False


def _sweep_batch(database: Database, rule: Rule, after: Position | None, batch: int) -> Swept:
    return database.run(lambda tx: retention.sweep_batch(tx, rule, after, reason=REASON, limit=batch))


def sweep_limits(database: Database, *, rest: Rest, batch: int = limits.SWEPT) -> int:
    """Delete the limits that definitions caused and no task asks for; how many. They stand again with the next task that does."""
    deleted = 0
    after: LimitKey | None = None
    while True:
        began = time.monotonic()
        with database.reading() as tx:
            unused, after = limits.find_unused(tx, after=after, limit=batch)
        if unused:
            deleted += database.run(partial(limits.delete_unused, names=unused))
        if _rest_after(database, began, rest) or after is None:
            return deleted


def _rest_after(database: Database, began: float, rest: Rest) -> bool:
    """Rest for what was done since `began`; True where it is to end."""
    took = time.monotonic() - began
    return rest(min(took * (REST_BUSY if _is_busy(database) else REST_IDLE), LONGEST_REST))


def _is_busy(database: Database) -> bool:
    with database.reading() as tx:
        return inbox.has_ready(tx)


class Sweeper:
    """Sweeps in a thread of its own, every `look_seconds`."""

    def __init__(self, database: Database, keeping: Keeping, *, look_seconds: float) -> None:
        self._database = database
        self._keeping = keeping
        self._look_seconds = look_seconds
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._reside, name="retention", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def begin_end(self) -> None:
        """Take no further batch; one that runs is finished."""
        self._ending.set()

    def end(self, *, wait: float) -> None:
        self.begin_end()
        if self._thread.is_alive():
            self._thread.join(wait)

    def _reside(self) -> None:
        pause, deleted = self._look_seconds, 0
        limits_at = time.monotonic() + LIMITS_EVERY * self._look_seconds
        while not self._ending.wait(pause):
            # Where something falls due all the time, passes follow each other without end: limits are not to wait for that.
            are_limits_due = time.monotonic() >= limits_at
            unused = 0
            try:
                found, _ = _sweep_once(self._database, self._keeping, self._ending.wait, retention.BATCH)
                if are_limits_due:
                    limits_at = time.monotonic() + LIMITS_EVERY * self._look_seconds
                    unused = sweep_limits(self._database, rest=self._ending.wait)
            except Exception as error:  # noqa: BLE001 - an outer loop: the next look tries again
                log.warning("retention.trouble", error=reason(error))
                pause = self._look_seconds
                continue
            deleted += found
            pause = 0.0 if found else self._look_seconds
            if unused or (deleted and (are_limits_due or not found)):
                log.info("retention.swept", deleted=deleted, limits=unused)
                deleted = 0
