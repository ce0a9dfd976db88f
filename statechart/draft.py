"""The snapshot while a step is writing it: what is active, the data, the obligations, the queues, the record.

A `Draft` belongs to one call of `start`, `step` or `stop`. It copies what it changes and never writes into the
snapshot it came from; values are shared and therefore never changed in place, here or anywhere. Invariant: at the
end of a macrostep `queue` is empty, so that a snapshot has nothing waiting inside.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from statechart.ai import AI
from statechart.chart import Chart, StateNode
from statechart.configuration import ActiveNodes, in_document_order, with_ancestors
from statechart.effects import (
    NOT_RUN_BY_A_RUNNER,
    ArmTimer,
    AssignTask,
    CancelChild,
    CancelTask,
    CancelTimer,
    CreateTask,
    Effect,
    Event,
    StartWorkflow,
)
from statechart.env import Env, Json, format_instant
from statechart.expressions import ExpressionFailed, Meter, Scope
from statechart.problems import StepFailed
from statechart.values import RESULT_FIELDS

if TYPE_CHECKING:
    from statechart.guards import Guard
    from statechart.templates import Value

KERNEL = 1  # the number of these semantics; it rises with each change of meaning
# States entered or looked at, conditions asked and actions performed in one step, over all its microsteps. It keeps a
# hostile chart from taking longer than a second; an ordinary step stays below a hundred.
MAX_WORK = 100_000
MAX_DEPTH = 224
"""Levels of JSON in a snapshot: more than any door lets in, and well below the 254 that are written, so that there is room for what answers and
histories put around it. Each step may set what it has read one level deeper, and no single value tells how deep that makes the whole."""
WORK_OF_ASKING = 4  # an obligation is entered, noted and usually withdrawn again
Status = Literal["active", "done", "error", "stopped", "compensating"]
Snapshot = dict[str, Json]
Change = dict[str, Json]

INIT_EVENT = "xstate.init"
STOP_EVENT = "xstate.stop"
RESTART_EVENT = "restart"  # by hand, from a chosen state


class ActionFailed(Exception):
    """A value is of no use where it is needed; becomes an `error.execution` event, as `ExpressionFailed` does."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(message)


