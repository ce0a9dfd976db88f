"""What a handler sees of its task."""

from __future__ import annotations

import threading
from typing import Any

import structlog

from common.canonical import clean, dumps, read
from common.store.tasks import TaskClaim


class TaskContext:
    """One attempt of one task. Safe to use from threads that the handler starts."""

    def __init__(self, claim: TaskClaim) -> None:
        self.instance_id = claim.instance_id
        self.task_id = claim.id
        self.type = claim.type
        self.name = claim.name
        self.attempt = claim.attempt
        self.max_attempts = claim.max_attempts
        self.idempotency_key: str = claim.idempotency_key or claim.id
        """The same for every attempt of this task: give it to whatever must not be done twice."""
        self.progress: Any = read(claim.progress) if claim.progress else None
        """What an earlier attempt last reported, or None: where to resume."""
        self.log = structlog.get_logger("signalbox.handler").bind(
            tenant_id=claim.tenant_id, instance_id=claim.instance_id, task_id=claim.id, attempt=claim.attempt
        )
        self._cancelled = threading.Event()
        self._unsaved: str | None = None
        self._turn = threading.Lock()

    @property
    def cancelled(self) -> bool:
        """True when the result is not wanted any more: the task was cancelled, or its lease was lost. Return soon."""
        return self._cancelled.is_set()

    def heartbeat(self, progress: Any = None) -> None:
        """Report progress (any JSON): shown to people, saved with the next beat, given to the next attempt."""
        text = dumps(clean(progress))
        with self._turn:
            self._unsaved = text

    def take_unsaved_progress(self) -> str | None:
        """The progress that is not stored yet, once. For the beat."""
        with self._turn:
            text, self._unsaved = self._unsaved, None
            return text

    def cancel(self) -> None:
        """Tell the handler that nobody waits for it. For the beat."""
        self._cancelled.set()
