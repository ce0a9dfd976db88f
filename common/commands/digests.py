"""Digests by which the history vouches for what it does not hold itself."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection

from common.canonical import dumps
from common.clock import instant_text
from common.ids import TaskId
from common.store import attempts


def attempts_digests(tx: Connection, ids: Sequence[TaskId]) -> dict[str, str]:
    """SHA-256 over each task's attempts, hex: the history entry that ends a task vouches for how it was tried.

    It covers the attempts that stand in the table: of a POLL at least the newest 100, and the entry says how many checks
    there were.
    """
    return {task: attempts_digest(rows) for task, rows in attempts.read_attempts(tx, ids).items()}


def attempts_digest(rows: Sequence[tuple[Any, ...]]) -> str:
    """The digest of attempts (attempt, outcome, started_at, ended_at), oldest first."""
    listed = [
        [attempt, outcome, instant_text(started), instant_text(ended) if ended else None]
        for attempt, outcome, started, ended in rows
    ]
    return sha256(dumps(listed).encode()).hexdigest()