class Draft:
    """One step's working copy. The functions of step.py move it; actions write into it."""

    __slots__ = (
        "_owns_context",
        "active",
        "changes",
        "chart",
        "children",
        "compensation",
        "counts",
        "effects",
        "env",
        "error",
        "event",
        "has_taken_transition",
        "history",
        "is_answered",
        "is_changed",
        "item_meter",
        "mailbox",
        "microsteps",
        "output",
        "queue",
        "scope",
        "snapshot",
        "status",
        "steps",
        "tasks",
        "timers",
        "work",
    )

    def __init__(self, chart: Chart, snapshot: Snapshot, env: Env) -> None:
        """Raises `StepFailed("snapshot.unusable")` for a snapshot that this chart and kernel cannot go on from."""
        self.chart = chart
        self.env = env
        self.snapshot = snapshot
        try:
            if snapshot["kernel"] != KERNEL:
                raise StepFailed(
                    "snapshot.unusable",
                    f"expected a snapshot of kernel {KERNEL}, found kernel {snapshot['kernel']!r}",
                    path="kernel",
                )
            self.status: Status = snapshot["status"]
            self.active: ActiveNodes = with_ancestors(
                [chart.by_path[path] for path in snapshot.get("entered") or snapshot["configuration"]]
            )
            self.history: dict[str, Sequence[StateNode]] = {
                keeper: [chart.by_path[path] for path in remembered]
                for keeper, remembered in snapshot["history"].items()
            }
            self.tasks: dict[str, dict[str, Json]] = dict(snapshot["tasks"])
            self.timers: dict[str, dict[str, Json]] = dict(snapshot["timers"])
            self.children: dict[str, dict[str, Json]] = dict(snapshot["children"])
            self.counts: dict[str, int] = dict(snapshot["counts"])
            self.output: Json = snapshot["output"]
            self.steps: dict[str, Json] = snapshot.get("steps") or {}
            self.error: Json = snapshot["error"]
            self.compensation: dict[str, Json] | None = snapshot.get("compensation")
            # One scope and one meter for the whole step: together its expressions may not cost more than one may.
            self.scope = Scope(
                context=snapshot["context"],
                event=None,
                input=snapshot["input"],
                instance=snapshot["instance"],
                config=chart.config_with(env.config),
                steps=self.steps,
                now=env.now,
                seed=env.seed,
                meter=Meter(),
            )
        except KeyError as missing:
            raise StepFailed(
                "snapshot.unusable",
                f"this chart has no state, or this snapshot no entry, {missing.args[0]!r}",
                path="configuration",
            ) from missing
        self.item_meter: Meter | None = None  # of the items of its MAPs, once there are any
        self._owns_context = False
        self.event: Event = {"type": INIT_EVENT}
        self.queue: deque[Event] = deque()  # internal events of this macrostep
        # Events sent to itself, one macrostep each, with the obligation that they answer.
        self.mailbox: deque[tuple[Event, str | None]] = deque()
        self.effects: list[Effect] = []
        self.changes: list[Change] = []
        self.microsteps = 0
        self.work = 0
        self.has_taken_transition = False
        self.is_answered = False  # some transition was enabled by the event, if only one that forbids it
        self.is_changed = False  # what XState sees as another snapshot: configuration, context, invoked tasks

    # --- reading

    def nodes_in_document_order(self) -> list[StateNode]:
        return sorted(self.active, key=_by_order)

    def leaves(self) -> list[StateNode]:
        """Active atomic and final states, in the order in which they were entered."""
        return [node for node in self.active if node.is_leaf]

    def tips(self) -> list[StateNode]:
        """The leaves, and parallel states without regions: from them everything that is active follows."""
        return [node for node in self.active if not node.regions]

    def configuration(self) -> list[str]:
        """Paths of the active leaves in document order."""
        leaves = self.leaves()
        if len(leaves) > 1:
            leaves.sort(key=_by_order)
        return [node.path for node in leaves]

    def evaluate(self, value: Value) -> Json:
        """Raises `ExpressionFailed`."""
        return value.evaluate(self.scope)

    def holds(self, guard: Guard, at: str) -> bool:
        """A guard that fails is false, on record."""
        self.charge_work(guard.size.conditions)
        try:
            return guard.holds(self)
        except (ExpressionFailed, ActionFailed) as failure:
            self.note("guard.failed", guard=guard.text, code=failure.code, message=failure.message, at=at)
            return False

    # --- the record and the budget

    def note(self, kind: str, **facts: Json) -> None:
        self.changes.append({"type": kind, **facts})

    def charge_work(self, amount: int) -> None:
        self.work += amount
        if self.work > MAX_WORK:
            raise StepFailed(
                "step.too_large",
                f"the step enters states, asks conditions and performs actions more than {MAX_WORK:,} times",
            )

    # --- the current event and data

    def take(self, event: Event) -> None:
        """Make `event` the one that guards and actions see."""
        self.event = event
        self.scope.event = event

    def assign(self, keys: tuple[str, ...], value: Json) -> None:
        """Set a value in the context, making objects on the way. Raises `ActionFailed` where something else stands."""
        context = self._writable_context()
        holder: dict[str, Json] = context
        for depth, key in enumerate(keys[:-1], start=1):
            inner = holder.get(key)
            if inner is not None and not isinstance(inner, dict):
                raise ActionFailed(
                    "context.not_an_object",
                    f"expected an object at context.{'.'.join(keys[:depth])}, found {_kind(inner)}",
                )
            if inner:
                self.charge_work(len(inner) // 32)  # what copying it costs, beside an action
            holder[key] = dict(inner) if inner else {}
            holder = holder[key]
        holder[keys[-1]] = value
        self.is_changed = True
        self.note("context.assigned", path=".".join(keys), value=value)

    def keep_result(self, names: Iterable[str], status: str, output: Json, error: Json) -> None:
        """Keep of the result of some work what the chart's expressions read, under each of its names."""
        result = {"status": status, "output": output, "error": error}
        for name in names:
            kept = self.chart.results.kept(name)
            if kept:
                self.steps = {
                    **self.steps,
                    name: {field: result[field] for field in RESULT_FIELDS if field in kept},
                }
        self.scope.steps = self.steps

    def _writable_context(self) -> dict[str, Json]:
        if not self._owns_context:
            self.scope.context = dict(self.scope.context)
            self._owns_context = True
        context: dict[str, Json] = self.scope.context
        return context

    def fail_action(self, failure: ExpressionFailed | ActionFailed, at: str) -> None:
        """Raise `error.execution` inside this macrostep."""
        self.note("error.execution", code=failure.code, message=failure.message, at=at)
        error = {"code": failure.code, "message": failure.message, "data": {"at": at}}
        self.queue.append({"type": "error.execution", "error": error, "at": at})

    # --- obligations

    def next_key(self, place: str) -> str:
        """The key of the next thing that is asked for at this place."""
        self.charge_work(WORK_OF_ASKING)
        count = self.counts.get(place, 0) + 1
        self.counts[place] = count
        return f"{place}/{count}"

    def last_key(self, place: str) -> str:
        return f"{place}/{self.counts.get(place, 0)}"

    def create_task(self, task: CreateTask, *, is_instant: bool = False) -> None:
        """Open the obligation and ask for the task; nobody is asked for an instant one, which this step answers."""
        entry: dict[str, Json] = {
            "type": task.asked_type,
            "name": task.name,
            "completionEvent": task.completion_event,
            "failureEvent": task.failure_event,
        }
        if task.type == AI and "policy" in task.options:
            entry["policy"] = task.options["policy"]
        if task.invoke is not None:
            entry["invoke"] = task.invoke
            self.is_changed = True
        facts: dict[str, Json] = {"key": task.key, "taskType": task.asked_type, "name": task.name}
        if task.items is not None:
            entry["items"] = facts["items"] = len(task.items.tasks)
            if any(item.type not in NOT_RUN_BY_A_RUNNER for item in task.items.tasks):
                entry["isExecuted"] = True  # a runner has work to do
        if is_instant:
            entry["instant"] = True
        else:
            self.effects.append(task)
        self.tasks[task.key] = entry
        self.note("task.created", **facts)

    def cancel_task(self, key: str, *, tells: bool = False) -> None:
        """Does nothing where the task is not open any more. With `tells` we want to know how it ended."""
        entry = self.tasks.pop(key, None)
        if entry is None:
            return
        if "invoke" in entry:
            self.is_changed = True
        if "instant" not in entry:
            self._take_back(CreateTask, key, CancelTask(key, tells))
        self.note("task.cancelled", key=key)
        self.cancel_tied_timers(entry)
        if "instanceId" in entry:
            self._let_go(key, entry, tells=tells)

    def tie_timers(self, key: str, timers: Sequence[str]) -> None:
        """Let timers end with a task that was just asked for."""
        self.tasks[key]["timers"] = list(timers)

    def cancel_tied_timers(self, entry: Mapping[str, Json]) -> None:
        """What was armed for a task that has ended is not waited for any more."""
        for key in entry.get("timers", ()):
            self.cancel_timer(key)

    def assign_task(self, key: str, goes_to: Mapping[str, Json]) -> None:
        """Give an open task to somebody else."""
        if key in self.tasks:
            self.effects.append(AssignTask(key, goes_to.get("assignee"), goes_to.get("candidates")))
            self.note("task.assigned", key=key, **goes_to)

    def arm_timer(self, key: str, due_at: datetime, event: Event, **marks: Json) -> None:
        """`marks` are kept beside it: `to` whom the event goes, the `id` of a delayed event, the `name` of a task
        that is a timer, the `task` that it belongs to, to whom it is to `assign` that."""
        given = {mark: value for mark, value in marks.items() if value is not None}
        entry: dict[str, Json] = {"dueAt": format_instant(due_at), "event": event, **given}
        self.timers[key] = entry
        self.effects.append(ArmTimer(key, due_at, event))
        self.note("timer.armed", key=key, dueAt=entry["dueAt"])

    def cancel_timer(self, key: str) -> None:
        """Does nothing where the timer is not armed any more."""
        if self.timers.pop(key, None) is None:
            return
        self._take_back(ArmTimer, key, CancelTimer(key))
        self.note("timer.cancelled", key=key)

    def release_timer(self, key: str) -> None:
        """Its id does not lead to this timer any more: it fires when it is due, and nothing can cancel it before."""
        timer = self.timers.get(key)
        if timer is not None:
            self.timers[key] = {**timer, "isReleased": True}

    def release_id(self, identifier: str) -> None:
        """In XState an id leads to the timer that took it last, and to none as soon as one that has it fires."""
        self.charge_work(len(self.timers) // 8)
        for key, timer in self.timers.items():
            if timer.get("id") == identifier:
                self.release_timer(key)

    def start_workflow(self, child: StartWorkflow) -> None:
        if child.wait:
            self.children[child.key] = {
                "completionEvent": child.completion_event,
                "failureEvent": child.failure_event,
                **_facts_of(child),
            }
        self._start_child(child)

    def create_workflow_task(self, task: CreateTask, child: StartWorkflow) -> None:
        """The obligation is the task; it is answered by its child."""
        self.create_task(task)
        self.tasks[task.key] |= _facts_of(child)
        self._start_child(child)

    def _start_child(self, child: StartWorkflow) -> None:
        self.effects.append(child)
        self.note(
            "child.started",
            key=child.key,
            definitionKey=child.definition_key,
            instanceId=child.instance_id,
        )

    def cancel_child(self, key: str) -> None:
        """Stop waiting for a child; it is cancelled too where it was started with `cancelWithParent`."""
        entry = self.children.pop(key, None)
        if entry is not None:
            self._let_go(key, entry)

    def _let_go(self, key: str, entry: dict[str, Json], *, tells: bool = False) -> None:
        if entry["cancelWithParent"]:
            self._take_back(StartWorkflow, key, CancelChild(key, tells))
        kind = "child.cancelled" if entry["cancelWithParent"] else "child.released"
        self.note(kind, key=key, instanceId=entry["instanceId"])

    def cancel_all(self) -> None:
        """Nothing is awaited any more: the machine is done or stopped."""
        # Sorted, so that a snapshot that was stored with its keys in another order gives the same step.
        for key in sorted(self.timers):
            self.cancel_timer(key)
        for key in sorted(self.tasks):
            self.cancel_task(key)
        for key in sorted(self.children):
            self.cancel_child(key)

    def _take_back(
        self, kind: type[CreateTask | ArmTimer | StartWorkflow], key: str, otherwise: Effect
    ) -> None:
        """What this very step asked for is not asked for at all; what an earlier step did has to be undone."""
        for index in range(len(self.effects) - 1, -1, -1):
            effect = self.effects[index]
            if isinstance(effect, kind) and effect.key == key:
                del self.effects[index]
                return
        self.effects.append(otherwise)

    # --- the result

    def finished(self) -> Snapshot:
        """The next snapshot: plain JSON, sharing unchanged values with the one before."""
        tips = self.tips()
        configuration = self.configuration()
        snapshot: Snapshot = {
            "kernel": KERNEL,
            "status": self.status,
            "configuration": configuration,
            "context": self.scope.context,
            "input": self.snapshot["input"],
            "instance": self.snapshot["instance"],
            "history": {keeper: [node.path for node in nodes] for keeper, nodes in self.history.items()},
            "tasks": self.tasks,
            "timers": self.timers,
            "children": self.children,
            "counts": self.counts,
            "output": self.output,
            "error": self.error,
        }
        if self.chart.results:
            snapshot["steps"] = self.steps
        if self.compensation is not None:
            snapshot["compensation"] = self.compensation
        # A parallel state without regions is no leaf, so that only `entered` knows of it.
        if len(tips) != len(configuration) or (len(tips) > 1 and not in_document_order(tips)):
            snapshot["entered"] = [node.path for node in tips]
        return snapshot


def _facts_of(child: StartWorkflow) -> dict[str, Json]:
    """What an obligation keeps of the child that answers it."""
    facts: dict[str, Json] = {
        "definitionKey": child.definition_key,
        "instanceId": child.instance_id,
        "cancelWithParent": child.cancel_with_parent,
    }
    return facts if child.version is None else {**facts, "version": child.version}


def _by_order(node: StateNode) -> int:
    return node.order


def _kind(value: Json) -> str:
    match value:
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case _:
            return "an object"
