"""Firing timers: a due row becomes an inbox row, once, in one transaction; advancing does the rest.

Never early: the database's clock decides. Harmless when the state was left meanwhile: the obligation is not open in the
snapshot, and the event is consumed as ignored.
"""

from __future__ import annotations

import time

from sqlalchemy import Connection

from common.db import Database
from common.db.now import read_now
from common.db.tables import InboxType
from common.store import inbox, timers

FIRE_SECONDS = 0.25
"""How long one look may fire, so that a hundred thousand timers that fall due together do not keep events waiting."""


def fire_due_timers(database: Database, *, seconds: float = FIRE_SECONDS) -> int:
    """Fire due timers, oldest first, 500 a transaction, for about `seconds`; returns how many.

    A multiple of 500 that is not 0 means that more may be due.
    """
    until = time.monotonic() + seconds
    fired = 0
    while True:
        count = database.run(_fire_batch)
        fired += count
        if count < timers.BATCH or time.monotonic() > until:
            return fired


def _fire_batch(tx: Connection) -> int:
    now = read_now(tx)
    due = timers.lock_due(tx, now=now)
    timers.fire(tx, [timer.id for timer in due], now=now)
    inbox.put(
        tx,
        [
            inbox.new_row(
                timer.tenant_id,
                timer.instance_id,
                timer.inbox_type,
                timer.body,
                f"timer:{timer.key}",
                now,
                lane=inbox.CONTROL if timer.inbox_type is InboxType.TIMEOUT else inbox.ORDINARY,
            )
            for timer in due
        ],
    )
    return len(due)
