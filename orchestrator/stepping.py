"""One locked instance on its way through its rows: each decided purely, in order, until its time is over.

Nothing is written here: what the decisions ask for is collected in a `Batch`. Whatever the instance does wrong is its own incident.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import structlog

from common import decide_ai
from common.canonical import dumps, read
from common.clock import instant_text
from common.commands.configs import MAX_STEP_BYTES
from common.commands.digests import attempts_digest
from common.commands.outcome import outcome_body
from common.db.tables import AttemptOutcome, InboxType
from common.decide import Decision, Incident, Standing, decide
from common.decide_control import is_erased
from common.ids import is_id, made_at
from common.lifecycle import FINAL, FROZEN, InstanceStatus
from common.queues.offers import Offer
from common.queues.told_task import ToldTask
from common.store import history, inbox
from common.store.inbox import InboxRow
from common.store.instances import LockedInstance
from common.store.leased import CalledHere
from orchestrator.batch import Batch, error_text
from orchestrator.charts import CompiledChart
from orchestrator.lent import CallerOf
from statechart import KERNEL, Env, accepts
from statechart.record import record

Config = Mapping[str, Mapping[str, Any]]
"""Values by module and key."""
NO_CONFIG: Config = {}
ERASED_BODY: Mapping[str, None] = {"input": None, "changes": None, "salt": None}
AT_REST = (*FROZEN, *FINAL)
MACHINE = "(machine)"
WAYS_OUT = "restart it from a state, or cancel it"
log = structlog.get_logger("signalbox.orchestrator")


@record
class StepLimits:
    """What bounds a step, from the settings of its process."""

    max_context_bytes: int
    max_ai_events: int


class Stepping:
    """One instance on its way through its rows of this batch."""

    def __init__(
        self,
        limits: StepLimits,
        held: LockedInstance,
        compiled: CompiledChart,
        now: datetime,
        config: Config | None = NO_CONFIG,
        is_full: bool = False,
    ) -> None:
        self.limit = limits.max_context_bytes
        self.max_ai_events = limits.max_ai_events
        self.held = held
        self.compiled = compiled
        self.config = config
        self.is_full = is_full
        # Kernel time never runs backwards for an instance, whatever happens to the host of the database.
        self.at = max(now, held.last_step_at) if held.last_step_at else now
        self.began_at = self.at
        self.batch = Batch(now)
        self.caused_at = self.at
        self.has_come_through = False
        self.has_stepped_all = False
        self.sequence = held.sequence
        self.head = held.head_hash
        snapshot = None if held.snapshot is None else read(held.snapshot)
        self.decision = Decision(held.status, snapshot, held.snapshot, [])
        self.is_erased = is_erased(snapshot)
        self.error = held.error
        self.was_thawed = held.status not in FROZEN
        self.allowed = 0  # rows that may be taken although the instance is paused
        self.releases = False
        self.facts = facts_of(held, self.at)

    def through(self, rows: list[InboxRow], deadline: float) -> None:
        """Step rows until `deadline` (perf_counter seconds), at least one; the others stay in the inbox for the next pass.

        Without it, 200 slow steps would hold the locks so long that the database ends our session, again and again.
        """
        for at, row in enumerate(rows, start=1):
            self.caused_at = caused_at(row)
            if row.lane != inbox.CONTROL and self._has_thawed():
                break  # what waited parked was accepted earlier: the next pass reads it together with this row
            if row.lane != inbox.CONTROL and self._waits_for_place():
                self.batch.park(self.held, row)
                if row.type is InboxType.START:
                    self.batch.ask_for_place(self.held)
                continue
            if self.compiled.chart is None and row.lane != inbox.CONTROL:
                problem = self.compiled.problem or "the definition does not compile"
                self._freeze("definition.unusable", problem)
            if self.config is None and row.lane != inbox.CONTROL:
                self._freeze(
                    "limit.config",
                    f"the configuration values that its definition names are larger than the {MAX_STEP_BYTES} bytes that a "
                    "step may read; make them smaller, then retry",
                    also_paused=self.allowed > 0,
                )
            if row.lane != inbox.CONTROL and (self._waits_for_end(row) or not self._may_take()):
                self.batch.park(self.held, row)
            else:
                self._step(row.type, row.body, row.source)
                self.batch.consume(row)
            self.has_come_through = at == len(rows)
            self.has_stepped_all = self.has_come_through and at < inbox.PER_INSTANCE
            if time.perf_counter() > deadline:
                break

    def light_tasks(self, caller_of: CallerOf) -> list[tuple[ToldTask, Offer]]:
        """Tasks that a light handler may end at once. None where anything waits that came before it: an instance that was frozen, rows behind these."""
        is_free = self.has_stepped_all and self.held.status not in FROZEN
        if not is_free or self.decision.status in AT_REST:
            return []
        return self.batch.light_tasks(caller_of, limited=self.held.limited_types)

    def go_on(self, task: ToldTask, called: CalledHere) -> None:
        """Step what a task returned, as if its row had just come into the inbox. Nothing, where nobody waits for it any more."""
        if not self.batch.end_lent(self.held, task, called):
            return
        self.at = max(self.at, called.ended_at)
        self.caused_at = made_at(task.id)
        body, source = light_end_body(task, called), f"task:{task.id}"
        if self._may_take():
            self._step(InboxType.TASK, body, source)
        else:
            row = InboxRow(
                inbox.NOT_STORED, self.held.id, inbox.ORDINARY, InboxType.TASK, body, source, called.ended_at
            )
            self.batch.park(self.held, row)

    def _has_thawed(self) -> bool:
        """Has a command of this batch let an instance go on that was frozen, or ended one that was queued? What it had parked
        was not read with this batch."""
        if self.held.is_queued:
            return self.held.status not in FINAL and self.decision.status in FINAL
        return self.held.status in FROZEN and self.decision.status not in FROZEN

    def _waits_for_place(self) -> bool:
        """Is it queued? Whatever comes to it is set aside, its start before all."""
        return self.held.is_queued and self.decision.status not in FINAL

    def _waits_for_end(self, row: InboxRow) -> bool:
        """Is it an erasure, and what the instance has done is still being undone? The cancel said with it has begun that."""
        return row.type is InboxType.ERASE and self.decision.status is InstanceStatus.COMPENSATING

    def _may_take(self) -> bool:
        """May an ordinary row be stepped: the instance is not frozen, or paused and taken on by hand?"""
        if self.decision.status not in FROZEN:
            return True
        if self.decision.status is InstanceStatus.PAUSED and self.allowed > 0:
            self.allowed -= 1
            return True
        return False

    def _freeze(self, code: str, problem: str, *, also_paused: bool = False) -> None:
        """What its steps need is not to be had: say so once; what is not a control command waits until it is."""
        status = self.decision.status
        if status not in AT_REST or (also_paused and status is InstanceStatus.PAUSED):
            body = dumps({"code": code, "detail": {}, "message": problem})
            self._step(InboxType.INCIDENT, body, "engine")

    def give_up(self, incident: Incident, rows: list[InboxRow]) -> None:
        """Record an incident of the engine itself; the rows are parked, for `retry` to take up again."""
        body = dumps({"code": incident.code, "detail": incident.detail, "message": incident.message})
        if self.held.status not in FINAL:
            self._step(InboxType.INCIDENT, body, "engine")
            for row in rows:
                self.batch.park(self.held, row)
        else:
            for row in rows:
                self.batch.consume(row)

    def _step(self, type: InboxType, body: str, actor: str) -> None:
        self.sequence += 1
        held, before = self.held, self.decision
        env = Env(self.at, self.config or NO_CONFIG, f"{held.id}:{self.sequence}")
        standing = Standing(
            before.status,
            before.snapshot,
            self.facts,
            self.sequence,
            self.max_ai_events,
            self.is_full and before.status is InstanceStatus.FAILED,
        )
        chart = self.compiled.chart
        said = read(body)
        decided = decide(chart, standing, type, said, env, max_context_bytes=self.limit)
        entry = history.chained(
            held.tenant_id,
            held.id,
            self.sequence,
            at=self.at,
            actor=actor,
            input=input_text(type, body, env, self.compiled.checksum, self.limit, standing, decided),
            changes=dumps(decided.changes),
            previous_hash=self.head,
        )
        if decided.erasure is None and type is not InboxType.NOTE and self.is_erased:
            # It was on its way when the erasure was asked for (a result, the answer of a child), and would bring back what is gone.
            entry.update(ERASED_BODY)
        self.batch.history.append(entry)
        self.head = entry["hash"]
        self.batch.take(
            held, decided, sequence=self.sequence, actor=actor, at=self.at, caused_at=self.caused_at
        )
        self.batch.children.take(held, type, body, actor, before, decided)
        if type is InboxType.TASK:
            self.batch.take_answer(held, said["entry"])
        if decided.incident is not None:
            self.error = error_text(decided.incident)
        elif decided.status is not InstanceStatus.FAILED and decided.status is not before.status:
            self.error = self._end_of(decided, body)
        stepped = type is InboxType.STEP and decided.status is InstanceStatus.PAUSED
        self.allowed += stepped
        self.releases = stepped or (self.releases and decided.status is InstanceStatus.PAUSED)
        self.was_thawed |= decided.status not in FROZEN or decided.resolution is not None
        self.is_erased |= decided.erasure is not None
        self.decision = decided

    @staticmethod
    def _end_of(decided: Decision, body: str) -> str | None:
        """What the row says of a change that is no failure of its own: its time was over, or why it is undone."""
        undone = (decided.snapshot or {}).get("compensation", {}).get("started")
        if decided.status is InstanceStatus.TIMED_OUT:
            return _timed_out((undone or read(body))["milliseconds"])
        if decided.status is InstanceStatus.COMPENSATING and undone and undone["ends"] == "failed":
            return error_text(Incident(undone["code"], undone["message"], undone["detail"]))
        return None

    def _stop_where_stuck(self) -> None:
        """Open an incident where its definition has led it into states that nothing leaves: nobody would ever hear of it again.

        Not where a row of its own may follow (what it sends may come back, what it starts may be refused), and not where its time
        will be over. A row of history by itself, so that what was decided before there was this look is decided alike.
        """
        snapshot, chart = self.decision.snapshot, self.compiled.chart
        if self.decision.status is not InstanceStatus.WAITING or snapshot is None or chart is None:
            return
        waits = (
            snapshot["tasks"] or snapshot["timers"] or snapshot["children"] or chart.timeout_ms is not None
        )
        may_hear = bool(self.batch.sends) or self.batch.children.are_asked_for
        if waits or may_hear or not self.has_come_through or accepts(chart, snapshot):
            return
        states = ", ".join(f'"{path or MACHINE}"' for path in snapshot["configuration"])
        message = (
            f"nothing leaves {states}: it waits for no task, timer or child and takes no event; {WAYS_OUT}"
        )
        self._step(
            InboxType.INCIDENT, dumps({"code": "instance.stuck", "detail": {}, "message": message}), "engine"
        )

    def settled(self) -> Batch:
        """What it writes, its own row included. Once."""
        self._stop_where_stuck()
        self.batch.settle(
            self.held,
            self.compiled.chart,
            self.decision,
            sequence=self.sequence,
            head_hash=self.head,
            began_at=self.began_at,
            at=self.at,
            error=self.error,
            was_thawed=self.was_thawed,
            releases=self.releases,
        )
        return self.batch


def caused_at(row: InboxRow) -> datetime:
    """When what a row tells of was caused, the same however it is told: of a task that ended, when that was made."""
    kind, _, id = row.source.partition(":")
    if row.type is not InboxType.TASK or kind != "task" or not is_id(id):
        return row.accepted_at
    try:
        return min(made_at(id), row.accepted_at)
    except (ValueError, OverflowError):  # an id from elsewhere that tells no time
        return row.accepted_at


def light_end_body(task: ToldTask, called: CalledHere) -> str:
    """The body of the row that the end of a task would have in the inbox, whose handler was called while its step waited."""
    attempt = (1, AttemptOutcome.SUCCEEDED.value, called.started_at, called.ended_at)
    return outcome_body(
        key=task.key, task_id=task.id, name=task.name, type=task.type, attempt=1, event_type=task.completion_event,
        output=called.output or "null", error=None, attempts_digest=attempts_digest([attempt]),
    )  # fmt: skip


def _timed_out(milliseconds: int) -> str:
    message = f"its definition allows {milliseconds:,} ms from start to end, and they are over"
    return error_text(Incident("instance.timed_out", message, {"milliseconds": milliseconds}))


def facts_of(held: LockedInstance, started_at: datetime) -> dict[str, object]:
    """What a definition may read of its instance as `instance`: fixed at its start, and kept in the snapshot."""
    return {
        "businessKey": held.business_key,
        "definitionKey": held.definition_key,
        "definitionVersion": held.definition_version,
        "id": held.id,
        "parentId": held.parent_id,
        "startedAt": instant_text(held.started_at or started_at),
    }


def input_text(
    type: InboxType, body: str, env: Env, checksum: str, limit: int, standing: Standing, decided: Decision
) -> str:
    """The history row's `input`: everything that the decision read, so that it can be decided again.

    Limits stand there only where they may have decided something: a later, other setting must not change the past.
    """
    bound = (
        f'"contextLimit":{limit},' if decided.incident and decided.incident.code == "limit.context" else ""
    )
    events = f'"aiEventLimit":{standing.max_ai_events},' if decide_ai.reads_limit(standing, type) else ""
    full = '"full":true,' if standing.is_full else ""
    # The seed is an id and a number: JSON escapes nothing in it, nor in an instant.
    config = dumps(env.config) if env.config else "{}"
    said = f'{{"config":{config},"now":"{instant_text(env.now)}","seed":"{env.seed}"}}'
    return f'{{{events}"body":{body},{bound}"definition":"{checksum}","env":{said},{full}"kernel":{KERNEL},"type":"{type}"}}'
