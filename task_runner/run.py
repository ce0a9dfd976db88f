"""Claim, call, beat, report: a runner process's work between the database and its handlers.

Theory of operation. The dispatcher claims as many due tasks as there are free slots and puts each into a slot (`claiming.py`); while there
is nothing to claim, the process offers its slots, and takes up what steps lease to it (`handed.py`). Its handlers are called and ended by
`executor.py`, their outcomes stored by `reporting.py`. Every 2 s one statement extends the lease of everything that is held, results that
wait for their commit included; an id that does not come back was cancelled or its lease was lost, and its handler is told.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta

from sqlalchemy import Connection

from common.breaker import BreakerPolicy
from common.commands.limits import Runs
from common.commands.outcome import report_outcomes
from common.courtesy import Courtesy, Portions
from common.db import Database
from common.db.now import read_now
from common.ids import TaskId, TenantId, WorkerId
from common.queues.answers import Envelope
from common.queues.calls import Caller
from common.queues.dispatcher import Drained
from common.queues.handed import SealedTasks
from common.queues.light_calls import HeardCalls
from common.store import attempts
from task_runner.answering import Answering
from task_runner.claiming import Batch, Claiming
from task_runner.executor import Executor
from task_runner.handed import HandedTasks
from task_runner.isolate import Surroundings
from task_runner.light_calls import LightCalls
from task_runner.limited import LimitedTasks
from task_runner.offering import RENEWED_IDLE_AFTER, Offering, Say
from task_runner.registry import Registry
from task_runner.reporting import MakeAnswering, Reporting
from task_runner.resolve import Resolver
from task_runner.shares import MEMORY_SECONDS, Shares

CLAIMED = Portions(128, 32, 4)
"""Tasks of one claim. Light ones are called one after the other before its commit."""

NOBODY: frozenset[TenantId] = frozenset()


class Runner:
    """One process's handlers at work. `on_room` is called when slots or the committer have room again.

    `on_due` is called when a task is to be tried again later, with the seconds until then.
    `on_wearing_out` is called once half of the slots' threads are zombies, and nothing should be taken any more, the retry of what made it so
    least of all; `on_worn_out` after its end was handed on: the process should end and be started anew.
    With an `envelope` and a `caller` light handlers are called for steps that wait; with an `envelope` steps are told how tasks ended that they leased to it, by what it may `say`.
    `is_wary` tells whether a runner died unsaid of late: then light handlers are run as ordinary ones (`light.py`).
    """

    def __init__(
        self,
        database: Database,
        registry: Registry,
        *,
        worker: WorkerId,
        slots: int,
        lease: timedelta,
        max_output_bytes: int,
        on_room: Callable[[], None],
        on_wearing_out: Callable[[], None] = lambda: None,
        on_worn_out: Callable[[], None] = lambda: None,
        is_wary: Callable[[], bool] = lambda: False,
        surroundings: Surroundings | None = None,
        resolver: Resolver | None = None,
        ring_in: Callable[[float], None] = lambda _seconds: None,
        on_due: Callable[[float], None] = lambda _seconds: None,
        breakers: BreakerPolicy | None = None,
        say: Say | None = None,
        envelope: Envelope | None = None,
        caller: Caller | None = None,
    ) -> None:
        self.database = database
        self.worker = worker
        self.lease = lease
        shares = self._shares = Shares(slots)
        runs = Runs(registry.types(), registry.functions())
        self.limited = LimitedTasks(database, runs, worker=worker, lease=lease, ring_in=ring_in)
        self.reporting = Reporting(
            database,
            on_freed=self.limited.note_ended,
            on_room=on_room,
            make_answering=_answering(worker, say, envelope),
            portion=shares.portion,
            on_due=on_due,
        )
        self.executor = Executor(
            database, registry, self.reporting, slots=slots, max_output_bytes=max_output_bytes,
            surroundings=surroundings or Surroundings(), on_room=on_room,
            on_wearing_out=on_wearing_out, on_worn_out=on_worn_out,
        )  # fmt: skip
        self.claiming = Claiming(
            database, self.executor, self.reporting, self.limited, worker=worker, lease=lease, shares=shares,
            resolver=resolver, breakers=breakers, is_wary=is_wary,
        )  # fmt: skip
        self.light = self._light_calls(envelope, caller)
        offering = Offering(
            registry.all(), worker=worker, lease=lease, say=say, are_watched=self.claiming.are_watched,
            light=frozenset if self.light is None else self.light.names,
        )  # fmt: skip
        self._courtesy = Courtesy()
        self._handed = HandedTasks(
            database, self.executor, self.reporting, self.claiming, offering, worker=worker, shares=shares,
            courtesy=self._courtesy, resolver=resolver, light=self.light, ring_in=ring_in,
            sealed=None if envelope is None else SealedTasks(envelope, worker),
        )  # fmt: skip
        self.slots = self.executor.slots
        self._ring_in = ring_in

    def _light_calls(self, envelope: Envelope | None, caller: Caller | None) -> LightCalls | None:
        if envelope is None or caller is None:
            return None
        claiming = self.claiming
        return LightCalls(
            self.executor,
            self.reporting,
            heard=HeardCalls(envelope, self.worker),
            caller=caller,
            may_call=lambda: not claiming.is_wary() and time.monotonic() >= claiming.ordinary_until,
        )

    def start(self) -> None:
        self.reporting.start()
        self.executor.start()

    @property
    def held(self) -> int:
        """How many claims this process holds: in a slot, or ended and not yet stored."""
        return len(self.reporting.held)

    def claim(self, until: float) -> Drained:
        """Claim due tasks until the slots are full, nothing is due, or `until` is over."""
        claiming, limited = self.claiming, self.limited
        claimed = self._handed.take_up_unknown()
        while True:
            if claiming.flooding and (rest := self._courtesy.rest()):
                self._ring_in(rest)
                return Drained(Counter(claimed=claimed))
            claiming.have_more = None
            free = claiming.room()
            room, line = max(free, 0), claiming.claimed_line_length
            if free + line <= 0:
                return Drained(Counter(claimed=claimed))
            share = limited.share(room)
            before = claiming.claim_limited(share)
            # Not even its share was there to be taken, and no place of its own is left.
            has_seen_all = share > before and not limited.has_freed
            room -= before
            # What is claimed may wait for a slot, too: so a backlog is soon over, and what comes next is handed over again.
            limit = min(min(free, 0) + room + line, self._shares.portion(CLAIMED))
            batch = claiming.claim_due(limit) if limit > 0 else Batch(0, is_full=True)
            rest = max(room - len(batch.left), 0)
            behind = claiming.claim_limited(rest if limited.are_any and not has_seen_all else 0)
            claimed += before + batch.claimed + behind
            self._handed.offer()
            if not batch.is_full and behind < rest:
                return Drained(Counter(claimed=claimed))
            if time.monotonic() > until:
                return Drained(Counter(claimed=claimed), more=True)

    def take_up(self, hints: Sequence[bytes]) -> None:
        """Call what steps have leased to this process, which calls name. Never raises: what is not taken up now is found by a look."""
        self._handed.take_up(hints)

    @property
    def is_idle(self) -> bool:
        """Is nothing held here, was nothing left by the last claim, and does no step call? Then another one is for nothing unless a look finds something."""
        is_called = self.light is not None and self.light.is_in_use
        return (
            not is_called
            and not self.held
            and self.claiming.have_more == NOBODY
            and not self.claiming.flooding
        )

    def offer_idle(self) -> None:
        """Tell steps now and then what this process would take, which has nothing to do."""
        self._handed.offer(after=RENEWED_IDLE_AFTER)

    @property
    def is_in_a_flood(self) -> bool:
        """Should it hear of who arrives, because he would have to wait for many tasks of another's?"""
        return bool(self.claiming.flooding) or self._shares.protect(MEMORY_SECONDS)

    def note_arrivals(self, tenants: Sequence[TenantId]) -> None:
        """These tenants have just started a workflow, or told one something: their next tasks will be here soon."""
        if self._shares.note_arrivals(tenants):
            self._courtesy.note()

    def beat(self) -> None:
        """Extend every held lease, store progress, and tell handlers whose task is not theirs any more."""
        held = self.reporting.held
        if not held:
            return
        progress = [
            (one.claim.id, one.claim.token, text)
            for one in held
            if (text := one.context.take_unsaved_progress())
        ]

        def use_case(tx: Connection) -> set[TaskId]:
            kept = attempts.extend_leases(
                tx, [one.claim.id for one in held], sorted({one.claim.token for one in held}),
                lease=self.lease, now=read_now(tx),
            )  # fmt: skip
            attempts.save_progress(tx, [row for row in sorted(progress) if row[0] in kept])
            return kept

        kept = self.database.run(use_case)
        for one in held:
            if one.claim.id not in kept:
                self.executor.tell_unwanted(one)

    def end_offers(self) -> None:
        """Offer nothing any more, and take up nothing."""
        if self.light is not None:
            self.light.end()
        self._handed.end()

    def drain(self, seconds: float) -> int:
        """Let handlers end for up to `seconds`, report them, give the rest back uncounted; returns how many were given back."""
        self.end_offers()
        given_back = self.executor.give_back_waiting(0.0)
        self.slots.wait_idle(seconds)
        rest = self._handed.untaken()
        rest += self.reporting.close()
        self.executor.close()
        if rest:
            self.database.run(lambda tx: report_outcomes(tx, rest))
        self.reporting.join(5)
        return len(rest) + given_back


def _answering(worker: WorkerId, say: Say | None, envelope: Envelope | None) -> MakeAnswering | None:
    if say is None or envelope is None:
        return None
    return lambda hand_back: Answering(worker=worker, say=say, envelope=envelope, hand_back=hand_back)
