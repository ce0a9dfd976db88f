"""A worker process says that it is here, that it lives, and that it leaves; and notices neighbours that died unsaid."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Connection

from common.canonical import dumps
from common.db import Database
from common.db.now import read_now
from common.ids import WorkerId, new_id
from common.store import workers
from common.store.workers import PublishedHandler

log = structlog.get_logger("signalbox.presence")

SUSPICION = timedelta(seconds=60)
"""How long after an unexplained death its possible cause is handled with care."""


@dataclass(frozen=True, slots=True)
class Presence:
    """This process as the other processes see it."""

    id: WorkerId
    duty: str
    types: tuple[str, ...] = ()
    slots: int = 0

    @classmethod
    def of(cls, duty: str, *, types: Iterable[str] = (), slots: int = 0) -> Presence:
        return cls(WorkerId(new_id()), duty, tuple(sorted(types)), slots)


def arrive(
    tx: Connection, presence: Presence, *, version: str, published: Iterable[PublishedHandler] = ()
) -> None:
    """Register this process, publish what it can do, and record local predecessors whose pid is gone as dead."""
    now = read_now(tx)
    host = socket.gethostname()
    gone = [
        worker for worker, pid in workers.unended_on(tx, host) if pid == os.getpid() or not _is_alive(pid)
    ]
    workers.mark_dead(tx, gone, now=now)
    workers.register(
        tx, worker=presence.id, duty=presence.duty, host=host, pid=os.getpid(), version=version,
        types=dumps(list(presence.types)), slots=presence.slots, now=now,
    )  # fmt: skip
    workers.publish(tx, published, now=now)


def stay(
    database: Database, presence: Presence, *, register: Callable[[Connection], None]
) -> datetime | None:
    """Say that this process lives; returns when a process of its duty last died unsaid, within the last minute.

    Where the database does not know it, `register` has it arrive anew: it may have been restored from a backup that was taken before this process
    began, or the process was frozen until its row was forgotten. It works either way, and everybody would be told that nobody does.
    """
    if database.is_sqlite:
        stayed = database.run(lambda tx: workers.stay(tx, presence.id, presence.duty, suspicion=SUSPICION))
    else:
        with database.each_alone() as tx:
            stayed = workers.stay_alone(tx, presence.id, presence.duty, suspicion=SUSPICION)
    if not stayed.is_known:
        database.run(register)
        log.warning("presence.renewed", worker_id=presence.id, duty=presence.duty)
    return stayed.last_death


def leave(tx: Connection, presence: Presence) -> None:
    """Say good-bye: nothing this process held is suspect."""
    workers.say_goodbye(tx, presence.id, now=read_now(tx))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
