"""What this process holds until its outcome is stored, and who stores it.

Theory of operation. What a step leased to this process is told to that step's process, which stores it with the next step
(`answering.py`). For all else a slot stores the outcome of its call itself where nobody else is storing any; else it leaves it with the committer, one
thread that reports whatever is ready when it is free: a group commit without a timer. While the database is away, outcomes are
kept here and their leases beaten. A group that it refuses is split, until the one at fault is alone; that one ends as refused.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from common import faults
from common.clock import ReadClock
from common.commands.outcome import Outcome, Reported, log_reported, report_known, report_outcomes
from common.courtesy import Portions, in_turn
from common.db import Database, is_trouble
from common.ids import TaskId, TenantId
from common.store.claims import TaskClaim
from common.task_error import TaskError
from task_runner.answering import Answering
from task_runner.call import ended
from task_runner.context import TaskContext
from task_runner.isolate import IsolatedCall
from task_runner.metadata_rows import MetadataRows
from task_runner.slots import Ticket

log = structlog.get_logger("signalbox.task_runner")

UNREPORTED_MAX = 1_024
"""Tasks that are called, wait to be, or have ended and wait for their commit; beyond it nothing is claimed, so that a slow database is not run away from."""
STORED = Portions(128, 32, 16)
"""Outcomes that the committer stores in one go."""
LAST_REPORT = 2.0
"""Seconds that a drain waits for the commit of what has ended."""
REJECTION = TaskError("output.rejected", "the database refused what the handler returned", retryable=False)


MakeAnswering = Callable[[Callable[[Outcome], None]], Answering]
"""Makes what tells steps how their tasks ended, of what takes back an outcome that is to be stored here."""


@dataclass(slots=True)
class Held:
    """A claim of this process, until its outcome is stored. `ticket` is that of its slot, where it has one or waits for one."""

    claim: TaskClaim
    context: TaskContext
    metadata: MetadataRows
    clock: ReadClock | None = None
    ticket: Ticket | None = None
    isolated: IsolatedCall | None = None
    unwanted_at: float | None = None
    is_limited: bool = False
    answered_at: str | None = None
    held_since: float = field(default_factory=time.monotonic)

    @classmethod
    def of(
        cls,
        claim: TaskClaim,
        database: Database,
        clock: ReadClock | None = None,
        *,
        is_limited: bool = False,
        answered_at: str | None = None,
    ) -> Held:
        """A claim that is about to be called.

        `clock` tells the database's time, where somebody has read it; `answered_at` whom to tell how it ended, where a step leased it.
        """
        metadata = MetadataRows(claim, database)
        context = TaskContext(claim, metadata=metadata)
        return cls(claim, context, metadata, clock, is_limited=is_limited, answered_at=answered_at)

    def with_end(self, outcome: Outcome) -> Outcome:
        """The outcome of its call, with the last progress that was told, and the instant."""
        ended_at = None if self.clock is None else self.clock.time()
        return replace(outcome, progress=self.context.last_progress, ended_at=ended_at)


class Reporting:
    """The claims of this process and their outcomes. Safe to use from any thread.

    `on_freed` is told how many limited tasks are held no more; `on_room` is called then, and once after `want_room` when
    some claim is held no more. `portion` tells how much to store in one go;
    `on_due` is called when a task is to be tried again later, with the seconds until then.
    """

    def __init__(
        self,
        database: Database,
        *,
        on_freed: Callable[[int], None],
        on_room: Callable[[], None],
        make_answering: MakeAnswering | None = None,
        portion: Callable[[Portions], int] = lambda portions: portions.alone,
        on_due: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self.database = database
        self._answering = None if make_answering is None else make_answering(self.hand_on)
        self._portion = portion
        self._on_due = on_due
        self.on_freed = on_freed
        self.on_room = on_room
        self.taking = threading.Lock()
        """Kept by who claims, from the claim until what it took is held."""
        self._held: dict[TaskId, Held] = {}
        self._ready: list[Outcome] = []
        self._reporting: list[Outcome] = []
        self._ended_here: list[Outcome] = []  # and are stored without the committer
        self._turn = threading.Condition()
        self._closing = False
        self._is_wanted = False
        self._committer = threading.Thread(target=self._commit, name="committer", daemon=True)

    def start(self) -> None:
        self._committer.start()
        if self._answering is not None:
            self._answering.start()

    # -- what is held ----------------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many more claims may be held."""
        return UNREPORTED_MAX - len(self._held)

    @property
    def held(self) -> Sequence[Held]:
        """The claims of this process: in a slot, or ended and not yet stored."""
        with self._turn:
            return list(self._held.values())

    @property
    def ids(self) -> set[TaskId]:
        """The tasks that are held."""
        with self._turn:
            return set(self._held)

    def count_tenants(self) -> Counter[TenantId]:
        """How many claims of each tenant are held."""
        with self._turn:
            return Counter(one.claim.tenant_id for one in self._held.values())

    def hold(self, held: Held) -> None:
        """Hold a claim until an outcome under its token is stored."""
        with self._turn:
            self._held[held.claim.id] = held

    def want_room(self) -> None:
        """Ask to be rung when some claim is held no more.

        Said before a second look at what is held, so that a commit in between is seen by one of the two.
        """
        self._is_wanted = True

    def let_go(self, group: Sequence[Outcome]) -> None:
        """Hold claims no more whose outcomes are stored, and ring where somebody waits for that."""
        freed = 0
        with self._turn:
            for outcome in group:
                held = self._held.get(outcome.task_id)
                if held is not None and held.claim.token == outcome.token:
                    del self._held[outcome.task_id]
                    freed += held.is_limited
        if freed:
            self.on_freed(freed)
            self.on_room()
        if self._is_wanted:
            self._is_wanted = False
            self.on_room()

    # -- who stores it ---------------------------------------------------------------------------------------------

    def end(self, outcome: Outcome) -> None:
        """Tell the step that waits for what ended in a slot, or store it.

        From its very thread, where nobody else is storing anything; else it joins the next group.
        """
        if self._tell(outcome):
            return
        with self._turn:
            is_alone = outcome.is_known and not self._closing and not self._unstored()
            if is_alone:
                self._ended_here.append(outcome)
        if is_alone:
            self.report_here([outcome])
        else:
            self.hand_on(outcome)

    def _tell(self, outcome: Outcome) -> bool:
        if self._answering is None:
            return False
        held = self._held.get(outcome.task_id)
        if held is None or held.answered_at is None or held.claim.token != outcome.token:
            return False
        faults.hit("before_report")
        return self._answering.tell(outcome, held.answered_at)

    def note_stored(self, receipts: Sequence[str]) -> None:
        """Steps have stored what they were told: hold it no more."""
        if self._answering is not None and receipts:
            self.let_go(self._answering.take(receipts))

    def hand_on(self, outcome: Outcome) -> None:
        """Leave an outcome with the committer."""
        # Also where the task was claimed anew meanwhile: this token is refused, and that goes on record.
        with self._turn:
            if not self._closing:
                self._ready.append(outcome)
                self._turn.notify_all()

    def begin_here(self, group: Iterable[Outcome]) -> list[Outcome]:
        """Tell of what ended what can be told. The rest is returned, and about to be stored by `report_here`."""
        untold = [outcome for outcome in group if not self._tell(outcome)]
        with self._turn:
            self._ended_here += untold
        return untold

    def report_here(self, group: list[Outcome]) -> None:
        """Store what ended without the committer, which waits meanwhile; what cannot be stored at once is left to it."""
        faults.hit("before_report")
        try:
            self._report_once(group)
        except Exception as error:  # noqa: BLE001 - whatever it is, the committer meets it again and deals with it
            log.warning("outcomes.left", count=len(group), error=error_text(error))
            for outcome in group:
                self.hand_on(outcome)
        else:
            self.let_go(group)
        stored = {id(one) for one in group}
        with self._turn:
            self._ended_here = [one for one in self._ended_here if id(one) not in stored]
            self._turn.notify_all()

    def close(self) -> list[Outcome]:
        """Let what has ended be stored, and report nothing any more; what is held still is given back by what this returns."""
        rest = []
        untold = [] if self._answering is None else self._answering.close()
        with self._turn:
            self._ready += untold
            self._turn.notify_all()
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
        return rest

    def join(self, seconds: float) -> None:
        """Wait for the committer, after `close`."""
        self._committer.join(seconds)

    def _unstored(self) -> Sequence[Outcome]:
        return (*self._ready, *self._reporting, *self._ended_here)

    def _commit(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: (self._ready and not self._ended_here) or self._closing)
                self._take_portion()
            if not self._reporting:
                return
            faults.hit("before_report")
            self._report(self._reporting)
            self.let_go(self._reporting)
            with self._turn:
                self._reporting = []
                self._turn.notify_all()

    def _take_portion(self) -> None:
        """What is stored next: of much the first, of the tenants in turn, because somebody's only one may be among a flood of another's."""
        most = self._portion(STORED)
        ready = self._ready
        if len(ready) > most:
            ready = in_turn(ready, lambda outcome: outcome.tenant_id)
        self._reporting, self._ready = ready[:most], ready[most:]

    # -- storing it ------------------------------------------------------------------------------------------------

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
            log.error("outcome.unstorable", **about, error=error_text(refusal))
            return
        log.error("outcome.refused", **about, error=error_text(refusal))
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
                log.warning(
                    "database.trouble", duty="task-runner", error=error_text(error), rest_seconds=delay
                )
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
        if reported.due_in is not None:
            self._on_due(reported.due_in)
        log_reported(log, reported)


def error_text(error: Exception) -> str:
    """What the log says of an error: of one of the database, its own words."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return f"{type(cause).__name__}: {cause}"[:300]
