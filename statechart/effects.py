"""What a step asks the world to do. The statechart only says it; the orchestrator makes it true.

Each effect carries the key of its obligation or, where nothing stays open, a key that a repeated step would give
again: the same step asks for the same effects under the same keys, so doing them twice can be noticed.
`Effect` is a closed union; users `match` on it and end in `assert_never`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace
from datetime import datetime
from typing import Literal, TypeAlias, get_args

from statechart.env import Json
from statechart.record import record

NOT_RUN_BY_A_RUNNER = frozenset({"HUMAN", "WORKFLOW", "MAP", "TIMER"})
"""Task types that wait without a runner: for people, children, items, time."""

Event: TypeAlias = dict[str, Json]
Where: TypeAlias = tuple[str | int, ...]  # keys of objects and positions in lists, outermost first


@record
class CreateTask:
    """Create a task; it stays an obligation until its completion or failure event arrives, or `CancelTask`.

    `input` is evaluated (texts `${secret.NAME}` stay as they are for the runner). `completion_event` and
    `failure_event` are the types of the events that answer it. `run_at` None means at once. `retry` is the
    policy as written, None for the default; `timeout_ms` covers one attempt, `heartbeat_ms` a handler's silence,
    `start_within_ms` each wait for a worker and `finish_within_ms` the task as a whole. `options` holds the other options of
    the task as evaluated JSON (policy, assignee, candidates, form, due, fourEyes, ...). `invoke` is the id of the
    `invoke` that asked, None for an action `createTask`. `secrets` are the places in `input` of the texts in which the
    definition itself wrote `${secret.NAME}`: only these may be resolved, never text that came as data. `asked_as` is the
    type that the definition wrote where another executes it (`polls.py`). `items` are those of a MAP: they are one
    obligation with it.
    """

    key: str
    type: str
    name: str
    input: Json
    completion_event: str
    failure_event: str
    run_at: datetime | None = None
    idempotency_key: str | None = None
    retry: dict[str, Json] | None = None
    timeout_ms: int | None = None
    heartbeat_ms: int | None = None
    start_within_ms: int | None = None
    finish_within_ms: int | None = None
    priority: int | None = None
    queue: str | None = None
    options: dict[str, Json] = field(default_factory=dict)
    invoke: str | None = None
    secrets: tuple[Where, ...] = ()
    due_at: datetime | None = None
    asked_as: str | None = None
    items: MapItems | None = None

    @property
    def asked_type(self) -> str:
        """The type that the definition wrote."""
        return self.asked_as or self.type


@record
class MapItems:
    """The items of a MAP in order, and when it ends.

    `tasks` has the task of each item under its own key, `children` the child of each where the items are workflows.
    `needed` of them must succeed, as `join` was written ("all", "any", {"quorum": n}). With `fail_fast` the MAP ends as soon
    as that is decided, else when all have ended. At most `concurrency` of them run at once, None for all.
    """

    tasks: tuple[CreateTask, ...]
    children: tuple[StartWorkflow, ...]
    join: Json
    needed: int
    fail_fast: bool
    concurrency: int | None


@record
class CancelTask:
    """The state of an `invoke` was left, or a `cancel` names the task: its result is not wanted any more.

    With `tells` the instance is told how the task ended, cancelled by this or already before it: its work may have to be undone.
    """

    key: str
    tells: bool = False


@record
class AssignTask:
    """The open task goes to somebody else: to `assignee`, or to whoever of `candidates` claims it."""

    key: str
    assignee: str | None
    candidates: Sequence[str] | None


@record
class ArmTimer:
    """Step the instance with `event` and obligation `key`, not before `due_at`."""

    key: str
    due_at: datetime
    event: Event


@record
class CancelTimer:
    key: str


@record
class SendEvent:
    """Send `event` to another instance: `{"instanceId"}`, `{"definitionKey", "businessKey"}` or `{"parent": True}`."""

    to: dict[str, Json]
    event: Event
    key: str


@record
class Emit:
    """Publish `event` to triggers and streams."""

    event: Event
    key: str


@record
class StartWorkflow:
    """Start a child instance with the id `instance_id`; with `wait` it stays an obligation until the child ends.

    The obligation is a child of the snapshot, or the WORKFLOW task of the same key. `version` None means the active one,
    `start_at` None at once, `priority` None that of the parent.
    """

    key: str
    definition_key: str
    version: int | None
    input: Json
    business_key: str | None
    wait: bool
    cancel_with_parent: bool
    completion_event: str
    failure_event: str
    instance_id: str
    start_at: datetime | None = None
    priority: int | None = None

    def later(self, *, start_at: datetime | None, priority: int | None) -> StartWorkflow:
        return replace(self, start_at=start_at, priority=priority)


@record
class CancelChild:
    """The child of an obligation is not wanted any more, and ends with it; with `tells` it says so when it has."""

    key: str
    tells: bool = False


LogLevel = Literal["debug", "info", "warning", "error"]
LOG_LEVELS: tuple[LogLevel, ...] = get_args(LogLevel)


@record
class Log:
    message: str
    level: LogLevel


Effect: TypeAlias = (
    CreateTask
    | CancelTask
    | AssignTask
    | ArmTimer
    | CancelTimer
    | SendEvent
    | Emit
    | StartWorkflow
    | CancelChild
    | Log
)
