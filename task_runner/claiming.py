"""Claiming due tasks: how many, of whom, and what is done with them inside the transaction that claims them.

Theory of operation. One transaction locks due tasks, asks their circuit breakers, reads what their inputs refer to, and leases them. Light
ones it calls itself and writes with their outcomes (`light.py`); the others go to slots after its commit. Limited tasks are claimed in
transactions of their own (`limited.py`), because nothing may be waited for behind the rows of their limits.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

import structlog
from sqlalchemy import Connection

from common import faults
from common.breaker import BreakerPolicy
from common.clock import ReadClock
from common.commands.outcome import Reported, log_reported, report_outcomes
from common.courtesy import Portions
from common.db import TASK_RUNNER_QUEUE, Database, is_trouble, note_bell
from common.db.rows import Writes
from common.ids import TenantId, WorkerId, new_token
from common.store.claims import Due, TaskClaim, allow_attempts, begin, claim_due, is_due, lock_due
from common.store.turns import FROM_THE_FIRST, next_turn
from task_runner.breakers import Breakers
from task_runner.context import TaskContext
from task_runner.executor import Executor, allowance, in_force
from task_runner.light import BUDGET_SECONDS, LightEnds
from task_runner.limited import LimitedTasks
from task_runner.metadata_rows import MetadataRows
from task_runner.reporting import Reporting, error_text
from task_runner.resolve import NOTHING_PREPARED, Prepared, Resolver
from task_runner.shares import MEMORY_SECONDS, Shares

log = structlog.get_logger("signalbox.task_runner")

LIGHT = Portions(256, 64, 4)
"""Light handlers that are called in one transaction."""
HELD_BACK_AT_ONCE = 64
"""Claims of limited tasks in a row, as long as some of each have to wait for their circuit breakers."""
ORDINARY_SECONDS = 60.0
"""How long light handlers are run as ordinary ones after the database refused a claim that called some."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A committed claim: how many tasks it took, those of them that are left for the slots, and what they refer to.

    `reported` is what became of those whose light handlers it has called.
    """

    claimed: int
    left: Sequence[TaskClaim] = ()
    prepared: Prepared = NOTHING_PREPARED
    is_full: bool = False
    clock: ReadClock | None = None
    reported: Reported | None = None


class Claiming:
    """The claims of one process, for one thread, the dispatcher's.

    `is_wary` tells whether a runner died unsaid of late: then light handlers are run as ordinary ones.
    """

    def __init__(
        self,
        database: Database,
        executor: Executor,
        reporting: Reporting,
        limited: LimitedTasks,
        *,
        worker: WorkerId,
        lease: timedelta,
        shares: Shares,
        resolver: Resolver | None,
        breakers: BreakerPolicy | None,
        is_wary: Callable[[], bool],
    ) -> None:
        self.database = database
        self.worker = worker
        self.lease = lease
        self.is_wary = is_wary
        self.have_more: frozenset[TenantId] | None = None
        """Of whom something is left to claim; None where that is not known."""
        self.flooding: frozenset[TenantId] = frozenset()
        """Who had more due than the last claim that tells could take."""
        self.ordinary_until = 0.0
        """Until then (monotonic seconds) light handlers are run as ordinary ones."""
        self.are_watched = breakers is not None and any(
            one.options.breaker for one in executor.registry.all()
        )
        """Does a circuit breaker watch any handler?"""
        self._executor = executor
        self._reporting = reporting
        self._limited = limited
        self._shares = shares
        self._resolver = resolver
        self._breakers = Breakers(breakers)
        self._types = executor.registry.types()
        self._functions = executor.registry.functions()
        self._turn_after = FROM_THE_FIRST
        self._looks_first = False
        """The claim before found nothing: a look costs less than another one that does."""
        self._expects_light = True
        """Claims of late brought tasks of light handlers. Most of those steps have called by themselves, and a claim that calls none costs less."""
        self._full: list[TenantId] = []  # who has his share of the slots

    def room(self) -> int:
        """How many more tasks may be held. Where none, the committer rings when that has changed, and only then."""
        room = self._executor.room
        if room <= 0:
            self._reporting.want_room()
            room = self._executor.room
        return room

    @property
    def line_length(self) -> int:
        """How many tasks may wait here for a slot.

        None where a runner has died unsaid, since a line dies with its process; nor before somebody quiet, nor where limits may hold: who comes to
        have a place finds a slot.
        """
        if self.is_wary() or self.are_limited or self._shares.protect(MEMORY_SECONDS):
            return 0
        return self._executor.line_length

    @property
    def are_limited(self) -> bool:
        """May a limit hold for any task, as far as the last claim tells?"""
        return self._limited.are_any

    @property
    def claimed_line_length(self) -> int:
        """How many of those may be claimed: none where light handlers are called by who claims, which needs no slots."""
        return 0 if self._calls_light else self.line_length

    @property
    def _calls_light(self) -> bool:
        return self._expects_light and self._executor.light.are_any

    def claim_due(self, room: int) -> Batch:
        """Claim due tasks that no limit holds for, at the most `room`, and hand them to the slots."""
        with self._reporting.taking:
            batch = self._claim_batch(room)
            once = {task.id for task in batch.left if task.is_once}
            for task in sorted(batch.left, key=lambda task: task.id not in once):
                if task.id in once and self._executor.room <= 0:
                    # Lost with its process from the line, it would fail without having been tried.
                    self._executor.give_back(task)
                    self._executor.line.close()
                else:
                    self._executor.call(task, batch.prepared, batch.clock)
        return batch

    def claim_limited(self, limit: int) -> int:
        """Claim tasks that limits hold for, and hand them to the slots; how many. Light ones too: their places outlast no transaction."""
        if limit <= 0:
            return 0
        claimed = 0
        for _ in range(HELD_BACK_AT_ONCE):
            with self._reporting.taking:
                claims, prepared = self._limited.claim(limit, self._prepare)
                claimed += len(claims)
                called, filled = ((), NOTHING_PREPARED) if prepared is None else prepared
                for claim in called:
                    self._executor.call(claim, filled, is_limited=True)
            limit -= len(called)
            if len(called) == len(claims) or limit <= 0:
                break
            self._limited.note_ended(
                len(claims) - len(called)
            )  # who waits for a circuit breaker has given its place back
        return claimed

    # -- how many, and whose ---------------------------------------------------------------------------------------

    def _share_of(self, room: int) -> int:
        """How many tasks to claim at once, so that no tenant comes to hold all slots while others may need one."""
        self._full = []
        if not self._shares.are_several or self.line_length:
            return room
        held = self._reporting.count_tenants()
        if max(held.values(), default=0) + room > self._shares.most:
            # Who has his share goes on when one of his ends.
            self._reporting.want_room()
            held = self._reporting.count_tenants()
        share, self._full = self._shares.room(room, held)
        return share

    def _note_turns(self, due: Due, limit: int) -> None:
        self._limited.are_any = due.are_limited
        served = Counter(claim.tenant_id for claim in due.claims)
        if len(due.claims) < limit:
            self.have_more = frozenset(self._full)
        else:  # who came off no worse than the others may have been cut short
            self.have_more = frozenset(one for one, n in served.items() if n >= limit // len(served))
            self.have_more |= frozenset(self._full)
        self.flooding = self.have_more or frozenset()
        self._turn_after = next_turn(served, limit, self._turn_after)
        self._shares.note(served)

    def _is_anything_due(self) -> bool:
        with self.database.looking() as tx:
            is_any, self._limited.are_any = is_due(tx, types=self._types, functions=self._functions)
        if not is_any:
            self.have_more = self.flooding = frozenset()
        return is_any

    # -- one claim -------------------------------------------------------------------------------------------------

    def _claim_batch(self, limit: int) -> Batch:
        if (self.database.is_sqlite or self._looks_first) and not self._is_anything_due():
            return Batch(0)
        limit = self._share_of(limit)
        calls_light = self._calls_light and not self.is_wary() and time.monotonic() >= self.ordinary_until
        try:
            batch = self.database.run(lambda tx: self._claim_in(tx, limit, calls_light=calls_light))
        except Exception as error:
            if is_trouble(error) or not calls_light:
                raise
            # A light handler's result was refused, and with it the whole claim: report them one by one for a while.
            log.warning("light.refused", error=error_text(error), rest_seconds=ORDINARY_SECONDS)
            self.ordinary_until = time.monotonic() + ORDINARY_SECONDS
            batch = self.database.run(lambda tx: self._claim_in(tx, limit, calls_light=False))
        self._looks_first = batch.claimed == 0
        if batch.claimed:
            faults.hit("after_claim")
        if batch.reported is not None:
            log_reported(log, batch.reported)
        return batch

    def _claim_in(self, tx: Connection, limit: int, *, calls_light: bool) -> Batch:
        """Lock due tasks; call what is light and write it with its outcome; lease and hand out the rest.

        As long as all that was found is light there is another look, because a report and its commit cost more than many
        calls: the items of a MAP come by the thousand.
        """
        if not calls_light:
            return self._claim_ordinary(tx, limit)
        until = 0.0
        clock: ReadClock | None = None
        taken: list[TaskClaim] = []
        light = LightEnds()
        while True:
            due = self._lock_due(tx, limit, taken)
            clock = ReadClock.just_read(due.now)
            # From the end of the first look: how long its statement took, the first time above all, says nothing of handlers.
            until = until or time.monotonic() + BUDGET_SECONDS
            taken += due.claims
            prepared = self._resolved(tx, due.claims)
            left = self._call_light(tx, due, prepared, light, until)
            self._begin(tx, [*left, *light.take_unbegun()], due.now)
            is_full = len(due.claims) == limit
            if left or not is_full or len(taken) >= self._shares.portion(LIGHT) or time.monotonic() > until:
                break
        if is_full:  # there may be more than fits here: let others join in
            note_bell(tx, TASK_RUNNER_QUEUE)
        self._expects_light = bool(light) or not taken
        reported = None
        if light:
            reported = report_outcomes(tx, light.outcomes, at_once=light.at_once, worker=self.worker)
            faults.hit("before_outcome_commit")
        # Breakers are locked last: nobody waits for anything behind them.
        return Batch(
            len(taken), self._admitted(tx, left), prepared, is_full=is_full, clock=clock, reported=reported
        )

    def _claim_ordinary(self, tx: Connection, limit: int) -> Batch:
        """Lease due tasks and hand them out."""
        due = claim_due(
            tx,
            worker=self.worker,
            token=new_token(),
            types=self._types,
            functions=self._functions,
            limit=limit,
            lease=self.lease,
            turn_after=self._turn_after,
            excluded=self._full,
        )
        clock = ReadClock.just_read(due.now)
        self._note_turns(due, limit)
        self._allow(tx, due.claims)
        self._expects_light |= any(self._executor.options(claim).light for claim in due.claims)
        is_full = len(due.claims) == limit
        if is_full:
            note_bell(tx, TASK_RUNNER_QUEUE)
        admitted, prepared = self._admit_prepared(tx, due.claims)
        return Batch(len(due.claims), admitted, prepared, is_full=is_full, clock=clock)

    def _lock_due(self, tx: Connection, limit: int, taken: Sequence[TaskClaim]) -> Due:
        due = lock_due(
            tx,
            token=new_token(),
            types=self._types,
            functions=self._functions,
            limit=limit,
            turn_after=self._turn_after,
            excluded=self._full,
            taken=[claim.id for claim in taken],
        )
        self._note_turns(due, limit)
        return due

    def _call_light(
        self, tx: Connection, due: Due, prepared: Prepared, light: LightEnds, until: float
    ) -> list[TaskClaim]:
        """Call the light ones of some locked tasks and note their ends in `light`; return what is left for the slots."""
        left: list[TaskClaim] = []
        looked = time.monotonic()
        for locked in due.claims:
            claim = in_force(locked, self._executor.options(locked))
            handler = self._executor.find(claim)
            if handler is None or not self._executor.is_light(claim, handler) or time.monotonic() > until:
                left.append(locked)
                continue
            # In this very transaction, before joins and limits: docs/architecture.md, "Locks and their order". What a
            # handler writes has to be written under a lease.
            begins = partial(self._begin_early, tx, locked, light, due.now)
            context = TaskContext(claim, metadata=MetadataRows(claim, self.database, tx, before_write=begins))
            outcome = self._executor.call_light(claim, handler, context, prepared)
            progress = context.last_progress
            ended_at = due.now + timedelta(seconds=time.monotonic() - looked)
            light.add(locked, outcome if progress is None else replace(outcome, progress=progress), ended_at)
        return left

    def _begin_early(self, tx: Connection, claim: TaskClaim, light: LightEnds, now: datetime) -> None:
        if light.note_begun(claim):
            self._begin(tx, [claim], now)

    # -- what is written and read of claims before they are called -------------------------------------------------

    def _begin(self, tx: Connection, claims: Sequence[TaskClaim], now: datetime) -> None:
        """Lease locked tasks to this process."""
        if not claims:
            return
        writes = Writes(tx)
        begin(writes, claims, worker=self.worker, lease=self.lease, now=now)
        writes.run()
        self._allow(tx, claims)

    def _prepare(self, tx: Connection, claims: Sequence[TaskClaim]) -> tuple[Sequence[TaskClaim], Prepared]:
        """What is written and read of claims before their handlers are called, in the transaction that claims them; and
        those of them that may be called.
        """
        self._allow(tx, claims)
        return self._admit_prepared(tx, claims)

    def _admit_prepared(
        self, tx: Connection, claims: Sequence[TaskClaim]
    ) -> tuple[Sequence[TaskClaim], Prepared]:
        """Those of some claims that may be called, and what they refer to."""
        admitted = self._admitted(tx, claims)
        return admitted, self._resolved(tx, admitted)

    def _allow(self, tx: Connection, claims: Sequence[TaskClaim]) -> None:
        allowed = [allowance(claim, self._executor.options(claim)) for claim in claims]
        allow_attempts(tx, [row for row in allowed if row is not None])

    def _admitted(self, tx: Connection, claims: Sequence[TaskClaim]) -> Sequence[TaskClaim]:
        """Those of some claims that may be called; the others wait for their circuit breakers."""
        return self._breakers.admit(tx, claims, self._executor.find) if self.are_watched else claims

    def _resolved(self, tx: Connection, claims: Sequence[TaskClaim]) -> Prepared:
        return NOTHING_PREPARED if self._resolver is None else self._resolver.prepare(tx, claims)
