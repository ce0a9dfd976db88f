"""Sweeping: leases that ran out, tasks out of time, answers kept long enough, workers long gone. Any number of processes may sweep."""

from __future__ import annotations

from datetime import timedelta

import structlog
from sqlalchemy import Connection

from common.commands import breakers
from common.commands.outcome import expire_leases, time_out_tasks
from common.db import TASK_RUNNER_QUEUE, Database, note_bell
from common.db.now import read_now
from common.store import idempotency, workers

WORKERS_KEPT = timedelta(days=1)
ANSWERS = 1_000
"""Idempotency answers that are deleted in one go."""
log = structlog.get_logger("signalbox.orchestrator")


def expire_due_leases(database: Database) -> int:
    """Give back tasks whose worker died or froze; returns how many."""

    def expire(tx: Connection) -> int:
        count = expire_leases(tx, now=read_now(tx))
        if count:
            note_bell(tx, TASK_RUNNER_QUEUE)
        return count

    count = database.run(expire)
    if count:
        log.warning("leases.expired", count=count)
    return count


def time_out_due_tasks(database: Database) -> int:
    """Fail tasks whose time to start or to end is over; returns how many."""
    ended = database.run(lambda tx: time_out_tasks(tx, now=read_now(tx)))
    return ended + database.run(lambda tx: time_out_tasks(tx, now=read_now(tx), maps=True))


def wake_waiting_for_breakers(database: Database) -> int:
    """Let tasks go on whose circuit breaker may be tried again, or has closed; returns how many."""
    return database.run(lambda tx: breakers.wake_waiting(tx, now=read_now(tx)))


def forget(database: Database) -> None:
    """Delete what is past its keeping time and comes slowly: rows of workers that ended, breakers with nothing to tell."""

    def delete(tx: Connection) -> None:
        now = read_now(tx)
        workers.forget_old(tx, before=now - WORKERS_KEPT)
        breakers.forget_idle(tx, now=now)

    database.run(delete)


def forget_answers(database: Database) -> bool:
    """Delete idempotency answers that are past their keeping time, so many at most that nobody waits long for it; True where there are more.

    Each request under a key leaves one, so who asks again much later would never catch up with callers.
    """
    count = database.run(lambda tx: idempotency.delete_expired(tx, now=read_now(tx), limit=ANSWERS))
    return count == ANSWERS
