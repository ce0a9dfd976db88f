"""What a handler sees of its task."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from common.canonical import clean, dumps, read, size
from task_runner.metadata import Metadata, MetadataPort
from task_runner.redact import NOTHING_HIDDEN, Redaction
from task_runner.registry import Permanent

MAX_PROGRESS_BYTES = 64_000
_NOTHING_NEW = object()


class Claimed(Protocol):
    """What a context needs to know of a claim; `progress`, `state` and `options` are stored JSON texts."""

    @property
    def id(self) -> str: ...
    @property
    def tenant_id(self) -> str: ...
    @property
    def instance_id(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def max_attempts(self) -> int: ...
    @property
    def idempotency_key(self) -> str | None: ...
    @property
    def progress(self) -> str | None: ...
    @property
    def state(self) -> str | None: ...
    @property
    def options(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class _Part:
    """What a handler that is called by another one knows of the claim."""

    id: str
    tenant_id: str
    instance_id: str
    type: str
    name: str
    attempt: int
    max_attempts: int
    idempotency_key: str
    progress: str | None = None
    state: str | None = None
    options: str | None = None


class TaskContext:
    """One attempt of one task. Safe to use from threads that the handler starts.

    `tell` hears of every heartbeat, with the progress as JSON text where there is some: how an isolated handler's
    process passes it on. `metadata` is where the instance's metadata is kept.
    """

    def __init__(
        self,
        claim: Claimed,
        *,
        tell: Callable[[str | None], None] | None = None,
        metadata: MetadataPort | None = None,
    ) -> None:
        self._tenant_id = claim.tenant_id
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
        self.state: Any = read(claim.state) if claim.state else None
        """What the attempt before said to go on from (`Continue`), or None at the first."""
        self.options: Mapping[str, Any] = read(claim.options) if claim.options else {}
        """What the task says beside its input, by the names of definitions: `policy`, `title`, `labels`, …"""
        self._log: Any = None
        self.heard_at = time.monotonic()
        """When the handler last gave a sign of life, on this process's monotonic clock."""
        self.redaction = NOTHING_HIDDEN
        """What the handler was given in confidence, for whoever stores or shows what it says."""
        self._metadata = metadata
        self._tell = tell
        self._cancelled = threading.Event()
        self._on_cancel: Callable[[], None] | None = None
        self._told: str | None = None
        self._unsaved: str | None = None
        self._turn = threading.Lock()

    def conceal(self, redaction: Redaction) -> None:
        """Keep what the handler is given in confidence out of its progress and its log. Before it is called."""
        if not redaction:
            return
        self.redaction = redaction
        self._log = None

    @property
    def log(self) -> Any:
        """A logger whose lines name this attempt, without what the handler was given in confidence."""
        if self._log is None:  # most handlers say nothing
            about: dict[str, Any] = {
                "tenant_id": self._tenant_id, "instance_id": self.instance_id, "task_id": self.task_id,
                "attempt": self.attempt,
            }  # fmt: skip
            if self.redaction:
                *before, last = structlog.get_config()["processors"]
                self._log = structlog.wrap_logger(
                    None,
                    processors=[*before, self.redaction.line, last],
                    logger_factory_args=("signalbox.handler",),
                    **about,
                )
            else:
                self._log = structlog.get_logger("signalbox.handler").bind(**about)
        return self._log

    def redact(self, text: str) -> str:
        """`text` without the values of secrets. Whatever is returned or raised is redacted anyway; redact before you cut."""
        return self.redaction.text(text)

    @property
    def metadata(self) -> Metadata:
        """JSON values that all handlers of this instance share, stored at once. Raises `LookupError` outside a runner."""
        if self._metadata is None:
            raise LookupError(
                "this context was made without metadata: only a task runner and the test kit have some"
            )
        return Metadata(self._metadata, self.redaction.json)

    @property
    def cancelled(self) -> bool:
        """True when the result is not wanted any more: cancelled, out of time, or the lease was lost. Return soon."""
        return self._cancelled.is_set()

    def heartbeat(self, progress: Any = _NOTHING_NEW) -> None:
        """Give a sign of life and, where given, report progress (any JSON of at most 64,000 bytes).

        Progress is shown to people, saved with the next beat and at the end of the attempt, and given to the next
        attempt. Raises `Permanent` (`progress.too_large`), and `Invalid` for what is not JSON.
        """
        text = None
        if progress is not _NOTHING_NEW:
            text = dumps(self.redaction.json(clean(progress)))
            if size(text) > MAX_PROGRESS_BYTES:
                raise Permanent(
                    f"progress of {size(text)} bytes, at most {MAX_PROGRESS_BYTES} are allowed; store it elsewhere and "
                    "report a reference",
                    code="progress.too_large",
                )
        self.note_heartbeat(text)
        if self._tell is not None:
            self._tell(text)

    def for_tool(self, name: str, idempotency_key: str) -> TaskContext:
        """The context of another handler that this one calls as a part of its work, in the same attempt.

        It is cancelled with this one, and its signs of life are this one's.
        """
        part = TaskContext(
            _Part(
                self.task_id,
                self._tenant_id,
                self.instance_id,
                name,
                name,
                self.attempt,
                self.max_attempts,
                idempotency_key,
            ),
            tell=lambda _progress: self.heartbeat(),
            metadata=self._metadata,
        )
        part.conceal(self.redaction)
        part._cancelled = self._cancelled
        return part

    def note_heartbeat(self, progress: str | None) -> None:
        """Take note of a heartbeat, with the progress as JSON text where there is some."""
        with self._turn:
            self.heard_at = time.monotonic()
            if progress is not None:
                self._told = self._unsaved = progress

    @property
    def last_progress(self) -> str | None:
        """The progress that this attempt reported last, as JSON text. For the report."""
        return self._told

    def take_unsaved_progress(self) -> str | None:
        """The progress that is not stored yet, once. For the beat."""
        with self._turn:
            text, self._unsaved = self._unsaved, None
            return text

    def cancel(self) -> None:
        """Tell the handler that nobody waits for it. For the beat and the watch."""
        self._cancelled.set()
        with self._turn:
            tell = self._on_cancel
        if tell is not None:
            tell()

    def on_cancel(self, tell: Callable[[], None] | None) -> None:
        """Have `tell` called by `cancel`, at once where it was called before."""
        with self._turn:
            self._on_cancel = tell
        if tell is not None and self.cancelled:
            tell()
