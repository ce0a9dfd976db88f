"""What steps lease to this process without a claim: offering its slots, taking such tasks up, giving back what finds none.

A call names the tasks; a look now and then finds those whose call got lost. What is offered is told by `offering.py`.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set

import structlog
from sqlalchemy.exc import DBAPIError

from common import faults
from common.clock import ReadClock
from common.commands.outcome import Outcome
from common.courtesy import Courtesy
from common.db import Database
from common.ids import TaskId, WorkerId
from common.queues.handed import SealedTasks, Told, read_worker_calls
from common.queues.told_task import ToldTask
from common.store.claims import TaskClaim
from common.store.leased import Leased, read_handed, read_unknown
from task_runner.call import ended
from task_runner.claiming import Claiming
from task_runner.executor import Executor, in_force
from task_runner.light import BUDGET_SECONDS
from task_runner.light_calls import LightCalls
from task_runner.line import CLOSED_SECONDS, PATIENCE
from task_runner.offering import RECENT_SECONDS, RENEWED_AFTER, Offering
from task_runner.reporting import Held, Reporting, error_text
from task_runner.resolve import NOTHING_PREPARED, Resolver
from task_runner.shares import Shares

FOUND_SECONDS = 2 * RECENT_SECONDS
"""For so long the word of a call is not taken for a task that a look has found before: it may be over."""
NOBODY_TOLD: Mapping[TaskId, str | None] = {}
log = structlog.get_logger("signalbox.task_runner")


class HandedTasks:
    """The tasks that steps hand to this process, which offers its slots for them while `claiming` finds nothing."""

    def __init__(
        self,
        database: Database,
        executor: Executor,
        reporting: Reporting,
        claiming: Claiming,
        offering: Offering,
        *,
        worker: WorkerId,
        shares: Shares,
        courtesy: Courtesy,
        resolver: Resolver | None,
        light: LightCalls | None,
        sealed: SealedTasks | None,
        ring_in: Callable[[float], None],
    ) -> None:
        self.database = database
        self.worker = worker
        self._executor = executor
        self._reporting = reporting
        self._claiming = claiming
        self._offering = offering
        self._shares = shares
        self._courtesy = courtesy
        self._resolver = resolver
        self._light = light
        self._sealed = sealed
        self._found: dict[TaskId, float] = {}
        self._ring_in = ring_in
        self._taking = threading.Lock()  # from a look to the note of what is held

    def take_up(self, hints: Sequence[bytes]) -> None:
        """Call what steps have leased to this process, which calls name, and hold no more what they say is stored.

        Never raises: what is not taken up now is found by a look.
        """
        told = read_worker_calls(hints)
        self._reporting.note_stored(told.receipts)
        if not told.tasks:
            return
        try:
            self._take_up(lambda held: self._told(told, held), told.tasks)
        except Exception as error:  # noqa: BLE001 - an outer loop: nobody would hear the calls that follow
            log.warning("handed.unread", count=len(told.tasks), error=error_text(error))
        self.offer()

    def take_up_unknown(self) -> int:
        """Look for what is leased to this process without its knowledge: calls get lost, and so do answers to a commit.

        For the thread that claims: what it has claimed it knows of, so none of it is under way now.
        """
        if self._executor.give_back_waiting(PATIENCE):
            self._executor.line.close()
            log.info("line.given_back", closed_seconds=CLOSED_SECONDS)
        if not self._offering.is_to_look():
            return 0
        return self._take_up(self._look)

    def offer(self, *, after: float = RENEWED_AFTER) -> None:
        """Offer what is free to those of whom nothing is left to claim, as far as that is known; once more `after` seconds."""
        have_more = self._claiming.have_more
        if have_more is None:
            return
        room = self._executor.room
        if have_more:
            # What is never theirs. Behind a line of theirs it waits no longer than for a slot.
            room = self._kept if self._executor.line_length else min(room, self._kept)
        elif line := self._claiming.line_length:
            room += line
        elif self._shares.are_several:
            room -= self._kept  # as with claims: who comes next finds a slot
        if self._claiming.are_limited:
            room //= (
                2  # the others are for tasks that get a place: neither may starve the other, as with claims
            )
        self._offering.renew(room, have_more, after=after)

    @property
    def _kept(self) -> int:
        """Slots that nobody gets who has all the others."""
        return self._executor.slots.size - self._shares.most

    def end(self) -> None:
        """Offer nothing any more, and take up nothing."""
        self._offering.end()

    def untaken(self) -> list[Outcome]:
        """What steps have leased to this process and it will not take up any more, given back; nothing where that cannot be read."""
        if not self._offering.wait_for_the_last():
            return []
        try:
            with self._taking, self._reporting.taking:
                held = sorted(self._reporting.ids)
                with self.database.each_alone() as tx:
                    leased = read_unknown(tx, self.worker, held)
        except DBAPIError as error:  # the leases end by themselves
            log.warning("handed.kept", error=error_text(error))
            return []
        return [ended(claim, released=True) for claim in leased.claims]

    def _look(self, held: Set[TaskId]) -> Leased:
        """What is leased to this process beside what it holds."""
        with self.database.each_alone() as tx:
            leased = read_unknown(tx, self.worker, sorted(held))
        now = time.monotonic()
        self._found = {one: at for one, at in self._found.items() if at > now - FOUND_SECONDS}
        self._found.update((claim.id, now) for claim in leased.claims)
        return leased

    def _told(self, told: Told, held: Set[TaskId]) -> Leased:
        """What a call tells of, beside what is held: by its word where that is enough for all, else as it stands."""
        ids = [one for one in told.tasks if one not in held]
        known = self._known(told)
        if self._found.keys().isdisjoint(ids) and known.keys() >= set(ids):
            tasks = [known[one] for one in sorted(ids)]
            return Leased([one.claim() for one in tasks], max((one.at for one in tasks), default=None))
        with self.database.each_alone() as tx:
            return read_handed(tx, self.worker, ids)

    def _known(self, told: Told) -> dict[TaskId, ToldTask]:
        """What a call says of tasks that its word is enough for."""
        if self._sealed is None:
            return {}
        opened = [one for sealed in told.sealed for one in self._sealed.open(sealed)]
        return {task.id: task for number, task in opened if self._offering.is_recent(number)}

    def _take_up(
        self,
        look: Callable[[Set[TaskId]], Leased],
        answered_at: Mapping[TaskId, str | None] = NOBODY_TOLD,
    ) -> int:
        with self._taking:
            if self._offering.is_over:
                return 0
            held = self._reporting.ids  # before the look: what is not in it any more is not running any more
            leased = look(held)
            self._offering.take(len(leased.claims))
            tenants = Counter(claim.tenant_id for claim in leased.claims)
            self._shares.note(tenants)
            if tenants.keys() - self._claiming.flooding:
                self._courtesy.note()
            if leased.claims:
                faults.hit("after_claim")
            # What was offered may come late, or twice, or to a line that is offered no more: it is taken, and what was too much is given back by its patience.
            has_line = self._executor.line_length > 0 and not self._claiming.is_wary()
            room = max(self._reporting.room, self._kept) if has_line else max(self._executor.room, 0)
            ended_here = self._call_all(
                leased.claims[:room],
                None if leased.now is None else ReadClock.just_read(leased.now),
                answered_at,
            )
            for claim in leased.claims[room:]:  # who has it next has room for it
                self._executor.give_back(claim)
            ended_here = self._reporting.begin_here(ended_here)
        if self._executor.slots.free < 0:
            self._ring_in(PATIENCE)
        if ended_here:
            self._reporting.report_here(ended_here)
        return len(leased.claims)

    def _call_all(
        self, claims: Sequence[TaskClaim], clock: ReadClock | None, answered_at: Mapping[TaskId, str | None]
    ) -> list[Outcome]:
        """Put claims into slots; call the light ones of them here, and return how those ended."""
        prepared = NOTHING_PREPARED
        if self._resolver is not None and any(claim.secrets is not None for claim in claims):
            with self.database.reading() as tx:
                prepared = self._resolver.prepare(tx, claims)
        outcomes = []
        until = time.monotonic() + BUDGET_SECONDS
        for claim in claims:
            if self._is_called_already(claim, clock, answered_at):
                continue
            handler = self._executor.find(claim)
            here = None if handler is None else in_force(claim, handler.options)
            if (
                handler is None
                or here is None
                or not self._executor.is_light(here, handler)
                or time.monotonic() > until
            ):
                self._executor.call(claim, prepared, clock, answered_at=answered_at.get(claim.id))
            else:
                told_to = answered_at.get(claim.id)
                outcomes.append(self._executor.call_here(here, handler, prepared, clock, answered_at=told_to))
        return outcomes

    def _is_called_already(
        self, claim: TaskClaim, clock: ReadClock | None, answered_at: Mapping[TaskId, str | None]
    ) -> bool:
        """Was its handler called for the step that leased it, which did not wait to the end?"""
        if self._light is None:
            return False
        return self._light.take_over(
            claim, lambda: Held.of(claim, self.database, clock, answered_at=answered_at.get(claim.id))
        )
