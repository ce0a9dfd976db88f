"""What a batch of steps writes: effects become rows, collected per table, saved set-based in lock order.

A `Batch` is filled by pure decisions while the instances are locked, and saved once. Lock order (operation): the
instances are held already; then tasks by id, then timers; inserts take nothing that anyone waits for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, assert_never

from sqlalchemy import Connection

from common.canonical import dumps, read
from common.commands.limits import asked_again, declare, figures_of
from common.commands.outcome import end_workflow_items, outcome_body, retry_items
from common.config import Limits
from common.db import TASK_RUNNER_QUEUE, note_bell
from common.db.rows import Unmatched, Writes
from common.db.tables import InboxType, IncidentStatus, TimerStatus
from common.decision import NOT_RUN_BY_A_RUNNER, TIMEOUT_TIMER, Decision, Incident
from common.ids import InstanceId, LeaseToken, TaskId, TenantId, WorkerId, derived_id, new_id, new_token
from common.lifecycle import ENDED, FINAL, FROZEN, InstanceStatus, TaskStatus
from common.queues.handed import TOLD_BYTES, task_note
from common.queues.offers import Offer, Offers
from common.queues.told_task import ToldTask
from common.retry import RetryPolicy
from common.store import (
    history,
    inbox,
    incidents,
    instances,
    joins,
    leased,
    people,
    suggestions,
    tasks,
    timers,
)
from common.store.inbox import InboxRow
from common.store.instances import LockedInstance
from common.store.leased import Begun, CalledHere, KnownEnd
from common.store.limits import KEY_PREFIX, Figures, LimitKey
from common.store.places import Place
from orchestrator.children import Children
from orchestrator.erasures import Erasures
from orchestrator.lent import CallerOf, LentTasks, allow_attempts, is_once, is_plain, told_task
from orchestrator.map_rows import MapRows, is_due
from orchestrator.opened import Opened
from orchestrator.places import has_place, place_of
from orchestrator.sends import Sends
from orchestrator.taken_back import TakenBack
from orchestrator.triggers import Emitted
from statechart import Chart, accepts
from statechart.ai import AI_EVENTS
from statechart.effects import (
    ArmTimer,
    AssignTask,
    CancelChild,
    CancelTask,
    CancelTimer,
    CreateTask,
    Effect,
    Emit,
    Log,
    SendEvent,
    StartWorkflow,
)
from statechart.env import after
from statechart.limits import read_limit
from statechart.maps import map_key

OF_NOW = timedelta(minutes=1)
"""How long ago the cause of a step was accepted whose time the ids of its tasks have."""
NO_OFFERS = Offers()
"""For who has nobody to hand tasks to."""


# An enum's `value` is a Python function, which is slow for what each task asks several times.
_PENDING, _RUNNING = TaskStatus.PENDING.value, TaskStatus.RUNNING.value
_AT_REST = frozenset(status.value for status in (*FROZEN, *FINAL))


class LostRace(Exception):
    """A guarded write changed fewer rows than were locked: somebody else wrote them. The batch must roll back."""


@dataclass(frozen=True, slots=True)
class _Asking:
    """A task with an idempotency key, and the row it becomes where the key is new; made in the step, which may fail by it."""

    instance: LockedInstance
    effect: CreateTask
    row: dict[str, Any]


@dataclass(slots=True)
class _Origin:
    """The step that rows are made by: what caused it was accepted at `caused_at`, and `made` tasks have come of it so far."""

    caused_at: datetime
    sequence: int
    at: datetime
    made: int = 0


@dataclass
class Batch:
    """Rows to write, collected while instances are stepped. `now` is the database's time of this transaction."""

    now: datetime
    history: list[dict[str, Any]] = field(default_factory=list)
    instances: list[dict[str, Any]] = field(default_factory=list)
    consumed: list[int] = field(default_factory=list)
    parked: list[int] = field(default_factory=list)
    unstored: list[dict[str, Any]] = field(default_factory=list)  # parked rows that came without being stored
    ended: list[KnownEnd] = field(default_factory=list)  # tasks whose answers came so
    frozen: set[str] = field(default_factory=set)
    thawed: set[str] = field(default_factory=set)
    released: set[InstanceId] = field(default_factory=set)
    asked_models: set[InstanceId] = field(default_factory=set)  # that ended, and may have open suggestions
    asking: dict[Place, set[InstanceId]] = field(default_factory=dict)  # who waits for a place since now
    vacated: set[Place] = field(default_factory=set)
    steps: int = 0
    due_tasks: list[str] = field(default_factory=list)
    handed: dict[WorkerId, list[TaskId]] = field(default_factory=dict)  # leased to them as they were created
    told: dict[WorkerId, list[str]] = field(default_factory=dict)  # what they are told of those
    limited: set[tuple[TenantId, str]] = field(
        default_factory=set
    )  # types of task, of which no new one may simply begin
    children: Children = field(default_factory=Children)
    emitted: Emitted = field(default_factory=Emitted)
    taken_back: TakenBack = field(default_factory=TakenBack)
    sends: Sends = field(default_factory=Sends)
    erasures: Erasures = field(default_factory=Erasures)
    lent: LentTasks = field(default_factory=LentTasks)
    _origin: _Origin | None = None
    _tasks: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    _maps: MapRows = field(default_factory=MapRows)
    _left_over: set[str] = field(default_factory=set)  # instances that may have tasks nobody waits for
    _asked_again: list[_Asking] = field(default_factory=list)
    _timers: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    _cancelled_tasks: set[tuple[str, str]] = field(default_factory=set)
    _assigned: dict[tuple[str, str], AssignTask] = field(default_factory=dict)
    _open_tasks: dict[str, set[str]] = field(default_factory=dict)
    _cancelled_timers: set[tuple[str, str]] = field(default_factory=set)
    _incidents: list[dict[str, Any]] = field(default_factory=list)
    _opened: dict[str, Opened] = field(default_factory=dict)  # by the incident's id
    _resolved: dict[str, tuple[str, str]] = field(default_factory=dict)  # resolution and actor
    _retried_tasks: list[TaskId] = field(default_factory=list)
    _skipped_tasks: list[str] = field(default_factory=list)
    _limits: dict[LimitKey, tuple[Figures, str]] = field(default_factory=dict)

    # -- collecting ----------------------------------------------------------------------------------------------

    def take(
        self,
        held: LockedInstance,
        decision: Decision,
        *,
        sequence: int,
        actor: str,
        at: datetime,
        caused_at: datetime,
    ) -> None:
        """Collect what one decided event asks for, which was accepted at `caused_at` and stepped `at`."""
        self.steps += 1
        self._origin = _Origin(caused_at, sequence, at)
        for effect in decision.effects:
            self._effect(held, effect)
        if decision.resolution is not None:
            self._close_incidents(held, decision.resolution, actor)
            self._left_over.add(held.id)  # the items of a MAP that is given up
        self._retried_tasks += decision.retried_tasks
        self._skipped_tasks += decision.skipped_tasks
        if decision.incident is not None:
            row = self._incident(held, decision.incident, sequence)
            self._incidents.append(row)
            self._opened[row["id"]] = Opened(
                held.tenant_id,
                held.id,
                held.definition_key,
                decision.incident.code,
                decision.incident.task_id,
            )
        if decision.erasure is not None:
            self.erasures.add(held.id, decision.erasure, sequence=sequence, actor=actor)

    def consume(self, row: InboxRow) -> None:
        """Notice that a row is stepped."""
        if row.id != inbox.NOT_STORED:
            self.consumed.append(row.id)

    def park(self, held: LockedInstance, row: InboxRow) -> None:
        """Set a row aside until its instance is resumed or retried."""
        if row.id != inbox.NOT_STORED:
            self.parked.append(row.id)
        else:
            self.unstored.append(
                inbox.new_row(held.tenant_id, held.id, row.type, row.body, row.source, row.accepted_at)
            )

    def take_answer(self, held: LockedInstance, entry: Mapping[str, Any]) -> None:
        """Notice what the answer of a task leaves: a MAP may have ended before its last items."""
        if entry.get("items", {}).get("open"):
            self._left_over.add(held.id)

    def light_tasks(self, caller_of: CallerOf, *, limited: frozenset[str]) -> list[tuple[ToldTask, Offer]]:
        """New tasks that need nothing before their handlers are called, each until it is lent; with the offers of who calls them.

        Types that are `limited` need a place.
        """
        return [
            (told_task(row, new_token()), offer)
            for row in self._tasks.values()
            if row["id"] not in self.lent.asked
            and (offer := caller_of(row["type"], row["name"])) is not None
            and row["type"] not in limited
            and is_plain(row)
            and is_due(row, self.now)
        ]

    def end_lent(self, held: LockedInstance, task: ToldTask, called: CalledHere) -> bool:
        """A task that was lent has succeeded; False where nobody waits for it any more."""
        row = self._tasks.get((held.id, task.key))
        if row is None or row["id"] != task.id or row["status"] != _PENDING:
            return False
        self.lent.end(self._tasks.pop((held.id, task.key)), called)
        return True

    def ask_for_place(self, held: LockedInstance) -> None:
        """Notice that a queued instance would begin now."""
        place = place_of(held)
        if place is not None:
            self.asking.setdefault(place, set()).add(held.id)

    def settle(
        self,
        held: LockedInstance,
        chart: Chart | None,
        decision: Decision,
        *,
        sequence: int,
        head_hash: bytes,
        began_at: datetime,
        at: datetime,
        error: str | None,
        was_thawed: bool,
        releases: bool,
    ) -> None:
        """Collect an instance's row after its last event of this batch.

        `began_at` is when the first of them was stepped, and `at` the last. `was_thawed` says that it was not frozen at some moment of this batch; `releases` that held tasks may run
        although it is paused, because somebody takes it on step by step.
        """
        snapshot = decision.snapshot or {}
        final = decision.status in FINAL
        if decision.status in FROZEN and was_thawed and not releases:
            self.frozen.add(held.id)
        self._open_tasks[held.id] = set(snapshot.get("tasks", ()))
        if held.limited_types:
            self.limited.update((held.tenant_id, type_) for type_ in held.limited_types)
        if held.status in FROZEN and decision.status not in FROZEN:
            self.thawed.add(held.id)
        if final and (held.status is InstanceStatus.COMPENSATING or self.parked):
            self.thawed.add(held.id)  # an erasure that waited until everything was undone
        if held.concurrency_key is not None:
            self._settle_place(held, decision.status)
        if releases or (held.id in self.thawed and not final):
            self.released.add(held.id)
        if final and AI_EVENTS in snapshot.get("counts", ()):
            self.asked_models.add(held.id)
        deadline_at = self._deadline(held, chart, snapshot, began_at, final)
        completed = decision.status is InstanceStatus.COMPLETED
        self.instances.append(
            {
                "id": held.id,
                "read_sequence": held.sequence,
                "status": str(decision.status),
                "configuration": dumps(snapshot.get("configuration", [])),
                "snapshot": decision.snapshot_text,
                "output": dumps(snapshot.get("output")) if completed else None,
                "error": error,
                "sequence": sequence,
                "head_hash": head_hash,
                "strikes": 0,
                "last_step_at": at,
                "open_tasks": len(snapshot.get("tasks", ())),
                "open_timers": len(snapshot.get("timers", ())),
                "open_children": len(snapshot.get("children", ())),
                "accepts_events": bool(snapshot)
                and not final
                and decision.status
                is not InstanceStatus.FAILED  # its snapshot may be the very thing that is wrong
                and chart is not None
                and accepts(chart, snapshot),
                "deadline_at": deadline_at,
                "started_at": held.started_at or (began_at if snapshot else None),
                # A note or a late event after the end does not move the end.
                "finished_at": (held.finished_at or at) if final else None,
            }
        )

    def _settle_place(self, held: LockedInstance, status: InstanceStatus) -> None:
        """Notice a place that is given back; and what a queued one had set aside, which is rejected now that it has ended."""
        place = place_of(held)
        if place is not None and has_place(held, held.status) and not has_place(held, status):
            self.vacated.add(place)
        if held.is_queued and status in FINAL:
            self.thawed.add(held.id)

    def _close_incidents(self, held: LockedInstance, resolution: str, actor: str) -> None:
        """Close the incidents of the instance, those of this batch too."""
        if held.status is InstanceStatus.FAILED:
            self._resolved[held.id] = (resolution, actor)
        for row in self._incidents:
            if row["instance_id"] == held.id and row["status"] == IncidentStatus.OPEN.value:
                row.update(
                    status=IncidentStatus.RESOLVED.value,
                    resolved_at=self.now,
                    resolved_by=actor,
                    resolution=resolution,
                )

    def _deadline(
        self,
        held: LockedInstance,
        chart: Chart | None,
        snapshot: Mapping[str, Any],
        at: datetime,
        final: bool,
    ) -> datetime | None:
        """When the time of the whole instance is over: fixed at its start, and not moved by a pause, retry or restart."""
        starts = bool(snapshot) and held.started_at is None
        if held.deadline_at is not None:
            if final:
                self._cancelled_timers.add((held.id, TIMEOUT_TIMER))
            return held.deadline_at
        if not starts or final or chart is None or chart.timeout_ms is None:
            return None
        deadline_at = after(at, chart.timeout_ms)
        self._timers[held.id, TIMEOUT_TIMER] = {
            "id": new_id(),
            "tenant_id": held.tenant_id,
            "instance_id": held.id,
            "key": TIMEOUT_TIMER,
            "due_at": deadline_at,
            "status": TimerStatus.ARMED.value,
            "inbox_type": InboxType.TIMEOUT.value,
            "body": dumps({"milliseconds": chart.timeout_ms}),
            "created_at": self.now,
            "finished_at": None,
        }
        return deadline_at

    def merge(self, other: Batch) -> None:
        """Take over everything that another batch collected: one instance's, stepped without harm."""
        self.history += other.history
        self.instances += other.instances
        self.consumed += other.consumed
        self.parked += other.parked
        self.unstored += other.unstored
        self.ended += other.ended
        self.frozen |= other.frozen
        self.thawed |= other.thawed
        self.released |= other.released
        self.asked_models |= other.asked_models
        for place, asking in other.asking.items():
            self.asking.setdefault(place, set()).update(asking)
        self.vacated |= other.vacated
        self.steps += other.steps
        self.limited |= other.limited
        self.lent.merge(other.lent)
        self._tasks.update(other._tasks)
        self._maps.merge(other._maps)
        self._left_over |= other._left_over
        self._asked_again += other._asked_again
        self._timers.update(other._timers)
        self._cancelled_tasks |= other._cancelled_tasks
        self._assigned.update(other._assigned)
        self._open_tasks.update(other._open_tasks)
        self._cancelled_timers |= other._cancelled_timers
        self._incidents += other._incidents
        self._opened.update(other._opened)
        self._resolved.update(other._resolved)
        self._retried_tasks += other._retried_tasks
        self._skipped_tasks += other._skipped_tasks
        self._limits.update(other._limits)
        self.children.merge(other.children)
        self.emitted.merge(other.emitted)
        self.taken_back.merge(other.taken_back)
        self.sends.merge(other.sends)
        self.erasures.merge(other.erasures)

    def _effect(self, held: LockedInstance, effect: Effect) -> None:
        match effect:
            case CreateTask():
                self._create_task(held, effect)
            case CancelTask(key, tells):
                self._cancel_task(held, key)
                if tells:
                    self.taken_back.add(held, key)
            case AssignTask():
                self._assign_task(held, effect)
            case ArmTimer(key, due_at, event):
                self._timers[held.id, key] = self._timer(held, key, due_at, event)
            case CancelTimer(key):
                self._cancel_timer(held, key)
            case SendEvent(to, event, _):
                self.sends.add(held, to, event)
            case Emit(event, _):
                self.emitted.add(held, event)
            case Log():
                pass  # told by the step's own history entries
            case StartWorkflow():
                self.children.ask(held, effect)
            case CancelChild(key, tells):
                self.children.cancel(held, key, tells=tells)
            case _:
                assert_never(effect)

    def _cancel_task(self, held: LockedInstance, key: str) -> None:
        created = self._tasks.get((held.id, key))
        if created is None:
            self._cancelled_tasks.add((held.id, key))
        else:  # asked for and withdrawn within one batch: the row tells both
            created.update(status=TaskStatus.CANCELLED.value, finished_at=self.now)
            self._maps.drop(held.id, key)

    def _cancel_timer(self, held: LockedInstance, key: str) -> None:
        armed = self._timers.get((held.id, key))
        if armed is None:
            self._cancelled_timers.add((held.id, key))
        else:
            armed.update(status=TimerStatus.CANCELLED.value, finished_at=self.now)

    def _assign_task(self, held: LockedInstance, effect: AssignTask) -> None:
        row = self._tasks.get((held.id, effect.key))
        if row is None:
            self._assigned[held.id, effect.key] = effect
        else:
            row.update(assigned(effect))

    def _create_task(self, held: LockedInstance, effect: CreateTask) -> None:
        row = self._task(held, effect)
        if effect.items is not None:
            self._maps.add(row, effect.items, partial(self._task, held), options=effect.options)
        if effect.idempotency_key is None:
            self._tasks[held.id, effect.key] = row
        else:
            self._asked_again.append(_Asking(held, effect, row))

    def _task(self, held: LockedInstance, effect: CreateTask) -> dict[str, Any]:
        executed, is_human = effect.type not in NOT_RUN_BY_A_RUNNER, effect.type == "HUMAN"
        run_at = max(effect.run_at, self.now) if effect.run_at else self.now
        finish_within_ms = effect.finish_within_ms
        if not executed and effect.timeout_ms is not None:  # its whole life is one attempt
            bounds = (effect.timeout_ms, finish_within_ms)
            finish_within_ms = min(bound for bound in bounds if bound is not None)
        priority = held.priority if effect.priority is None else effect.priority
        return {
            "id": self._task_id(held, effect),
            "tenant_id": held.tenant_id,
            "instance_id": held.id,
            "key": effect.key,
            "joined_keys": None,
            "type": effect.type,
            "asked_as": effect.asked_as,
            "parent_task_id": None,
            "item_index": None,
            "gated": False,
            "assignee": effect.options.get("assignee") if is_human else None,
            "candidates": (effect.options.get("candidates") or None) if is_human else None,
            "due_at": effect.due_at,
            "name": effect.name,
            "status": _PENDING if executed else _RUNNING,
            "priority": priority,
            "run_at": run_at,
            "held": False,
            "max_attempts": RetryPolicy.read(effect.retry).max_attempts,
            "retry": dumps(effect.retry) if effect.retry else None,
            "timeout_ms": effect.timeout_ms if executed else None,
            "heartbeat_ms": effect.heartbeat_ms,
            "start_within_ms": effect.start_within_ms,
            "finish_within_ms": finish_within_ms,
            "start_by_at": tasks.later(run_at, effect.start_within_ms) if executed else None,
            "finish_by_at": tasks.later(run_at, finish_within_ms),
            "options": dumps(effect.options) if effect.options else None,
            "completion_event": effect.completion_event,
            "failure_event": effect.failure_event,
            "idempotency_key": effect.idempotency_key,
            "limit_key": self._limit(held, effect) if effect.options else None,
            "input": dumps(effect.input),
            "secrets": dumps([list(where) for where in effect.secrets]) if effect.secrets else None,
            "created_at": self._created_at,
            "finished_at": None,
        }

    @property
    def _created_at(self) -> datetime:
        """A step that waited for light handlers comes later than the first one of its batch."""
        return self.now if self._origin is None else max(self.now, self._origin.at)

    def _task_id(self, held: LockedInstance, effect: CreateTask) -> TaskId:
        """The same one when the step is taken again after all that it did was undone: a light handler that was called by then
        has been given it as the key of its work.
        """
        origin = self._origin
        assert origin is not None, "tasks are made by steps"  # noqa: S101
        origin.made += 1
        # What waited for long is no longer when it was made: an id tells that.
        made_at = origin.caused_at if origin.at - origin.caused_at < OF_NOW else origin.at
        return TaskId(derived_id(made_at, origin.sequence, origin.made, held.id, effect.key))

    def _limit(self, held: LockedInstance, effect: CreateTask) -> str | None:
        """The key of the limit that a task asks for, and which is to stand once the task does."""
        written = effect.options.get("limit")
        if written is None:
            return None
        asked = read_limit(effect.type, written)
        name = LimitKey(held.tenant_id, KEY_PREFIX + asked.key)
        self._limits[name] = (figures_of(asked), f"definition:{held.definition_key}")
        return name.key

    def _timer(
        self, held: LockedInstance, key: str, due_at: datetime, event: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {
            "id": new_id(),
            "tenant_id": held.tenant_id,
            "instance_id": held.id,
            "key": key,
            "due_at": due_at,
            "status": TimerStatus.ARMED.value,
            "inbox_type": InboxType.TIMER.value,
            "body": dumps({"event": event, "key": key}),
            "created_at": self.now,
            "finished_at": None,
        }

    def _incident(self, held: LockedInstance, incident: Incident, sequence: int) -> dict[str, Any]:
        return {
            "id": new_id(),
            "tenant_id": held.tenant_id,
            "instance_id": held.id,
            "task_id": incident.task_id,
            "code": incident.code,
            "message": incident.message,
            "detail": dumps(incident.detail),
            "sequence": sequence,
            "status": IncidentStatus.OPEN.value,
            "opened_at": self.now,
            "resolved_at": None,
            "resolved_by": None,
            "resolution": None,
        }

    @property
    def opened(self) -> tuple[Opened, ...]:
        """The incidents that are left open."""
        rows = self._incidents
        return tuple(self._opened[row["id"]] for row in rows if row["status"] == IncidentStatus.OPEN.value)

    @property
    def due_in(self) -> float | None:
        """After how many seconds the first of its timers is due."""
        instants = [row["due_at"] for row in self._timers.values()]
        return max((min(instants) - self.now).total_seconds(), 0.0) if instants else None

    @property
    def starts_items(self) -> bool:
        """May children of MAPs have their turn by what was saved?"""
        return self._maps.has_workflows or bool(self.children.ended_items) or bool(self.released)

    # -- saving --------------------------------------------------------------------------------------------------

    @property
    def under_way(self) -> set[InstanceId]:
        """Instances that are sure to be stepped again soon: a runner has a task of theirs. Who waits for their rest need not look yet."""
        have_task = {
            row["instance_id"] for row in self._tasks.values() if row["status"] == TaskStatus.PENDING.value
        }
        return have_task - {row["id"] for row in self.instances if row["status"] in _AT_REST}

    def save(self, tx: Connection, limits: Limits, offers: Offers = NO_OFFERS) -> None:
        """Write everything collected, in lock order. Raises `LostRace` when a guarded write found another row.

        Due tasks that a runner has offered to take are leased to it; the others wait to be claimed.
        """
        try:
            self._save(tx, limits, offers)
        except Unmatched as error:
            raise LostRace("instances, their inbox or their tasks changed while they were locked") from error

    def _save(self, tx: Connection, limits: Limits, offers: Offers) -> None:
        writes = Writes(tx)
        self._lock_tasks(tx)
        leased.end_stepped(writes, self.ended)
        if self._touches_tasks:
            writes.run()  # what follows is to see them ended
        self._save_asked_again(tx)
        retried = tasks.retry(tx, sorted(self._retried_tasks), now=self.now)
        tasks.skip(tx, sorted(self._skipped_tasks))
        self.children.end_tasks(tx, now=self.now)
        cancelled = self._cancel_and_hold(tx)
        released = tasks.unhold(tx, sorted(self.released))
        timers.cancel(tx, sorted(self._cancelled_timers), now=self.now)
        joins.give_up(tx, cancelled, now=self.now)
        retried += retry_items(tx, retried, now=self.now)
        end_workflow_items(tx, self.children.ended_items, now=self.now)
        released += joins.open_again(tx, sorted(self.released), now=self.now) if released else []
        for instance_id, (resolution, actor) in self._resolved.items():  # before newer ones are opened
            incidents.resolve_of(tx, [instance_id], resolution=resolution, actor=actor, now=self.now)
        suggestions.expire(tx, sorted(self.asked_models), now=self.now)
        instances.save(writes, self.instances)
        begun = self._begin(offers)
        leased.create_called(writes, self.lent.ended)
        created = [row for row in self._tasks.values() if row["id"] not in begun]
        tasks.create(writes, [*created, *self._maps.rows()])
        leased.create_begun(writes, list(begun.values()))
        joins.create(writes, list(self._maps.joins.values()))
        timers.arm(writes, list(self._timers.values()))
        history.append(writes, self.history)
        incidents.open_all(writes, self._incidents)
        if self.children.are_asked_for:
            writes.run()  # children may want the business keys that these instances have just given back
        # The last that may wait for others, and before events that may be for these children.
        rows = self.children.save(tx, limits=limits, now=self.now)
        rows += self.sends.deliveries(tx, now=self.now) + self.erasures.requests(tx, now=self.now)
        if self.taken_back:  # last: tasks are cancelled, and what ended before has its row in the inbox
            writes.run()
            rows += self.taken_back.answers(tx, rows, consumed=self.consumed, now=self.now)
        inbox.put(writes, rows)
        inbox.consume(writes, self.consumed)
        writes.run()
        self.emitted.save(tx, now=self.now)
        inbox.park(tx, self.parked)
        inbox.put_parked(tx, self.unstored)
        if self.thawed:  # what waited parked is taken up again, also where it can only be rejected: on record
            inbox.unpark(tx, sorted(self.thawed))
        self.erasures.erase(tx, now=self.now)
        again = asked_again(tx, retried)
        if self._limits or again:  # the last that it locks
            declare(tx, self._limits, again=again, now=self.now)
        self.due_tasks = [*retried, *released]
        made = (*self._tasks.values(), *self._maps.rows())
        self.due_tasks += [row["id"] for row in made if is_due(row, self.now) and row["id"] not in begun]

    def _begin(self, offers: Offers) -> dict[TaskId, tuple[dict[str, Any], Begun]]:
        """Use offers of runners for due tasks, by id. Items of MAPs come by the thousand: they are claimed.

        So is what must not be done twice: lost with a runner that has never heard of it, it would fail without having been tried.
        """
        begun: dict[TaskId, tuple[dict[str, Any], Begun]] = {}
        if not (offers or self.lent.out):
            return begun
        tokens: dict[WorkerId, LeaseToken] = {}
        for row in self._tasks.values():
            if row["held"] or row["limit_key"] is not None or is_once(row) or not is_due(row, self.now):
                continue
            if self.limited and (row["tenant_id"], row["type"]) in self.limited:
                continue
            offer, token = self.lent.out.get(row["id"], (None, None))
            if offer is None:
                offer = offers.take(row["tenant_id"], row["type"], row["name"])
            if offer is not None:
                token = token or tokens.setdefault(offer.worker, new_token())
                allow_attempts(row, offer)
                begun[row["id"]] = (row, Begun(offer.worker, token, self.now + offer.lease))
                self.handed.setdefault(offer.worker, []).append(row["id"])
                if offer.number and len(row["input"]) <= TOLD_BYTES and is_plain(row):
                    note = task_note(offer.number, told_task(row, token))
                    self.told.setdefault(offer.worker, []).append(note)
        return begun

    @property
    def _touches_tasks(self) -> bool:
        """Does anything of this batch look for tasks, or change some, that stand already?"""
        looked_for = (
            self._asked_again, self._retried_tasks, self._skipped_tasks, self.released, self.taken_back,
            self.children.ended_items,
        )  # fmt: skip
        return any(looked_for) or bool(self._withdrawing())

    def _lock_tasks(self, tx: Connection) -> None:
        """Where several statements lock tasks, lock them all in one: each by itself would be in order, all together not."""
        withdrawing = self._withdrawing()
        counted = [(end.instance_id, end.key) for end in self.children.ended_items]
        counted += [(one, map_key(key) or key) for one, key in counted]
        if (
            self._asked_again
            or self._retried_tasks
            or counted
            or (withdrawing and self.released)
            or (self.ended and self._touches_tasks)
        ):
            ending = {str(end.instance_id) for end in self.ended}
            tasks.lock_in_order(
                tx,
                withdrawing=sorted(withdrawing | self.released | ending),
                retried=sorted(self._retried_tasks),
                counted=counted,
                asking=sorted({asking.instance.id for asking in self._asked_again}),
                idempotency_keys=sorted({asking.row["idempotency_key"] for asking in self._asked_again}),
            )

    def _withdrawing(self) -> set[str]:
        """Instances that cancel tasks, give them to others, or may not have any run."""
        concerned = {instance_id for instance_id, _ in (*self._cancelled_tasks, *self._assigned)}
        return concerned | self.frozen | self._left_over

    def _cancel_and_hold(self, tx: Connection) -> list[TaskId]:
        """Cancel what nobody waits for any more, and hold what is frozen; returns the ids that were cancelled."""
        concerned = self._withdrawing()
        if not concerned:
            return []
        self._cancel_and_hold_new(concerned)
        cancelled, held, given = [], [], []
        for task in tasks.lock_open(tx, sorted(concerned)):
            effect = self._assigned.get((task.instance_id, task.key))
            if effect is not None:
                given.append({"id": task.id, **assigned(effect)})
            if not self._is_wanted(task.instance_id, task.key, task.joined_keys):
                cancelled.append(task)
            elif task.instance_id in self.frozen:
                held.append(task.id)
        self.children.cancel_items(
            (task.instance_id, task.key)
            for task in cancelled
            if task.type == "WORKFLOW" and map_key(task.key)
        )
        ids = [task.id for task in cancelled]
        for row in given:
            people.escalate(tx, [row])
        tasks.cancel(tx, ids, now=self.now)
        if any(task.is_leased for task in cancelled):  # under a limit, another may have its place
            note_bell(tx, TASK_RUNNER_QUEUE)
        tasks.hold(tx, held)
        return ids

    def _is_wanted(self, instance_id: str, key: str, joined: str | None) -> bool:
        """Does an obligation that a task answers stand in the snapshot? Of several, all may have been given up one by one.

        The obligation of an item is its MAP.
        """
        keys = {map_key(key) or key, *(read(joined) if joined else ())}
        return not keys.isdisjoint(self._open_tasks[instance_id])

    def _cancel_and_hold_new(self, concerned: set[str]) -> None:
        """The same for rows of this batch, which are not stored yet: asked for by one event, given up by a later one."""
        for (instance_id, key), row in self._tasks.items():
            if instance_id in concerned and not self._is_wanted(instance_id, key, row["joined_keys"]):
                row.update(status=TaskStatus.CANCELLED.value, finished_at=self.now)
                self._maps.drop(instance_id, key)
            elif instance_id in self.frozen:
                row["held"] = True
                self._maps.hold(instance_id, key)

    def _save_asked_again(self, tx: Connection) -> None:
        """Create tasks that carry an idempotency key; where the key is known, join the live task or take its stored outcome."""
        for asking in self._asked_again:
            held, effect = asking.instance, asking.effect
            known = tasks.lock_same_work(tx, held.id, effect.idempotency_key or "")
            if known is None:
                self._create_once(asking)
                continue
            if known.status is TaskStatus.CANCELLED:  # has no outcome to give: the work is asked for anew
                tasks.give_up_key(tx, known.id)
                self._create_once(asking)
                continue
            if known.status is not TaskStatus.SUCCEEDED:  # an uncaught failure stays open under this key too
                keys = read(known.joined_keys) if known.joined_keys else []
                tasks.join(tx, known.id, dumps([*keys, effect.key]))
            if known.status in ENDED:
                self._answer_again(tx, held, effect, known)

    def _create_once(self, asking: _Asking) -> None:
        wanted = asking.row
        for (instance_id, _), row in self._tasks.items():
            if instance_id == wanted["instance_id"] and row["idempotency_key"] == wanted["idempotency_key"]:
                joined = read(row["joined_keys"]) if row["joined_keys"] else []
                row["joined_keys"] = dumps([*joined, wanted["key"]])
                return
        self._tasks[wanted["instance_id"], wanted["key"]] = wanted

    def _answer_again(
        self, tx: Connection, held: LockedInstance, effect: CreateTask, known: tasks.SameWork
    ) -> None:
        succeeded = known.status is TaskStatus.SUCCEEDED
        error = (
            read(known.error)
            if known.error
            else {"code": f"task.{known.status}", "message": f"task was {known.status}"}
        )
        body = outcome_body(
            key=effect.key,
            task_id=known.id,
            name=effect.name,
            type=known.type,  # who has answered: what was asked of another handler is not a model's decision
            attempt=known.attempt,
            event_type=effect.completion_event if succeeded else effect.failure_event,
            output=known.output or "null",
            error=None if succeeded else error,
            attempts_digest=None,
        )
        inbox.put(
            tx, [inbox.new_row(held.tenant_id, held.id, InboxType.TASK, body, f"task:{known.id}", self.now)]
        )


def assigned(effect: AssignTask) -> dict[str, Any]:
    """The columns of a task that goes to somebody else: to one person, or to whoever of the candidates takes it."""
    columns: dict[str, Any] = {"assignee": effect.assignee}
    return columns if effect.candidates is None else columns | {"candidates": list(effect.candidates)}


def error_text(incident: Incident) -> str:
    """What the instance's row says of the incident that froze it."""
    return dumps({"code": incident.code, "message": incident.message, "data": incident.detail})
