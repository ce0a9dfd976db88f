"""Claim, call, beat, report: a runner process's work between the database and its handlers.

Theory of operation. The dispatcher claims as many due tasks as there are free slots and puts each into a slot; while there is
nothing to claim, the process offers its slots, and takes up what steps lease to it (`offering.py`). A slot calls its handler and stores
the outcome itself where nobody else is storing any; else it leaves it with the committer, one thread that reports whatever is ready when it
is free: a group commit without a timer. Every 2 s one statement extends the lease of everything that is held, results that wait for their
commit included; an id that does not come back was cancelled or its lease was lost, and its handler is told.

An attempt that overruns its time is ended at once by the watch: its outcome goes to the committer, its handler is told,
and its slot is another's. The thread cannot be stopped; what it still returns is refused and recorded as late. An
isolated handler's process is killed instead, and its slot says how it ended.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from common import faults
from common.breaker import BreakerPolicy
from common.canonical import dumps
from common.clock import ReadClock, read_now
from common.commands.breakers import log_turned
from common.commands.limits import Runs
from common.commands.outcome import Outcome, Reported, report_known, report_outcomes
from common.db import TASK_RUNNER_QUEUE, Database, is_trouble, note_bell
from common.db.rows import Writes
from common.ids import TaskId, TenantId, WorkerId, new_token
from common.queues.dispatcher import Drained
from common.queues.offers import handed
from common.retry import RetryPolicy
from common.store import attempts
from common.store.claims import Due, TaskClaim, allow_attempts, begin, claim_due, is_due, lock_due
from common.store.leased import Leased, read_handed, read_unknown
from common.store.turns import FROM_THE_FIRST, next_turn
from common.task_error import TaskError
from task_runner.attempt import described
from task_runner.breakers import Breakers
from task_runner.call import call_handler, ended, ended_with
from task_runner.context import TaskContext
from task_runner.isolate import Children, IsolatedCall, Surroundings
from task_runner.light import BUDGET_SECONDS, LightEnds, LightHandlers
from task_runner.limited import LimitedTasks
from task_runner.metadata_rows import MetadataRows
from task_runner.offering import Offering, Say
from task_runner.registry import PLAIN, Handler, HandlerError, Options, Registry
from task_runner.resolve import NOTHING_PREPARED, Prepared, Resolver
from task_runner.shares import Shares
from task_runner.slots import Slots, Ticket
from task_runner.watch import Bounds, Watch

log = structlog.get_logger("signalbox.task_runner")

UNREPORTED_MAX = 512
"""Ended tasks that wait for their commit; beyond it nothing is claimed, so that a slow database is not run away from."""
LIGHT_AT_ONCE = 256
"""Light handlers that are called in one transaction."""
HELD_BACK_AT_ONCE = 64
"""Claims of limited tasks in a row, as long as some of each have to wait for their circuit breakers."""
SHARED_CLAIM = 4
"""Tasks of one claim while several tenants have some: light ones are called one after the other before its commit."""
LAST_REPORT = 2.0
"""Seconds that a drain waits for the commit of what has ended."""
ORDINARY_SECONDS = 60.0
"""How long light handlers are run as ordinary ones after the database refused a claim that called some."""
CANCEL_GRACE = 5.0
"""Seconds that an isolated handler has to return once nobody waits for it; then its process is killed."""
UNWANTED = TaskError("task.unwanted", "nobody waited for the isolated handler, and it did not return")
REJECTION = TaskError("output.rejected", "the database refused what the handler returned", retryable=False)


@dataclass(slots=True)
class _Held:
    """A claim of this process, until its outcome is stored."""

    claim: TaskClaim
    context: TaskContext
    metadata: MetadataRows
    clock: ReadClock | None = None
    ticket: Ticket | None = None
    isolated: IsolatedCall | None = None
    unwanted_at: float | None = None
    is_limited: bool = False


@dataclass(frozen=True, slots=True)
class _Batch:
    """A committed claim: how many tasks it took, those of them that are left for the slots, and what they refer to."""

    claimed: int
    left: list[TaskClaim]
    prepared: Prepared = NOTHING_PREPARED
    is_full: bool = False
    clock: ReadClock | None = None


class Runner:
    """One process's handlers at work. `on_room` is called when slots or the committer have room again.

    `on_worn_out` is called once half of the slots' threads are zombies: the process should end and be started anew.
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
        on_worn_out: Callable[[], None] = lambda: None,
        is_wary: Callable[[], bool] = lambda: False,
        surroundings: Surroundings | None = None,
        resolver: Resolver | None = None,
        on_token: Callable[[float], None] = lambda _seconds: None,
        breakers: BreakerPolicy | None = None,
        say: Say | None = None,
    ) -> None:
        self.database = database
        self.registry = registry
        self.worker = worker
        self.lease = lease
        self.max_output_bytes = max_output_bytes
        self.on_room = on_room
        self.on_worn_out = on_worn_out
        self.is_wary = is_wary
        self._resolver = resolver
        self._light = LightHandlers(registry.all())
        self._breakers = Breakers(breakers)
        self._watched = breakers is not None and any(one.options.breaker for one in registry.all())
        self._ordinary_until = 0.0
        self.slots = Slots(slots)
        self._children = Children(surroundings or Surroundings())
        self._watch: Watch[_Held] = Watch(self._overrun)
        self._held: dict[TaskId, _Held] = {}
        self._ready: list[Outcome] = []
        self._reporting: list[Outcome] = []
        self._ended_here: list[Outcome] = []  # and are stored without the committer
        self._turn = threading.Condition()
        self._closing = False
        self._is_wanted = False
        self._committer = threading.Thread(target=self._commit, name="committer", daemon=True)
        self._types = registry.types()
        self._functions = registry.functions()
        self.limited = LimitedTasks(
            database, Runs(self._types, self._functions), worker=worker, lease=lease, on_token=on_token
        )
        self._turn_after = FROM_THE_FIRST
        self._shares = Shares(slots)
        self._offering = Offering(
            registry.all(), worker=worker, lease=lease, say=say, are_watched=self._watched
        )
        self._have_more: frozenset[TenantId] | None = None  # to claim; None: that is not known
        self._taking = threading.Lock()  # from the look or the claim to the note of what is held
        self._full: list[TenantId] = []  # who has his share of the slots

    def start(self) -> None:
        self._committer.start()
        self._watch.start()

    @property
    def held(self) -> int:
        """How many claims this process holds: in a slot, or ended and not yet stored."""
        with self._turn:
            return len(self._held)

    # -- claiming ------------------------------------------------------------------------------------------------

    def claim(self, until: float) -> Drained:
        """Claim due tasks until the slots are full, nothing is due, or `until` is over."""
        claimed = self._take_up_unknown()
        self._have_more = None
        while True:
            room = self._room()
            if room <= 0:
                return Drained(Counter(claimed=claimed))
            share = self.limited.share(room)
            limited = self._claim_limited(share)
            # Not even its share was there to be taken, and no place of its own is left.
            has_seen_all = share > limited.claimed and not self.limited.has_freed
            room -= limited.claimed
            batch = self._claim_and_call(room) if room else _Batch(0, [], is_full=True)
            rest = room - len(batch.left)
            behind = self._claim_limited(rest if self.limited.are_any and not has_seen_all else 0)
            claimed += limited.claimed + batch.claimed + behind.claimed
            self._offer()
            if not batch.is_full and behind.claimed < rest:
                return Drained(Counter(claimed=claimed))
            if time.monotonic() > until:
                return Drained(Counter(claimed=claimed), more=True)

    def _room(self) -> int:
        """How many more tasks may be held. Where none, the committer rings when that has changed, and only then."""
        room = min(self.slots.free, UNREPORTED_MAX - len(self._held))
        if room <= 0:
            self._is_wanted = (
                True  # said before the second look, so that a commit in between is seen by one of the two
            )
            room = min(self.slots.free, UNREPORTED_MAX - len(self._held))
        return room

    def _claim_and_call(self, room: int) -> _Batch:
        with self._taking:
            batch = self._claim_batch(room)
            for task in batch.left:
                self._call(task, batch.prepared, batch.clock)
        return batch

    def _claim_batch(self, limit: int) -> _Batch:
        if self.database.is_sqlite and not self._is_anything_due():
            return _Batch(0, [])
        limit = self._share_of(limit)
        calls_light = not self.is_wary() and time.monotonic() >= self._ordinary_until
        try:
            batch = self.database.run(lambda tx: self._claim_in(tx, limit, calls_light=calls_light))
        except Exception as error:
            if is_trouble(error) or not calls_light:
                raise
            # A light handler's result was refused, and with it the whole claim: report them one by one for a while.
            log.warning("light.refused", error=_text(error), rest_seconds=ORDINARY_SECONDS)
            self._ordinary_until = time.monotonic() + ORDINARY_SECONDS
            batch = self.database.run(lambda tx: self._claim_in(tx, limit, calls_light=False))
        if batch.claimed:
            faults.hit("after_claim")
        return batch

    def _share_of(self, room: int) -> int:
        """How many tasks to claim at once, so that no tenant comes to hold all slots while others may need one."""
        self._full = []
        if not self._shares.are_several:
            return room
        if self._shares.are_several_now():
            room = min(room, SHARED_CLAIM)
        with self._turn:
            held = Counter(one.claim.tenant_id for one in self._held.values())
        if max(held.values(), default=0) + room > self._shares.most:
            # Who has his share goes on when one of his ends. Said before the second count, as in `_room`.
            self._is_wanted = True
            with self._turn:
                held = Counter(one.claim.tenant_id for one in self._held.values())
        share, self._full = self._shares.room(room, held)
        return share

    def _claim_limited(self, limit: int) -> _Batch:
        """Claim tasks that limits hold for, and hand them to the slots. Light ones too: their places outlast no transaction."""
        if limit <= 0:
            return _Batch(0, [])
        claimed = 0
        for _ in range(HELD_BACK_AT_ONCE):
            with self._taking:
                claims, prepared = self.limited.claim(limit, self._prepare)
                claimed += len(claims)
                called, filled = ((), NOTHING_PREPARED) if prepared is None else prepared
                for claim in called:
                    self._call(claim, filled, is_limited=True)
            limit -= len(called)
            if len(called) == len(claims) or limit <= 0:
                break
            self.limited.note_ended(
                len(claims) - len(called)
            )  # who waits for a circuit breaker has given its place back
        return _Batch(claimed, [])

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
        return admitted, NOTHING_PREPARED if self._resolver is None else self._resolver.prepare(tx, admitted)

    def _claim_in(self, tx: Connection, limit: int, *, calls_light: bool) -> _Batch:
        """Lock due tasks; call what is light and write it with its outcome; lease and hand out the rest.

        As long as all that was found is light there is another look, because a report and its commit cost more than many
        calls: the items of a MAP come by the thousand.
        """
        if not (calls_light and self._light.are_any):
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
            prepared = NOTHING_PREPARED if self._resolver is None else self._resolver.prepare(tx, due.claims)
            left = self._call_light(tx, due, prepared, light, until)
            self._begin(tx, [*left, *light.take_unbegun()], due.now)
            is_full = len(due.claims) == limit
            if (
                left
                or not is_full
                or len(taken) >= LIGHT_AT_ONCE
                or self._shares.are_several_now()
                or time.monotonic() > until
            ):
                break
        if is_full:  # there may be more than fits here: let others join in
            note_bell(tx, TASK_RUNNER_QUEUE)
        if light:
            report_outcomes(tx, light.outcomes, at_once=light.at_once, worker=self.worker)
            faults.hit("before_outcome_commit")
        # Breakers are locked last: nobody waits for anything behind them.
        return _Batch(len(taken), list(self._admitted(tx, left)), prepared, is_full=is_full, clock=clock)

    def _claim_ordinary(self, tx: Connection, limit: int) -> _Batch:
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
        is_full = len(due.claims) == limit
        if is_full:
            note_bell(tx, TASK_RUNNER_QUEUE)
        admitted, prepared = self._admit_prepared(tx, due.claims)
        return _Batch(len(due.claims), list(admitted), prepared, is_full=is_full, clock=clock)

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

    def _note_turns(self, due: Due, limit: int) -> None:
        self.limited.are_any = due.are_limited
        served = Counter(claim.tenant_id for claim in due.claims)
        if due.are_limited:
            self._have_more = None
        elif len(due.claims) < limit:
            self._have_more = frozenset(self._full)
        else:  # who came off no worse than the others may have been cut short
            self._have_more = frozenset(one for one, n in served.items() if n >= limit // len(served))
            self._have_more |= frozenset(self._full)
        self._turn_after = next_turn(served, limit, self._turn_after)
        self._shares.note(served)

    def _begin(self, tx: Connection, claims: Sequence[TaskClaim], now: datetime) -> None:
        """Lease locked tasks to this process."""
        if not claims:
            return
        writes = Writes(tx)
        begin(writes, claims, worker=self.worker, lease=self.lease, now=now)
        writes.run()
        self._allow(tx, claims)

    def _allow(self, tx: Connection, claims: Sequence[TaskClaim]) -> None:
        allowed = [_allowance(claim, self._options(claim)) for claim in claims]
        allow_attempts(tx, [row for row in allowed if row is not None])

    def _admitted(self, tx: Connection, claims: Sequence[TaskClaim]) -> Sequence[TaskClaim]:
        """Those of some claims that may be called; the others wait for their circuit breakers."""
        return self._breakers.admit(tx, claims, self._find) if self._watched else claims

    def _call_light(
        self, tx: Connection, due: Due, prepared: Prepared, light: LightEnds, until: float
    ) -> list[TaskClaim]:
        """Call the light ones of some locked tasks and note their ends in `light`; return what is left for the slots."""
        left: list[TaskClaim] = []
        looked = time.monotonic()
        for locked in due.claims:
            claim = in_force(locked, self._options(locked))
            handler = self._find(claim)
            if handler is None or not self._is_light(claim, handler) or time.monotonic() > until:
                left.append(locked)
                continue
            began = time.monotonic()
            # In this very transaction, before joins and limits: docs/architecture.md, "Locks and their order". What a
            # handler writes has to be written under a lease.
            begins = partial(self._begin_early, tx, locked, light, due.now)
            context = TaskContext(claim, metadata=MetadataRows(claim, self.database, tx, before_write=begins))
            outcome = call_handler(
                self.registry, claim, context, max_output_bytes=self.max_output_bytes, prepared=prepared
            )
            ended = time.monotonic()
            self._light.note(handler.name, ended - began)
            ended_at = due.now + timedelta(seconds=ended - looked)
            light.add(locked, _with_progress(outcome, context), ended_at)
        return left

    def _is_light(self, claim: TaskClaim, handler: Handler) -> bool:
        """May a handler be called where others wait for it? One whose time is bounded is watched, in a slot."""
        is_bounded = claim.timeout_ms is not None or claim.heartbeat_ms is not None
        return not is_bounded and self._light.has(handler)

    def _begin_early(self, tx: Connection, claim: TaskClaim, light: LightEnds, now: datetime) -> None:
        if light.note_begun(claim):
            self._begin(tx, [claim], now)

    def _is_anything_due(self) -> bool:
        with self.database.reading() as tx:
            is_any, self.limited.are_any = is_due(tx, types=self._types, functions=self._functions)
        if not is_any and not self.limited.are_any:
            self._have_more = frozenset()
        return is_any

    def _find(self, claim: TaskClaim) -> Handler | None:
        try:
            return self.registry.find(claim.type, claim.name)
        except KeyError:  # told by the call, as the attempt's failure
            return None

    def _options(self, claim: TaskClaim) -> Options:
        handler = self._find(claim)
        return PLAIN if handler is None else handler.options

    def _call(
        self,
        claimed: TaskClaim,
        prepared: Prepared,
        clock: ReadClock | None = None,
        *,
        is_limited: bool = False,
    ) -> None:
        claim = in_force(claimed, self._options(claimed))
        metadata = MetadataRows(claim, self.database)
        held = _Held(claim, TaskContext(claim, metadata=metadata), metadata, clock, is_limited=is_limited)
        handler = self._find(claim)
        if handler is not None and handler.options.isolated:
            held.isolated = IsolatedCall()
        with self._turn:
            self._held[claim.id] = held
        held.ticket = self.slots.submit(lambda: self._run(held, handler, prepared), self._end)
        bounds = Bounds.of(claim.timeout_ms, claim.heartbeat_ms)
        if bounds is not None:
            self._watch.add(held, bounds, lambda: held.context.heard_at)
            if held.ticket.is_over:  # before it was watched
                self._watch.drop(held)

    def _run(self, held: _Held, handler: Handler | None, prepared: Prepared) -> Outcome:
        claim, context = held.claim, held.context
        if handler is None or held.isolated is None:
            outcome = call_handler(
                self.registry, claim, context, max_output_bytes=self.max_output_bytes, prepared=prepared
            )
        else:
            outcome = self._call_isolated(held, handler, held.isolated, prepared)
        self._watch.drop(held)
        return _with_end(outcome, held)

    def _call_isolated(
        self, held: _Held, handler: Handler, call: IsolatedCall, prepared: Prepared
    ) -> Outcome:
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

    def _overrun(self, held: _Held, error: TaskError) -> None:
        """The time of an attempt is over: end it now, whatever its handler is doing."""
        if held.isolated is not None:
            held.isolated.kill(error)
            return
        if held.ticket is None or not self.slots.abandon(held.ticket):
            return  # it has just ended by itself
        # Before the handler is told: what it then returns must find its attempt ended.
        self._hand_on(
            replace(ended(held.claim, error=error, timed_out=True), progress=held.context.last_progress)
        )
        held.context.cancel()
        zombies = self.slots.zombies
        log.warning(
            "attempt.overran", task_id=held.claim.id, instance_id=held.claim.instance_id, code=error.code, zombies=zombies
        )  # fmt: skip
        if 2 * zombies >= self.slots.size:
            self.on_worn_out()
        self.on_room()

    def _hand_on(self, outcome: Outcome) -> None:
        # Also where the task was claimed anew meanwhile: this token is refused, and that goes on record.
        with self._turn:
            if not self._closing:
                self._ready.append(outcome)
                self._turn.notify_all()

    # -- taking up what was leased to this process -----------------------------------------------------------------

    def take_up(self, hints: Sequence[bytes]) -> None:
        """Call what steps have leased to this process, which calls name. Never raises: what is not taken up now is found by a look."""
        ids = handed(hints)
        if not ids:
            return
        try:
            self._take_up(
                lambda tx, held: read_handed(tx, self.worker, [one for one in ids if one not in held])
            )
        except Exception as error:  # noqa: BLE001 - an outer loop: nobody would hear the calls that follow
            log.warning("handed.unread", count=len(ids), error=_text(error))
        self._offer()

    def _take_up_unknown(self) -> int:
        """Look for what is leased to this process without its knowledge: calls get lost, and so do answers to a commit."""
        if not self._offering.is_to_look():
            return 0
        return self._take_up(lambda tx, held: read_unknown(tx, self.worker, sorted(held)))

    def _take_up(self, look: Callable[[Connection, Set[TaskId]], Leased]) -> int:
        with self._taking:
            if self._offering.is_over:
                return 0
            with self._turn:
                held = set(self._held)  # before the look: what is not in it any more is not running any more
            with self.database.each_alone() as tx:
                leased = look(tx, held)
            self._offering.take(len(leased.claims))
            self._shares.note({claim.tenant_id for claim in leased.claims})
            if leased.claims:
                faults.hit("after_claim")
            room = max(min(self.slots.free, UNREPORTED_MAX - len(held)), 0)
            ended_here = self._call_all(
                leased.claims[:room], None if leased.now is None else ReadClock.just_read(leased.now)
            )
            for claim in leased.claims[room:]:  # who has it next has room for it
                self._give_back(claim)
            with self._turn:
                self._ended_here += ended_here
        if ended_here:
            self._report_here(ended_here)
        return len(leased.claims)

    def _call_all(self, claims: Sequence[TaskClaim], clock: ReadClock | None) -> list[Outcome]:
        """Put claims into slots; call the light ones of them here, and return how those ended."""
        prepared = NOTHING_PREPARED
        if self._resolver is not None and any(claim.secrets is not None for claim in claims):
            with self.database.reading() as tx:
                prepared = self._resolver.prepare(tx, claims)
        outcomes = []
        until = time.monotonic() + BUDGET_SECONDS
        for claim in claims:
            handler = self._find(claim)
            here = None if handler is None else in_force(claim, handler.options)
            if (
                handler is None
                or here is None
                or not self._is_light(here, handler)
                or time.monotonic() > until
            ):
                self._call(claim, prepared, clock)
            else:
                outcomes.append(self._call_here(here, handler, prepared, clock))
        return outcomes

    def _call_here(
        self, claim: TaskClaim, handler: Handler, prepared: Prepared, clock: ReadClock | None
    ) -> Outcome:
        """Call a light handler in this thread. It is held as any other, so that its lease is beaten until its end is stored."""
        metadata = MetadataRows(claim, self.database)
        held = _Held(claim, TaskContext(claim, metadata=metadata), metadata, clock)
        with self._turn:
            self._held[claim.id] = held
        began = time.monotonic()
        outcome = call_handler(
            self.registry, claim, held.context, max_output_bytes=self.max_output_bytes, prepared=prepared
        )
        self._light.note(handler.name, time.monotonic() - began)
        return _with_end(outcome, held)

    def _give_back(self, claim: TaskClaim) -> None:
        metadata = MetadataRows(claim, self.database)
        with self._turn:
            self._held[claim.id] = _Held(claim, TaskContext(claim, metadata=metadata), metadata)
        self._hand_on(ended(claim, released=True))

    def _offer(self) -> None:
        """Offer what is free to those of whom nothing is left to claim, as far as that is known."""
        have_more = self._have_more
        if have_more is None:
            return
        with self._turn:
            held = len(self._held)
        kept = self.slots.size - self._shares.most
        room = min(self.slots.free, UNREPORTED_MAX - held)
        if have_more:
            room = min(room, kept)  # what is never theirs
        elif self._shares.are_several:
            room -= kept  # as with claims: who comes next finds a slot
        self._offering.renew(room, have_more)

    # -- reporting -----------------------------------------------------------------------------------------------

    def _end(self, outcome: Outcome) -> None:
        """Store what ended in a slot from its very thread, where nobody else is storing anything; else it joins the next group."""
        with self._turn:
            is_alone = outcome.is_known and not self._closing and not self._unstored()
            if is_alone:
                self._ended_here.append(outcome)
        if is_alone:
            self._report_here([outcome])
        else:
            self._hand_on(outcome)

    def _commit(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: (self._ready and not self._ended_here) or self._closing)
                self._reporting, self._ready = self._ready, []
            if not self._reporting:
                return
            faults.hit("before_report")
            self._report(self._reporting)
            self._let_go(self._reporting)
            with self._turn:
                self._reporting = []
                self._turn.notify_all()

    def _let_go(self, group: Sequence[Outcome]) -> None:
        """Hold claims no more whose outcomes are stored, and ring where somebody waits for that."""
        freed = 0
        with self._turn:
            for outcome in group:
                held = self._held.get(outcome.task_id)
                if held is not None and held.claim.token == outcome.token:
                    del self._held[outcome.task_id]
                    freed += held.is_limited
        if freed:
            self.limited.note_ended(freed)
            self.on_room()
        if self._is_wanted:
            self._is_wanted = False
            self.on_room()

    def _report_here(self, group: list[Outcome]) -> None:
        """Store what ended without the committer, which waits meanwhile; what cannot be stored at once is left to it."""
        faults.hit("before_report")
        try:
            self._report_once(group)
        except Exception as error:  # noqa: BLE001 - whatever it is, the committer meets it again and deals with it
            log.warning("outcomes.left", count=len(group), error=_text(error))
            for outcome in group:
                self._hand_on(outcome)
        else:
            self._let_go(group)
        stored = {id(one) for one in group}
        with self._turn:
            self._ended_here = [one for one in self._ended_here if id(one) not in stored]
            self._turn.notify_all()

    def _report(self, group: list[Outcome]) -> None:
        """Store a group, split it where it is refused. Never raises: other outcomes wait behind this one."""
        try:
            self._report_patiently(group)
        except Exception as error:  # noqa: BLE001 - the committer's outer loop: it must outlive whatever one outcome does to it
            if len(group) > 1:
                log.warning("outcomes.refused", count=len(group), error=type(error).__name__)
                for outcome in group:
                    self._report([outcome])
            else:
                self._report_refused(group[0], error)

    def _report_refused(self, outcome: Outcome, refusal: Exception) -> None:
        about = {"task_id": outcome.task_id, "instance_id": outcome.instance_id}
        if outcome.error is REJECTION:
            # Not beaten any more, its lease runs out; the third time the task fails as lost, in the open.
            log.error("outcome.unstorable", **about, error=_text(refusal))
            return
        log.error("outcome.refused", **about, error=_text(refusal))
        self._report([replace(outcome, output=None, error=REJECTION)])

    def _report_patiently(self, group: list[Outcome]) -> None:
        """Store a group; while the database is away, wait for it. Raises what it refuses for good."""
        delay = 0.1
        while True:
            try:
                self._report_once(group)
                return
            except Exception as error:
                if not is_trouble(error):
                    raise
                # Nothing is lost: the outcomes are kept here and their leases beaten until the database is back.
                log.warning("database.trouble", duty="task-runner", error=_text(error), rest_seconds=delay)
                if self._closing:
                    return
                time.sleep(delay)
                delay = min(delay * 2, 2.0)

    def _report_once(self, group: list[Outcome]) -> None:
        # Where an attempt was ended and its handler has returned all the same, the group says both, and the first one counts.
        said = Counter((one.task_id, one.token) for one in group)
        known = [one for one in group if one.is_known and said[one.task_id, one.token] == 1]
        if known:
            faults.hit("before_outcome_commit")
            done = report_known(self.database, known)
            group = [one for one in group if (one.task_id, one.token) not in done]
        if group:
            self._report_in_transaction(group)
        faults.hit("after_outcome_commit")

    def _report_in_transaction(self, group: list[Outcome]) -> None:
        def use_case(tx: Connection) -> Reported:
            reported = report_outcomes(tx, group)
            faults.hit("before_outcome_commit")
            return reported

        reported = self.database.run(use_case)
        for turned in reported.breakers:
            log_turned(log, turned)

    # -- beating -------------------------------------------------------------------------------------------------

    def beat(self) -> None:
        """Extend every held lease, store progress, and tell handlers whose task is not theirs any more."""
        with self._turn:
            held = list(self._held.values())
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
                self._tell_unwanted(one)

    @staticmethod
    def _tell_unwanted(held: _Held) -> None:
        held.context.cancel()
        if held.isolated is not None:
            now = time.monotonic()
            held.unwanted_at = held.unwanted_at or now
            if now >= held.unwanted_at + CANCEL_GRACE:
                held.isolated.kill(UNWANTED)

    # -- ending --------------------------------------------------------------------------------------------------

    def end_offers(self) -> None:
        """Offer nothing any more, and take up nothing."""
        self._offering.end()

    def drain(self, seconds: float) -> int:
        """Let handlers end for up to `seconds`, report them, give the rest back uncounted; returns how many were given back."""
        self.end_offers()
        self.slots.wait_idle(seconds)
        rest = self._untaken()
        with self._turn:
            # A result whose commit is on its way is neither lost nor given back: its work is done.
            self._turn.wait_for(lambda: not self._unstored(), LAST_REPORT)
            unstored = {(outcome.task_id, outcome.token) for outcome in self._unstored()}
            for task_id, held in list(self._held.items()):
                if (task_id, held.claim.token) not in unstored:
                    held.context.cancel()
                    given_back = ended(held.claim, released=True)
                    rest.append(replace(given_back, progress=held.context.last_progress))
                    del self._held[task_id]
            self._closing = True
            self._turn.notify_all()
        self._watch.close()
        self._children.close()
        if rest:
            self.database.run(lambda tx: report_outcomes(tx, rest))
        self._committer.join(5)
        return len(rest)

    def _unstored(self) -> Sequence[Outcome]:
        return (*self._ready, *self._reporting, *self._ended_here)

    def _untaken(self) -> list[Outcome]:
        """What steps have leased to this process and it will not take up any more, given back; nothing where that cannot be read."""
        if not self._offering.wait_for_the_last():
            return []
        try:
            with self._taking:
                with self._turn:
                    held = sorted(self._held)
                with self.database.each_alone() as tx:
                    leased = read_unknown(tx, self.worker, held)
        except DBAPIError as error:  # the leases end by themselves
            log.warning("handed.kept", error=_text(error))
            return []
        return [ended(claim, released=True) for claim in leased.claims]


def in_force(claim: TaskClaim, options: Options) -> TaskClaim:
    """A claim with what its handler says where neither the task nor its definition did."""
    if options.retry is None and options.timeout_ms is None and options.heartbeat_ms is None:
        return claim
    allowance = _allowance(claim, options)
    return replace(
        claim,
        retry=dumps(dict(options.retry)) if claim.retry is None and options.retry else claim.retry,
        max_attempts=claim.max_attempts if allowance is None else allowance["b_max_attempts"],
        timeout_ms=options.timeout_ms if claim.timeout_ms is None else claim.timeout_ms,
        heartbeat_ms=options.heartbeat_ms if claim.heartbeat_ms is None else claim.heartbeat_ms,
    )


def _allowance(claim: TaskClaim, options: Options) -> dict[str, Any] | None:
    """How often a task may be tried that its handler has a policy for; told once, at the first attempt."""
    if claim.retry is not None or options.retry is None or claim.attempt != 1:
        return None
    return {"b_id": claim.id, "b_max_attempts": RetryPolicy.read(options.retry).max_attempts}


def _with_end(outcome: Outcome, held: _Held) -> Outcome:
    ended_at = None if held.clock is None else held.clock.time()
    return replace(outcome, progress=held.context.last_progress, ended_at=ended_at)


def _with_progress(outcome: Outcome, context: TaskContext) -> Outcome:
    progress = context.last_progress
    return outcome if progress is None else replace(outcome, progress=progress)


def _text(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return f"{type(cause).__name__}: {cause}"[:300]
