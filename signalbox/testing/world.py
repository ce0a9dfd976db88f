"""The engine in memory: what the orchestrator, its timers and sweeps and a task runner do, in turns, at a virtual time.

One `World` holds every instance of one test. Instances are stepped by the orchestrator's own code (`orchestrator.stepping`), which
decides by `common.decide`; answers to tasks and children come from the test. Nothing sleeps, and nothing asks a clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from heapq import heappop, heappush
from typing import Any

from common.canonical import dumps, read
from common.commands.configs import Wanted, choose, scope_id_of
from common.commands.people import check_form
from common.config import Limits
from common.db.tables import InboxType
from common.decision import NOT_RUN_BY_A_RUNNER
from common.errors import NotFound, SignalboxError
from common.ids import DefinitionId
from common.lifecycle import InstanceStatus, TaskStatus
from common.store import inbox
from common.store.joins import StartableItem
from common.task_error import TaskError
from orchestrator.charts import CompiledChart
from orchestrator.children import name_of
from orchestrator.map_children import RETRIED, completed, wanted_child, way_of
from orchestrator.stepped import step_instance
from orchestrator.stepping import StepLimits
from signalbox.testing import outcomes
from signalbox.testing.answers import Answer, Script
from signalbox.testing.handlers import as_polled
from signalbox.testing.memory import TENANT, Attempt, Instance, Memory, Task
from signalbox.testing.models import think
from signalbox.testing.saving import Family, Saving
from signalbox.testing.stand_in import ENDED, stand_in
from signalbox.testing.ways_out import ways_out
from statechart.ai import AI
from task_runner.watch import Bounds

MAX_TURNS = 10_000
"""Turns that one settling may take: a definition that keeps itself busy is told from one that has much to do."""

MAX_JUMPS = 100_000
"""Moves of the clock that one advance may take: a timer of 1 ms and a month to go by would take for ever."""

Runner = Callable[[Task], Answer | None]
"""Runs the real handler of a claimed task, or says None where there is none."""


class NeverSettles(AssertionError):
    """The instances of a test keep each other busy for ever, or time would have to go on for ever."""


class WrongAnswer(AssertionError):
    """An answer for a task that nobody can give."""


@dataclass
class World:
    """Every instance of a test, what answers its tasks, and the time."""

    memory: Memory
    limits: Limits
    tasks: dict[str, Script] = field(default_factory=dict)
    children: dict[str, Script] = field(default_factory=dict)
    run_handler: Runner | None = None
    has_handler: Callable[[Task], bool] = lambda _task: False
    _keys: dict[str, list[DefinitionId]] = field(default_factory=dict)
    _arrivals: list[tuple[datetime, int, Callable[[], None]]] = field(default_factory=list)
    _scheduled: int = 0
    _answered: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        # Stepping an instance reads the limit only; the database is for passes, which are not made here.
        self._step_limits = StepLimits(self.limits.max_context_bytes, self.limits.max_ai_events)

    # -- definitions ------------------------------------------------------------------------------------------------

    def add_definition(self, key: str, compiled: CompiledChart) -> None:
        """Apply a definition: the next, active version of its key."""
        definition_id = DefinitionId(self.memory.number("definition"))
        self.memory.definitions[definition_id] = compiled
        self._keys.setdefault(key, []).append(definition_id)

    def has_definition(self, key: str, *, played: bool = True) -> bool:
        """Is there a definition of this key; with `played` False, one that the test has given?"""
        versions = self._keys.get(key)
        return versions is not None and (played or self.memory.definitions[versions[-1]] is not stand_in())

    def find_definition(self, key: str, version: int | None) -> tuple[DefinitionId, int] | SignalboxError:
        """A definition that the test has given; what it has not given is played by a stand-in."""
        if key not in self._keys:
            self.add_definition(key, stand_in())
        versions = self._keys[key]
        is_played = not self.has_definition(key, played=False)
        chosen = len(versions) if version is None or is_played else version
        if not 0 < chosen <= len(versions):
            return NotFound(
                f'no definition "{key}" version {version}; apply it, then retry', code="definition.not_found"
            )
        return versions[chosen - 1], chosen

    def is_stand_in(self, instance: Instance) -> bool:
        return self.memory.definitions[instance.held.definition_id] is stand_in()

    # -- accepting --------------------------------------------------------------------------------------------------

    def accept(
        self, instance_id: str, type: InboxType, body: Mapping[str, Any] | str, *, lane: int, actor: str
    ) -> None:
        """Put a row into an instance's inbox."""
        text = body if isinstance(body, str) else dumps(body)
        self.memory.put(
            {"instance_id": instance_id, "lane": lane, "type": type.value, "body": text, "source": actor}
        )

    # -- taking turns -----------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Do everything that is due now, until nothing is. Raises `NeverSettles`."""
        for _ in range(MAX_TURNS):
            self._arrive()
            self._fire_timers()
            outcomes.time_out_tasks(self.memory)
            outcomes.count_items(self.memory, max_output_bytes=self.limits.max_output_bytes)
            # Both are asked, one after the other: work begins when nothing is left to step.
            if not self._advance() and not self._work():
                return
        raise NeverSettles(
            f"expected it to settle, found more to do after {MAX_TURNS:,} turns at one instant"
        )

    def advance_to(self, instant: datetime) -> None:
        """Let time go by, and do what falls due on the way at its own time."""
        self.settle()
        jumps = 0
        while (due := self.next_due()) is not None and due <= instant:
            jumps += 1
            if jumps > MAX_JUMPS:
                raise NeverSettles(
                    f"expected time to go by, found more due after {MAX_JUMPS:,} moves of the clock"
                )
            self.memory.now = max(due, self.memory.now)
            self.settle()
        self.memory.now = max(instant, self.memory.now)

    def next_due(self) -> datetime | None:
        """When something happens next by itself."""
        instants = [timer.due_at for timer in self.memory.timers]
        instants += [arrival[0] for arrival in self._arrivals]
        for task in self.memory.open_tasks():
            if task.finish_by_at is not None:
                instants.append(task.finish_by_at)
            if task.is_claimable:
                if task.start_by_at is not None:
                    instants.append(task.start_by_at)
                if self._is_answered(task) or self._is_startable(task):
                    instants.append(task.run_at)
        return min(instants, default=None)

    def next_work(self) -> datetime | None:
        """When a task that is answered is tried next, or an attempt that runs ends."""
        instants = [arrival[0] for arrival in self._arrivals]
        instants += [
            task.run_at for task in self.memory.open_tasks() if task.is_claimable and self._is_answered(task)
        ]
        return min(instants, default=None)

    def _advance(self) -> int:
        """What the orchestrator does at a ring: sweep the inbox until a sweep finds nothing. Returns the steps."""
        steps = 0
        while ready := list(dict.fromkeys(row.instance_id for row in self.memory.ready())):
            for instance_id in ready:
                steps += self._step(self.memory.instances[instance_id])
            if steps > MAX_TURNS * 10:
                raise NeverSettles(
                    f"expected it to settle, found more to do after {steps:,} steps at one instant"
                )
        return steps

    def _step(self, instance: Instance) -> int:
        memory = self.memory
        rows = memory.rows_of(instance.id, parked=False)[: inbox.PER_INSTANCE]
        wanted = sum(row.type is InboxType.STEP for row in rows)
        if wanted:
            behind = sum(row.lane == inbox.CONTROL for row in rows)
            rows[behind:behind] = memory.rows_of(instance.id, parked=True)[:wanted]
        compiled = memory.definitions[instance.held.definition_id]
        config = self._config_for(instance, compiled)
        batch = step_instance(self._step_limits, instance.held, rows, compiled, memory.now, math.inf, config)
        Saving.of(batch).store(memory, self.find_definition, self.limits)
        return batch.steps

    def _config_for(self, instance: Instance, compiled: CompiledChart) -> dict[str, dict[str, Any]] | None:
        """The configuration values that the chart names, as `advance_locked` reads them."""
        if compiled.chart is None or not compiled.chart.config_names:
            return {}
        scope_id = scope_id_of(instance.held.business_key, instance.id)
        return choose(Wanted(TENANT, compiled.chart.config_names, scope_id), self.memory.configs)

    def _fire_timers(self) -> None:
        memory = self.memory
        due = sorted(
            (timer for timer in memory.timers if timer.due_at <= memory.now), key=lambda one: one.due_at
        )
        for timer in due:
            lane = inbox.CONTROL if timer.inbox_type is InboxType.TIMEOUT else inbox.ORDINARY
            self.accept(
                timer.instance_id, timer.inbox_type, timer.body, lane=lane, actor=f"timer:{timer.key}"
            )
        memory.timers = [timer for timer in memory.timers if timer not in due]

    # -- answering --------------------------------------------------------------------------------------------------

    def script_for(self, task: Task) -> Script | None:
        """What the test says of a task: by its name, or by its type; of a POLL by that of its inner task too.

        Of an item of a MAP, before all that, by its name and index.
        """
        item = (f"{task.name}#{task.item_index}",) if task.parent_task_id else ()
        known = (self.tasks.get(name) for name in (*item, task.name, task.asked_as or task.type, task.type))
        return next((script for script in known if script is not None), None)

    def _is_answered(self, task: Task) -> bool:
        return self.script_for(task) is not None or self.has_handler(task)

    def _work(self) -> int:
        """What a runner does: claim all that is due and answered, and report. Returns the attempts and played children."""
        return self._start_items() + self._play_children() + self._answer_people() + self._run_due()

    def _start_items(self) -> int:
        """Start the children of MAPs whose turn has come."""
        memory = self.memory
        due = [task for task in memory.open_tasks() if self._is_startable(task) and task.run_at <= memory.now]
        family = Family()
        for task in due:
            depth = memory.instances[task.instance_id].held.depth
            item = StartableItem(
                task.id, TENANT, task.instance_id, task.key, task.input, task.options, task.priority, depth
            )
            if item.is_again:
                self._go_on(family, item, task)
            else:
                family.ask(item, wanted_child(item))
            task.status = TaskStatus.RUNNING
        for row in family.store(memory, self.find_definition, self.limits):
            memory.put(row)
        family.end_items(memory)
        return len(due)

    def _go_on(self, family: Family, item: StartableItem, task: Task) -> None:
        """Let the item of a MAP that was retried begin again, by the child that it has (`orchestrator.map_children`)."""
        memory = self.memory
        child = memory.instances.get(item.child_id)
        way = way_of(None if child is None else child.held)
        if child is not None and way == "anew":
            child.held = replace(child.held, parent_key=None)
        task.options = dumps({"instanceId": memory.number("instance") if way == "anew" else item.child_id})
        if way == "anew":
            family.ask(item, wanted_child(replace(item, options=task.options)))
        elif child is not None and way == "take":
            family.ended_items.append(completed(item, child.held))
        elif child is not None and way == "retry":
            body = {"incidents": ways_out(memory, child.id, way="retry"), "reason": RETRIED}
            self.accept(child.id, InboxType.RETRY, body, lane=inbox.CONTROL, actor=name_of(item.id))

    @staticmethod
    def _is_startable(task: Task) -> bool:
        return task.type == "WORKFLOW" and task.parent_task_id is not None and task.is_claimable

    def _run_due(self) -> int:
        memory = self.memory
        due = [
            task
            for task in memory.open_tasks()
            if task.is_claimable and task.run_at <= memory.now and self._is_answered(task)
        ]
        due.sort(key=lambda task: (-task.priority, task.run_at))
        attempts = [(task, outcomes.claim(memory, task)) for task in due]
        for task, attempt in attempts:
            self._begin(task, attempt, as_polled(task, self._answer(task, attempt.number)))
        return len(due)

    def _answer(self, task: Task, attempt: int) -> Answer:
        script = self.script_for(task)
        if script is not None:
            return self._said(task, script.answer(read(task.input), task.went_on + attempt))
        answer = self.run_handler(task) if self.run_handler else None
        return answer or Answer(is_silent=True)

    def _said(self, task: Task, answer: Answer) -> Answer:
        """An answer as it is, or what comes of what a model says."""
        if answer.turns is None:
            return answer
        if task.type != AI:
            raise WrongAnswer(
                f'task "{task.name}" is of type {task.type}: says(…) is what the model of an AI task says'
            )
        return think(task, answer, self.memory, max_output_bytes=self.limits.max_output_bytes)

    def _answer_people(self) -> int:
        """Answer what no runner executes, once, where the test says how: a HUMAN task, a MAP."""
        people = [task for task in self.memory.open_tasks() if task.type in NOT_RUN_BY_A_RUNNER]
        for task in people:
            if task.type == "WORKFLOW" and self.script_for(task):
                raise WrongAnswer(f'task "{task.name}" waits for a child: say by child(…) how that one ends')
        waiting = [
            task
            for task in people
            if task.status is TaskStatus.RUNNING and task.attempt == 0 and task.type != "WORKFLOW"
            and task.id not in self._answered and not task.held and self.script_for(task)
        ]  # fmt: skip
        for task in waiting:
            self._answered.add(task.id)
            answer = _final(self._answer(task, 1), f'task "{task.name}"')
            if not answer.is_silent:
                self._after(answer.after_ms, partial(self._end_unclaimed, task, answer))
        return len(waiting)

    def _end_unclaimed(self, task: Task, answer: Answer) -> None:
        if task.is_open:
            self.report(task, answer)

    def _begin(self, task: Task, attempt: Attempt, answer: Answer) -> None:
        """Let an attempt end when its answer comes, its time is over, or its lease is."""
        bounds = Bounds.of(task.timeout_ms, task.heartbeat_ms)
        ends = [ms for ms in (task.timeout_ms, task.heartbeat_ms) if ms is not None]
        if answer.crashes:
            self._after(outcomes.LEASE_MS, lambda: self._expire(task, attempt))
        elif bounds is not None and (answer.is_silent or answer.after_ms >= min(ends)):
            error = bounds.broken(0, 0, min(ends) / 1_000)
            if error is not None:
                self._after(min(ends), lambda: self._overrun(task, attempt, error))
        if not answer.is_silent:
            self._after(answer.after_ms, lambda: self._arrived(task, attempt, answer))

    def _arrived(self, task: Task, attempt: Attempt, answer: Answer) -> None:
        if task.running_attempt is attempt:
            self.report(task, answer)
        else:
            outcomes.record_late(self.memory, task, attempt, answer.error, answer.output)

    def _overrun(self, task: Task, attempt: Attempt, error: TaskError) -> None:
        if task.running_attempt is attempt:
            outcomes.fail(self.memory, task, error, timed_out=True)

    def _expire(self, task: Task, attempt: Attempt) -> None:
        if task.running_attempt is attempt:
            outcomes.lose(self.memory, task)

    def report(self, task: Task, answer: Answer) -> None:
        """End the attempt that runs, or a task that waits for no runner. What a person sends has to fit the task's form."""
        if task.type == "HUMAN" and answer.error is None:
            check_form(task.name, read(task.options) if task.options else {}, read(answer.output))
        if answer.state is not None:
            task.state = answer.state
        if answer.error is not None:
            outcomes.fail(self.memory, task, answer.error)
        elif answer.again_ms is not None:
            outcomes.go_on(self.memory, task, answer.again_ms)
        else:
            outcomes.succeed(self.memory, task, answer.output)

    def _play_children(self) -> int:
        """Let stand-ins end as the test says."""
        waiting = [
            instance
            for instance in self.memory.instances.values()
            if instance.held.definition_key in self.children
            and self.is_stand_in(instance)
            and instance.held.status is InstanceStatus.WAITING
            and instance.id not in self._answered
        ]
        for instance in waiting:
            self._answered.add(instance.id)
            key = instance.held.definition_key
            answer = _final(self.children[key].answer(read(instance.input), 1), f'child "{key}"')
            if not answer.is_silent:
                self._after(answer.after_ms, partial(self.end_stand_in, instance, answer))
        return len(waiting)

    def end_stand_in(self, instance: Instance, answer: Answer) -> None:
        """Let a stand-in complete with an output, or stop with an incident."""
        if answer.error is None:
            event = {"output": read(answer.output), "type": ENDED}
            self.accept(instance.id, InboxType.EVENT, event, lane=inbox.ORDINARY, actor="test")
        else:
            error = answer.error
            body = {"code": error.code, "detail": {"error": error.to_json()}, "message": error.message}
            self.accept(instance.id, InboxType.INCIDENT, body, lane=inbox.ORDINARY, actor="test")

    # -- what comes later -------------------------------------------------------------------------------------------

    def _after(self, milliseconds: int, happen: Callable[[], None]) -> None:
        """Let something happen at a later instant, or now. What is for one instant happens in the order of asking."""
        if not milliseconds:
            happen()
            return
        self._scheduled += 1
        heappush(
            self._arrivals, (self.memory.now + timedelta(milliseconds=milliseconds), self._scheduled, happen)
        )

    def _arrive(self) -> None:
        while self._arrivals and self._arrivals[0][0] <= self.memory.now:
            heappop(self._arrivals)[2]()


def _final(answer: Answer, subject: str) -> Answer:
    """The answer of what has no attempts, and so cannot go on in another."""
    if answer.again_ms is not None:
        raise WrongAnswer(f"{subject} has no attempts: a Continue is for tasks that a runner executes")
    return answer
