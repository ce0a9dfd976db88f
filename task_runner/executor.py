"""One attempt: its handler called where it belongs, and ended where it overruns its time.

Handlers are called in slots, isolated ones there in processes of their own, light ones in the thread that took their tasks. An
attempt that overruns its time is ended at once by the watch: its outcome goes to the committer, its handler is told,
and its slot is another's. The thread cannot be stopped; what it still returns is refused and recorded as late. An
isolated handler's process is killed instead, and its slot says how it ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import structlog

from common.canonical import dumps
from common.clock import ReadClock
from common.commands.outcome import Outcome
from common.db import Database
from common.retry import RetryPolicy
from common.store.claims import TaskClaim
from common.task_error import TaskError
from task_runner.attempt import described
from task_runner.call import call_handler, ended, ended_with
from task_runner.context import TaskContext
from task_runner.isolate import Children, IsolatedCall, Surroundings
from task_runner.light import LightHandlers
from task_runner.line import Line
from task_runner.registry import PLAIN, Handler, HandlerError, Options, Registry
from task_runner.reporting import Held, Reporting
from task_runner.resolve import Prepared
from task_runner.slots import Slots, Ticket
from task_runner.watch import Bounds, Watch

log = structlog.get_logger("signalbox.task_runner")

CANCEL_GRACE = 5.0
"""Seconds that an isolated handler has to return once nobody waits for it; then its process is killed."""
UNWANTED = TaskError("task.unwanted", "nobody waited for the isolated handler, and it did not return")


class Executor:
    """Calls the handlers of a process, and reports how they ended.

    `on_room` is called when a slot is free again because its attempt overran, `on_wearing_out` when half of the
    threads of slots are zombies, before the end of the attempt that made it so is stored, and `on_worn_out` after that was handed on.
    """

    def __init__(
        self,
        database: Database,
        registry: Registry,
        reporting: Reporting,
        *,
        slots: int,
        max_output_bytes: int,
        surroundings: Surroundings,
        on_room: Callable[[], None],
        on_wearing_out: Callable[[], None],
        on_worn_out: Callable[[], None],
    ) -> None:
        self.database = database
        self.registry = registry
        self.reporting = reporting
        self.max_output_bytes = max_output_bytes
        self.on_room = on_room
        self.on_wearing_out = on_wearing_out
        self.on_worn_out = on_worn_out
        self.slots = Slots(slots)
        self.line = Line(slots)
        self.light = LightHandlers(registry.all())
        self._children = Children(surroundings)
        self._watch: Watch[Held] = Watch(self._overrun)

    def start(self) -> None:
        self._watch.start()

    def close(self) -> None:
        """Watch nothing any more, and end the processes of isolated handlers that wait for a call."""
        self._watch.close()
        self._children.close()

    @property
    def room(self) -> int:
        """How many more tasks could be called at once."""
        return min(self.slots.free, self.reporting.room)

    @property
    def line_length(self) -> int:
        """How many tasks may wait for a slot: none where all slots are taken and no call has ended for a while."""
        return self.line.length if self.line.is_moving or self.slots.free > 0 else 0

    # -- whose handler ---------------------------------------------------------------------------------------------

    def find(self, claim: TaskClaim) -> Handler | None:
        """The handler of a claim; None where this process has none, which the call tells as the attempt's failure."""
        try:
            return self.registry.find(claim.type, claim.name)
        except KeyError:
            return None

    def options(self, claim: TaskClaim) -> Options:
        """The options of a claim's handler."""
        handler = self.find(claim)
        return PLAIN if handler is None else handler.options

    def is_light(self, claim: TaskClaim, handler: Handler) -> bool:
        """May a handler be called where others wait for it? One whose time is bounded is watched, in a slot."""
        is_bounded = claim.timeout_ms is not None or claim.heartbeat_ms is not None
        return not is_bounded and self.light.has(handler)

    # -- in a slot -------------------------------------------------------------------------------------------------

    def call(
        self,
        claimed: TaskClaim,
        prepared: Prepared,
        clock: ReadClock | None = None,
        *,
        is_limited: bool = False,
        answered_at: str | None = None,
    ) -> None:
        """Put a claim into a slot; its outcome is reported when it has ended."""
        claim = in_force(claimed, self.options(claimed))
        held = Held.of(claim, self.database, clock, is_limited=is_limited, answered_at=answered_at)
        handler = self.find(claim)
        if handler is not None and handler.options.isolated:
            held.isolated = IsolatedCall()
        held.ticket = Ticket()
        self.reporting.hold(held)
        self.slots.submit(lambda: self._run(held, handler, prepared), self.reporting.end, held.ticket)

    def _run(self, held: Held, handler: Handler | None, prepared: Prepared) -> Outcome:
        claim, context, began = held.claim, held.context, time.monotonic()
        bounds = Bounds.of(claim.timeout_ms, claim.heartbeat_ms)
        if bounds is not None:
            self._watch.add(held, bounds, lambda: held.context.heard_at)
        if handler is None or held.isolated is None:
            outcome = call_handler(
                self.registry, claim, context, max_output_bytes=self.max_output_bytes, prepared=prepared
            )
        else:
            outcome = self._call_isolated(held, handler, held.isolated, prepared)
        self._watch.drop(held)
        self.line.note(time.monotonic() - began)
        return held.with_end(outcome)

    def _call_isolated(self, held: Held, handler: Handler, call: IsolatedCall, prepared: Prepared) -> Outcome:
        try:
            input = prepared.fill(held.claim)
        except HandlerError as error:
            call.leave()
            return ended(held.claim, error=described(error))
        result = self._children.call(
            call,
            handler,
            held.claim,
            held.context,
            input,
            held.metadata,
            max_output_bytes=self.max_output_bytes,
        )
        ended_so = result.error is not None and result.error is call.verdict
        return replace(ended_with(held.claim, result), timed_out=ended_so)

    # -- in the thread that took the task --------------------------------------------------------------------------

    def call_here(
        self,
        claim: TaskClaim,
        handler: Handler,
        prepared: Prepared,
        clock: ReadClock | None,
        *,
        answered_at: str | None = None,
    ) -> Outcome:
        """Call a light handler in this thread. It is held as any other, so that its lease is beaten until its end is stored."""
        held = Held.of(claim, self.database, clock, answered_at=answered_at)
        self.reporting.hold(held)
        return held.with_end(self.call_light(claim, handler, held.context, prepared))

    def call_light(
        self, claim: TaskClaim, handler: Handler, context: TaskContext, prepared: Prepared
    ) -> Outcome:
        """Call a light handler in this thread, and take note of how long it took."""
        began = time.monotonic()
        outcome = call_handler(
            self.registry, claim, context, max_output_bytes=self.max_output_bytes, prepared=prepared
        )
        self.light.note(handler.name, time.monotonic() - began)
        return outcome

    # -- before its end --------------------------------------------------------------------------------------------

    def _overrun(self, held: Held, error: TaskError) -> None:
        """The time of an attempt is over: end it now, whatever its handler is doing."""
        if held.isolated is not None:
            held.isolated.kill(error)
            return
        if held.ticket is None or not self.slots.abandon(held.ticket):
            return  # it has just ended by itself
        zombies = self.slots.zombies
        is_worn_out = 2 * zombies >= self.slots.size
        if is_worn_out:
            self.on_wearing_out()
        # Before the handler is told: what it then returns must find its attempt ended.
        self.reporting.hand_on(
            replace(ended(held.claim, error=error, timed_out=True), progress=held.context.last_progress)
        )
        held.context.cancel()
        log.warning(
            "attempt.overran", task_id=held.claim.id, instance_id=held.claim.instance_id, code=error.code, zombies=zombies
        )  # fmt: skip
        if is_worn_out:
            self.on_worn_out()
        self.on_room()

    def give_back_waiting(self, longer_than: float) -> int:
        """Give back what has waited in the line for more than so many seconds, the newest first; how many. What has a slot will begin."""
        before, given = time.monotonic() - longer_than, 0
        for one in reversed(self.reporting.held):
            if self.slots.free >= 0:
                break
            if one.held_since <= before and self._withdraw(one):
                self.reporting.hand_on(ended(one.claim, released=True))
                given += 1
        return given

    def give_back(self, claim: TaskClaim) -> None:
        """Give back what has never come to a slot."""
        self.reporting.hold(Held.of(claim, self.database))
        self.reporting.hand_on(ended(claim, released=True))

    def _withdraw(self, held: Held) -> bool:
        return held.ticket is not None and self.slots.withdraw(held.ticket)

    def tell_unwanted(self, held: Held) -> None:
        """Tell a handler that its task is not this process's any more; one that has not begun is not called.

        An isolated one is ended after a grace.
        """
        if self._withdraw(held):
            self.reporting.let_go([ended(held.claim)])
            return
        held.context.cancel()
        if held.isolated is not None:
            now = time.monotonic()
            held.unwanted_at = held.unwanted_at or now
            if now >= held.unwanted_at + CANCEL_GRACE:
                held.isolated.kill(UNWANTED)


def in_force(claim: TaskClaim, options: Options) -> TaskClaim:
    """A claim with what its handler says where neither the task nor its definition did."""
    if options.retry is None and options.timeout_ms is None and options.heartbeat_ms is None:
        return claim
    allowed = allowance(claim, options)
    return replace(
        claim,
        retry=dumps(dict(options.retry)) if claim.retry is None and options.retry else claim.retry,
        max_attempts=claim.max_attempts if allowed is None else allowed["b_max_attempts"],
        timeout_ms=options.timeout_ms if claim.timeout_ms is None else claim.timeout_ms,
        heartbeat_ms=options.heartbeat_ms if claim.heartbeat_ms is None else claim.heartbeat_ms,
    )


def allowance(claim: TaskClaim, options: Options) -> dict[str, Any] | None:
    """How often a task may be tried that its handler has a policy for; told once, at the first attempt."""
    if claim.retry is not None or options.retry is None or claim.attempt != 1:
        return None
    return {"b_id": claim.id, "b_max_attempts": RetryPolicy.read(options.retry).max_attempts}
