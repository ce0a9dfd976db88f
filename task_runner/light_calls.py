"""Light handlers that steps wait for: called in the thread that hears the call, and told at once (`common.queues.light_calls`).

No row tells of such a task yet. What just succeeded is told to the step, which stores it with the task. What ended otherwise, or took
too long, is kept: the step leases the task to this process, and when that is committed the outcome is reported as that of any other lease
(`handed.py`). Of what the step forgets, because it was undone, nothing is left here after a while.

A handler that turns out to need its lease, because it writes metadata, is not called here any more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Never

import structlog

from common.commands.outcome import Outcome
from common.ids import LeaseToken, TaskId
from common.queues.answers import ANSWER_BYTES
from common.queues.calls import Caller
from common.queues.light_calls import Called, HeardCalls, LightCall, LightReply
from common.queues.told_task import ToldTask
from common.store.claims import TaskClaim
from task_runner.context import TaskContext
from task_runner.executor import Executor, in_force
from task_runner.metadata import Swapped
from task_runner.registry import Handler
from task_runner.reporting import Held, Reporting, error_text
from task_runner.resolve import NOTHING_PREPARED

BUDGET_SECONDS = 0.03
"""What is not called by then, of one call, is left to anybody: the step waits for it with locks in its hands."""
STUCK_SECONDS = 0.1
"""A call that takes so long keeps those behind it waiting: this process offers to call nothing until it is over."""
KEPT_SECONDS = 20.0
"""How long an outcome waits for its lease: some times what a step takes to commit, or a look to find what it leased."""
TOLD_SECONDS = 2.0
"""For so long an end is remembered that was told in time, as far as is known here: its step may have waited no longer, and leased the task."""
IN_USE_SECONDS = 5.0
"""For so long after a call another one is to be expected."""
log = structlog.get_logger("signalbox.task_runner")


class NeedsLease(Exception):
    """What a handler asked for can only be done under the lease of its task."""


@dataclass(slots=True)
class _Kept:
    """A call that no step has taken the end of. `held` once its lease is known of; `outcome` once it is over."""

    context: TaskContext
    since: float = field(default_factory=time.monotonic)
    outcome: Outcome | None = None
    held: Held | None = None


class _NoMetadata:
    """In the place of the metadata of an instance, for a handler that holds no lease: asked for any, it ends the call."""

    def __init__(self) -> None:
        self.was_asked_for = False

    def read(self, key: str) -> str | None:
        return self._need_lease(key)

    def read_all(self) -> dict[str, str]:
        return self._need_lease("all")

    def write(self, key: str, value: str | None) -> Swapped:  # noqa: ARG002 - a port
        return self._need_lease(key)

    def swap(self, key: str, value: str, expected: str | None) -> Swapped:  # noqa: ARG002 - a port
        return self._need_lease(key)

    def _need_lease(self, key: str) -> Never:
        self.was_asked_for = True
        raise NeedsLease(
            f'metadata ("{key}") goes with the lease of a task; the task is called again under one'
        )


class LightCalls:
    """The light calls of one process. `hear` is for the thread that listens; all else is safe from any.

    `may_call` tells whether light handlers are to be called without a lease on record at all.
    """

    def __init__(
        self,
        executor: Executor,
        reporting: Reporting,
        *,
        heard: HeardCalls,
        caller: Caller,
        may_call: Callable[[], bool],
    ) -> None:
        self.address = heard.address
        self._executor = executor
        self._reporting = reporting
        self._heard = heard
        self._caller = caller
        self._may_call = may_call
        self._turn = threading.Lock()
        self._kept: dict[tuple[TaskId, LeaseToken], _Kept] = {}
        self._told: dict[tuple[TaskId, LeaseToken], _Kept] = {}  # oldest first
        self._need_lease: set[str] = set()
        self._calls_since: float | None = None
        self._heard_at = float("-inf")
        self._is_over = False

    @property
    def is_in_use(self) -> bool:
        """Has a step called of late?"""
        return time.monotonic() - self._heard_at < IN_USE_SECONDS

    # -- what is offered -------------------------------------------------------------------------------------------

    def names(self) -> frozenset[str]:
        """The handlers that are called for steps at this moment."""
        since = self._calls_since
        is_stuck = since is not None and time.monotonic() - since > STUCK_SECONDS
        if self._is_over or is_stuck or not self._may_call():
            return frozenset()
        return self._executor.light.names - self._need_lease

    def end(self) -> None:
        """Call nothing any more."""
        self._is_over = True

    def close(self) -> None:
        """Hang up, after `end`."""
        self._caller.close()

    # -- calls -----------------------------------------------------------------------------------------------------

    def hear(self, hints: Sequence[bytes]) -> None:
        """Call what steps ask for, and tell them. Never raises: what is not told is leased by its step, and found by a look."""
        for said in hints:
            try:
                call = self._heard.open(said)
                if call is not None:
                    self._heard_at = time.monotonic()
                    self._tell(call, self._call_all(call.tasks))
            except Exception as error:  # noqa: BLE001 - an outer loop: nobody would hear the calls that follow
                log.warning("light_call.failed", error=error_text(error))
            finally:
                self._calls_since = None

    def _tell(self, call: LightCall, replies: Sequence[LightReply]) -> None:
        sealed = self._heard.seal(call, replies)
        if not self._caller.call_at_once(call.reply_to, sealed):
            self._caller.call(call.reply_to, sealed)

    def _call_all(self, tasks: Sequence[ToldTask]) -> list[LightReply]:
        self._forget_old()
        names = self.names()
        until = time.monotonic() + BUDGET_SECONDS
        return [
            self._call(task, names) if time.monotonic() < until else LightReply(task.token, Called.NOT_CALLED)
            for task in tasks
        ]

    def _call(self, task: ToldTask, names: frozenset[str]) -> LightReply:
        told = task.claim()
        handler = self._executor.find(told)
        claim = told if handler is None else in_force(told, handler.options)
        if handler is None or handler.name not in names or not self._executor.is_light(claim, handler):
            return LightReply(task.token, Called.NOT_CALLED)
        metadata = _NoMetadata()
        kept = _Kept(TaskContext(claim, metadata=metadata))
        with self._turn:
            self._kept[task.id, task.token] = kept
        self._calls_since = time.monotonic()
        outcome = self._executor.call_light(claim, handler, kept.context, NOTHING_PREPARED)
        self._calls_since = None
        if metadata.was_asked_for:
            return self._call_again(task, handler, kept)
        return self._ended(task, kept, outcome)

    def _ended(self, task: ToldTask, kept: _Kept, outcome: Outcome) -> LightReply:
        key = (task.id, task.token)
        is_plain = outcome.is_plain_success and kept.context.last_progress is None
        with self._turn:
            kept.outcome, kept.since = outcome, time.monotonic()
            held = kept.held
            is_told = held is None and is_plain and len(outcome.output or "") <= ANSWER_BYTES
            if is_told:
                self._told[key] = self._kept.pop(key)
        if held is not None:  # its step has leased it by now
            self._report(kept, held)
        return (
            LightReply(task.token, Called.SUCCEEDED, outcome.output)
            if is_told
            else LightReply(task.token, Called.KEPT)
        )

    def _call_again(self, task: ToldTask, handler: Handler, kept: _Kept) -> LightReply:
        """The handler turned out to need the lease of its task: what it came to by then is nothing."""
        self._need_lease.add(handler.name)
        log.info("handler.needs_lease", handler=handler.name, task_id=task.id)
        with self._turn:
            self._kept.pop((task.id, task.token), None)
            held = kept.held
        if held is not None:  # it has it by now
            self._executor.call(held.claim, NOTHING_PREPARED, held.clock, answered_at=held.answered_at)
        return LightReply(task.token, Called.NOT_CALLED)

    # -- what steps have leased to this process ----------------------------------------------------------------------

    def take_over(self, claim: TaskClaim, hold: Callable[[], Held]) -> bool:
        """A lease of this process is known of now. True where its handler was called already, or is being called: then it is held, and reported."""
        with self._turn:
            kept = self._kept.get((claim.id, claim.token)) or self._told.pop((claim.id, claim.token), None)
            if kept is None:
                return False
            held = hold()
            held.context, kept.held = kept.context, held
            is_over = kept.outcome is not None
        self._reporting.hold(held)
        if is_over:
            self._report(kept, held)
        return True

    def _report(self, kept: _Kept, held: Held | None) -> None:
        assert held is not None and kept.outcome is not None, "over, and leased"  # noqa: PT018, S101
        with self._turn:
            self._kept.pop((held.claim.id, held.claim.token), None)
        self._reporting.hand_on(held.with_end(_under(held.claim, kept.outcome)))

    def _forget_old(self) -> None:
        now = time.monotonic()
        with self._turn:
            while self._told and next(iter(self._told.values())).since < now - TOLD_SECONDS:
                del self._told[next(iter(self._told))]
            over = [key for key, one in self._kept.items() if one.outcome and one.since < now - KEPT_SECONDS]
            for key in over:
                del self._kept[key]


def _under(claim: TaskClaim, outcome: Outcome) -> Outcome:
    """An outcome as one of the lease that is on record."""
    return replace(outcome, only_since=claim.claimed_at if claim.is_first else None)
