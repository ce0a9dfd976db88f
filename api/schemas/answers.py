"""The answers of the API, as Pydantic models: what is documented.

Answers are built by shapes.py from stored text, without a detour over these models; a test holds every answer against
its model, so that the document stays true.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import ConfigDict, Field

from api.schemas.base import Instant, Json, Shape
from common.breaker import BreakerState
from common.db.tables import (
    AttemptOutcome,
    ConfigScope,
    DefinitionStatus,
    IncidentStatus,
    Source,
    SuggestionStatus,
)
from common.lifecycle import InstanceStatus, TaskStatus
from common.schedule import CatchUp, Overlap


class ProblemItem(Shape):
    """One finding: in a definition, or in a request."""

    severity: Literal["error", "warning"]
    code: str
    path: str
    message: str
    suggestion: str | None


class Problem(Shape):
    """A refusal, as RFC 9457 has it. `code` is stable; `detail` is for people."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    instance: str = Field(description="the path of the request")
    trace_id: str = Field(description="under which the log tells more")
    problems: list[ProblemItem] | None = None


class DefinitionSummary(Shape):
    """A version of a definition, without its document."""

    id: str
    key: str
    version: int
    status: DefinitionStatus
    checksum: str = Field(description="SHA-256 of the stored document's text, in hex")
    labels: dict[str, str]
    warnings: list[ProblemItem]
    created_at: Instant
    created_by: str


class Definition(DefinitionSummary):
    """A version of a definition."""

    document: dict[str, Json]


class CurrentDefinition(DefinitionSummary):
    """A definition's active version, or its newest where none is active."""

    newest_version: int


class DefinitionPage(Shape):
    items: list[CurrentDefinition]
    next_cursor: str | None


class VersionPage(Shape):
    items: list[DefinitionSummary]
    next_cursor: str | None


class DocumentChange(Shape):
    """One place at which two documents differ; `before` and `after` are null where there is nothing."""

    path: str = Field(description='as in problems: `states.a.on.GO[0].guard`; "" is the document itself')
    kind: Literal["added", "removed", "changed", "reordered"] = Field(
        description="`reordered`: the members of an object, whose names are told"
    )
    before: Json
    after: Json


class DefinitionDiff(Shape):
    """What differs between two versions of a definition."""

    key: str
    from_: int = Field(alias="from")
    to: int
    changes: list[DocumentChange] = Field(description="at most 1,000")
    truncated: bool = Field(description="whether there are more")


class VersionFigures(Shape):
    """How the instances of a version, or of all of them, have fared."""

    total: int
    instances: dict[str, int] = Field(description="how many stand in each status; those without are left out")
    mean_ms: int | None = Field(description="from start to end, of those that completed")
    longest_ms: int | None = Field(description="of those that completed")
    last_created_at: Instant | None


class VersionStatistics(VersionFigures):
    version: int


class TaskStatistics(Shape):
    """How the tasks of one name and type have fared."""

    name: str
    type: str
    total: int
    succeeded: int
    failed: int
    open: int
    mean_attempts: float
    mean_ms: int | None = Field(description="from creation to end, of those that succeeded; waits included")
    longest_ms: int | None


class DefinitionStatistics(VersionFigures):
    """How the instances of a definition have fared since an instant, in all, by version and by task."""

    key: str
    since: Instant
    versions: list[VersionStatistics] = Field(description="newest first")
    tasks: list[TaskStatistics] = Field(description="those that are most first, at most 200")


class CheckReport(Shape):
    problems: list[ProblemItem]


class SimulatedSnapshot(Shape):
    """Where the machine stands: initially, then after each event."""

    configuration: list[str]
    context: dict[str, Json]
    status: Literal["active", "done", "error"]
    error: dict[str, Json] | None = Field(
        None, description="why a step failed; what follows is not taken any more"
    )


class Simulation(Shape):
    snapshots: list[SimulatedSnapshot]


class ErrorShape(Shape):
    code: str
    message: str
    data: Json = None


class Instance(Shape):
    """A running or finished copy of a definition's version."""

    id: str
    definition_key: str
    definition_version: int
    definition_id: str
    status: InstanceStatus
    configuration: list[str] = Field(description="dotted paths of the active states")
    context: dict[str, Json]
    input: Json
    output: Json
    error: ErrorShape | None
    business_key: str | None
    labels: dict[str, str]
    priority: int
    sequence: int = Field(description="how many events it has consumed")
    parent_id: str | None = Field(description="the instance that started it")
    depth: int = Field(description="how many parents are above it")
    created_at: Instant
    started_at: Instant | None
    finished_at: Instant | None
    deadline_at: Instant | None
    erased_at: Instant | None = Field(description="when its data was erased; the structure stays")
    concurrency_key: str | None = Field(
        description="whom it shares the places of its definition's `concurrency` with; null without one"
    )
    queued: bool = Field(description="it waits for such a place; its start is taken when it has one")


class ScheduleRun(Shape):
    """A run to come."""

    scheduled_at: Instant = Field(description="the instant that it is for")
    due_at: Instant = Field(description="when it starts: the same, or later by its jitter")


class ScheduleError(Shape):
    """Why a run did not start."""

    code: str
    message: str
    at: Instant
    scheduled_at: Instant | None


class ScheduleSummary(Shape):
    """A schedule, and what it has done."""

    id: str
    name: str | None
    definition_key: str
    source: Source = Field(description="definition: it is written in the active version")
    cron: str | None
    every: str | None
    at: str | None
    timezone: str
    overlap: Overlap
    catch_up: CatchUp
    catch_up_limit: int
    jitter: int = Field(description="milliseconds")
    input: Json
    business_key: str | None
    paused: bool
    status: Literal["active", "paused", "inactive", "ended"] = Field(
        description="inactive: the version that it is written in is; ended: no run is to come"
    )
    next_at: Instant | None = Field(description="when its next run is due")
    queued: list[Instant] = Field(description="runs that wait until the one before has ended")
    last_scheduled_at: Instant | None
    last_fired_at: Instant | None
    last_instance_id: str | None
    last_error: ScheduleError | None = Field(description="of the newest run; null where it started")
    fired: int = Field(description="instances that it has started")
    skipped: int = Field(description="runs left out because one before still lived")
    refused: int = Field(description="runs that could not start")
    created_at: Instant
    created_by: str
    updated_at: Instant
    updated_by: str


class Schedule(ScheduleSummary):
    """A schedule, with the runs to come."""

    next_runs: list[ScheduleRun]


class SchedulePage(Shape):
    items: list[ScheduleSummary]
    next_cursor: str | None


class ScheduleRuns(Shape):
    items: list[ScheduleRun]


class Trigger(Shape):
    """A trigger."""

    id: str
    name: str | None
    definition_key: str
    source: Source = Field(description="definition: it is written in the active version")
    event: str
    condition: Json
    business_key: str | None
    input: Json
    enabled: bool
    active: bool = Field(description="false: the version that it is written in is not active")
    created_at: Instant
    created_by: str
    updated_at: Instant
    updated_by: str


class TriggerPage(Shape):
    items: list[Trigger]
    next_cursor: str | None


class Breaker(Shape):
    """A circuit breaker: whether tasks of a type call a target."""

    type: str = Field(description="of task: the name of its handler")
    target: str = Field(
        description="`scheme://host:port`, or the name that a handler gives; `*` for the whole type"
    )
    state: BreakerState
    forced: bool = Field(description="an operator's word, until it is reset")
    failures: int = Field(description="since `countedFrom`")
    successes: int = Field(description="since `countedFrom`, counted while there are failures")
    failures_in_a_row: int
    counted_from: Instant
    opened_at: Instant | None
    retry_at: Instant | None = Field(
        description="when one task may try again; null while none waits for that, and where an operator opened it"
    )
    probe_task_id: str | None = Field(description="the task that tries")
    last_error: str | None
    waiting: int = Field(description="tasks that wait for it")
    updated_at: Instant
    updated_by: str


class BreakerPage(Shape):
    items: list[Breaker]
    next_cursor: str | None


class WaitsForBreaker(Shape):
    """A task that waits for a circuit breaker."""

    task_id: str
    since: Instant
    breaker: Breaker | None = Field(description="null where it is gone: the task goes on by itself")
    reason: str = Field(description="the same in words")


class Reaction(Shape):
    """What one trigger or one instance made of a published event."""

    kind: Literal["started", "held", "delivered", "refused"] = Field(
        description="held: a live instance has the business key"
    )
    instance_id: str | None
    trigger_id: str | None
    definition_key: str | None
    problem: Problem | None


class Reactions(Shape):
    items: list[Reaction]
    next_cursor: str | None


class BatchItem(Shape):
    """Exactly one of the two."""

    instance: Instance | None = None
    problem: Problem | None = None


class BatchAnswer(Shape):
    items: list[BatchItem] = Field(description="in the order of the request")


class InstancePage(Shape):
    items: list[Instance]
    next_cursor: str | None


class HistoryEntry(Shape):
    """One thing that happened. `hash` chains its row to the one before."""

    sequence: str = Field(description='"row.entry": the number of the consumed event, and of the entry in it')
    type: str
    at: Instant
    actor: str
    payload: dict[str, Json]
    hash: str
    previous_hash: str


class HistoryPage(Shape):
    items: list[HistoryEntry]
    next_cursor: str | None


class Verification(Shape):
    valid: bool
    entries: int = Field(description="rows of the history")
    replayed: bool = Field(description="false where it could not be: a body was erased, or by another kernel")
    erased: int = Field(description="rows whose body was erased; the chain holds without them")
    problems: list[Json]


class Attempt(Shape):
    attempt: int
    worker_id: str
    started_at: Instant
    ended_at: Instant | None
    outcome: AttemptOutcome | None
    error: ErrorShape | None
    trace: str | None = Field(description="of the exception, cut to size; null in lists and explanations")
    progress: Json = Field(description="what the handler last reported in this attempt")


class Poll(Shape):
    """How a POLL is asked again, and what it has counted."""

    type: str = Field(description="of the inner task: who executes it")
    until: str = Field(description="the expression over output that ends it")
    interval_ms: int
    timeout_ms: int | None
    max_attempts: int | None = Field(description="checks")
    polls: int = Field(description="checks that have been made")
    last_polled_at: Instant | None


class MapItems(Shape):
    """How far a MAP is."""

    total: int
    succeeded: int
    failed: int
    open: int = Field(description="not ended; once the MAP has, not ended when that was decided")


class Task(Shape):
    """A piece of work, with every attempt at it; of a POLL with its newest."""

    id: str
    instance_id: str
    type: str
    name: str
    status: TaskStatus
    attempt: int
    max_attempts: int
    lost: int = Field(description="leases that ran out; they do not count against the attempts")
    held: bool = Field(description="set aside while the instance is paused or failed")
    priority: int
    run_at: Instant = Field(
        description="when it is due; while it waits for a circuit breaker, when it looks again by itself"
    )
    waits_for: WaitsForBreaker | None = Field(description="null where it waits for no circuit breaker")
    input: Json
    output: Json
    error: ErrorShape | None
    progress: Json
    idempotency_key: str | None
    limit_key: str | None = Field(description="the key of the limit that its definition asked for")
    attempts: list[Attempt]
    title: Json = Field(description="for people; a text in a HUMAN task")
    description: Json = Field(description="for people; a text in a HUMAN task")
    form: Json = Field(description="the JSON Schema that the output of a HUMAN task must satisfy")
    assignee: str | None = Field(description="whose work it is")
    candidates: list[str] = Field(description="who may claim it; empty: everybody")
    four_eyes: bool = Field(
        description="not decided by who started the instance, nor twice by the same person"
    )
    due_at: Instant | None = Field(description="nothing ends by it")
    ended_by: str | None = Field(description="the principal that completed or rejected it")
    shown_hash: str | None = Field(
        description="SHA-256 of the canonical JSON of {description, form, input, title}: what a person is shown"
    )
    created_at: Instant
    finished_at: Instant | None
    poll: Poll | None = Field(description="of a task of type POLL")
    parent_task_id: str | None = Field(description="of an item: the MAP that it belongs to")
    index: int | None = Field(description="of an item: its place in the list, from 0")
    items: MapItems | None = Field(description="of a MAP")


class SignedLink(Shape):
    """A link, to be handed to its person. It is as good as what it allows."""

    url: str
    person: str
    expires_at: Instant


class LinkAnswer(Shape):
    """A link as its person sees it."""

    state: Literal["open", "done", "used", "expired", "finished", "refused", "invalid"]
    message: str
    person: str | None = None
    action: str | None = Field(None, description="what following it does")
    title: str | None = None
    description: str | None = None
    input: Json = None
    value: Json = Field(None, description="the output, the reason or the event that it carries")
    expires_at: Instant | None = None


class TaskPage(Shape):
    items: list[Task]
    next_cursor: str | None


class Incident(Shape):
    """What stopped an instance."""

    id: str
    instance_id: str
    task_id: str | None
    code: str
    message: str
    detail: Json
    sequence: int = Field(description="of the history row that tells of it")
    status: IncidentStatus
    opened_at: Instant
    resolved_at: Instant | None
    resolved_by: str | None
    resolution: str | None = Field(description="the way out that was taken")
    key_holder: str | None = Field(
        description="of an open one: the live instance that holds the business key which its instance gave back when it "
        "failed. As long as it does, that one can only be cancelled"
    )
    ways_out: list[Literal["retry", "skip", "restart", "cancel"]] = Field(
        description="what can be done about it now: resolve it by retry or skip, restart or cancel its instance. "
        "What would be refused is not among them: under a business key that another holds, or without a place (`concurrency`)"
    )


class IncidentDetail(Incident):
    """An incident with the task that failed, every attempt at it included."""

    task: Task | None


class SuggestionShape(Shape):
    """An event that a model would have sent, and what a person said to it."""

    id: str
    instance_id: str
    task_id: str = Field(description="the AI task that made it")
    event: str
    payload: Json
    reason: str
    confidence: float | None = Field(description="the model's own word, from 0 to 1")
    status: SuggestionStatus
    created_at: Instant
    decided_at: Instant | None
    decided_by: str | None
    comment: str | None = Field(description="of who decided")


class SuggestionPage(Shape):
    items: list[SuggestionShape]
    next_cursor: str | None


class BulkRefusal(Shape):
    id: str
    code: str
    detail: str


class BulkAnswer(Shape):
    """What became of those that were looked at."""

    dry_run: bool
    accepted: list[str] = Field(description="ids; in a dry run, those that would be accepted")
    refused: list[BulkRefusal]
    next_cursor: str | None = Field(description="call again with it as `cursor` until it is null")


class Result(Shape):
    """What the work of one place in the definition has come to: the newest task of it."""

    key: str = Field(description="of the task: state, place, and how often this place has asked")
    state: str = Field(description="dotted path of the state that asked for it")
    task_id: str
    name: str
    type: str
    status: TaskStatus
    input: Json
    output: Json
    error: Json
    attempts: int = Field(description="that count")
    runs: int = Field(description="tasks that this place has asked for, this one included")
    started_at: Instant | None = Field(
        description="the first attempt, or the asking where no runner executes it"
    )
    ended_at: Instant | None
    duration_ms: int | None


class ResultPage(Shape):
    items: list[Result]
    next_cursor: str | None


class Metadata(Shape):
    """A metadata value of an instance."""

    key: str
    value: Json
    updated_at: Instant
    updated_by: str = Field(description="key:NAME of who set it, or task:ID of the task whose handler did")


class MetadataPage(Shape):
    items: list[Metadata]
    next_cursor: str | None


class Config(Shape):
    """A configuration value in its scope."""

    id: str
    module: str
    key: str
    value: Json
    scope: ConfigScope
    scope_id: str | None
    description: str
    updated_at: Instant
    updated_by: str


class ConfigPage(Shape):
    items: list[Config]
    next_cursor: str | None


class ResolvedValue(Shape):
    """The value that holds, and where it comes from; null from default where there is none."""

    value: Json
    source: Literal["instance", "module", "tenant", "default"]


class ResolvedConfig(Shape):
    """For one key `value` and `source`; for several `results`."""

    value: Json = None
    source: Literal["instance", "module", "tenant", "default"] | None = None
    results: dict[str, ResolvedValue] | None = None


class Rate(Shape):
    """How often a task may start."""

    count: int
    per_ms: int
    burst: int


class Limit(Shape):
    """A limit of running tasks, and what it does at this instant."""

    key: str = Field(description="type:TYPE, or key:TEXT as definitions name it")
    source: Source = Field(description="api: an operator's, which counts more than a definition's")
    max_running: int | None
    rate: Rate | None
    running: int = Field(description="tasks that hold a place")
    waiting: int = Field(description="tasks that are due and do not run, for whatever reason")
    tokens: float | None = Field(description="of a rate: how many tasks may start at once")
    created_at: Instant
    updated_at: Instant
    updated_by: str


class LimitPage(Shape):
    items: list[Limit]
    next_cursor: str | None


class LimitWait(Shape):
    """A limit that keeps a task from running."""

    key: str
    max_running: int | None
    running: int
    next_token_at: Instant | None = Field(description="when there is a token, where only that is missing")


class Secret(Shape):
    """What may be told of a secret: everything but its value."""

    name: str
    version: int = Field(description="how often its value was set")
    created_at: datetime
    updated_at: datetime = Field(description="when its value was set last")
    updated_by: str
    readable: bool = Field(
        description="false: sealed under a key that neither SIGNALBOX_SECRET nor SIGNALBOX_OLD_SECRETS of this API is that of, "
        "so that tasks which use it fail; set it again, or name the older secret and rotate"
    )


class SecretPage(Shape):
    items: list[Secret]
    next_cursor: str | None


class ErasureAnswer(Shape):
    """An accepted erasure. It shows nothing of the instance, and a repeat of the request gets it again."""

    instance_id: str
    status: Literal["accepted"] = Field(description="done once the instance shows `erasedAt`")


class IncidentPage(Shape):
    items: list[Incident]
    next_cursor: str | None


class Waiting(Shape):
    ready: int = Field(description="accepted and not consumed yet")
    parked: int = Field(description="set aside until the instance is resumed or retried")


class Places(Shape):
    """What an instance shares with others of its definition: `max` of a key run at once."""

    key: str = Field(description="empty where all instances of the definition share the places")
    max: int
    taken: int = Field(
        description="how many have a place; those that compensate after a failure may be beyond max"
    )
    queued: bool = Field(description="it waits for a place")
    ahead: int | None = Field(description="how many get a place before it; null where it does not wait")
    shut_out: bool = Field(
        description="it has failed and given its own back, and cannot go on before one of these has ended"
    )


class Child(Shape):
    """A child that has not ended."""

    instance_id: str
    key: str | None = Field(description="what its parent waits for; null where nobody waits")
    definition_key: str
    business_key: str | None
    status: InstanceStatus
    places: Places | None = Field(
        description="those of its definition's `concurrency`, while it waits for one; else null"
    )
    incidents: list[Incident] = Field(description="those that are open")


class Compensation(Shape):
    """What undoes one piece of work that has ended."""

    id: int
    undoes: str = Field(description="the name of the work")
    key: str = Field(description="of the task that did it")
    type: str | None = Field(
        description="of the task that undoes it; null where its values could not be evaluated"
    )
    name: str | None
    input: Json
    order: int = Field(description="higher ones come first, and of the same order what ended last")
    kind: Literal["rollback", "cleanup", "notification", "custom"]
    on_failure: Literal["incident", "continue"]
    status: Literal["registered", "running", "done", "failed", "skipped", "passed_over"]
    error: ErrorShape | None
    registered_at: Instant
    started_at: Instant | None
    ended_at: Instant | None


class Compensations(Shape):
    """What an instance has done that can be undone, and how far that is."""

    ends: Literal["failed", "cancelled", "timed_out"] | None = Field(
        description="as what it ends when all is undone; null as long as nothing is"
    )
    reason: str | None = Field(description="why, where somebody asked for it")
    code: str | None = Field(description="of the error that began it")
    awaited: list[str] = Field(description="work that was taken back and has not told yet how it ended")
    done: int = Field(description="how many are undone")
    skipped: int = Field(description="how many somebody has left out")
    passed_over: int = Field(description="how many have failed and stopped nobody")
    total: int
    items: list[Compensation] = Field(description="in the order of their undoing")


class Unattended(Shape):
    """What nobody works on: a duty that no worker has, or a type of task that no runner takes."""

    duty: Literal["orchestrator", "task-runner"]
    type: str | None = Field(description="of the task that waits; null where nobody has the duty")
    name: str | None = Field(description="of the function, for type SYSTEM")
    reason: str = Field(description="what is missing and what to do, in words")


class HeldKey(Shape):
    """The business key that a failed instance gave back, and that another holds now: until that has ended it cannot go on."""

    business_key: str
    instance_id: str = Field(description="of the one that holds it")
    reason: str = Field(description="why it cannot go on and what to do, in words")


class Locked(Shape):
    """A row that somebody else's session of PostgreSQL has locked: workers pass it by."""

    task_id: str | None = Field(description="of which task; null where it is the instance's own")
    pid: int = Field(description="the process of the session")
    application: str = Field(description="what the session calls itself; may be empty")
    reason: str = Field(description="the same in words, and what to do")


class Explanation(Shape):
    """Why an instance stands where it stands, and what would move it."""

    instance_id: str
    status: InstanceStatus
    erased_at: Instant | None = Field(description="when its data was erased")
    chart: dict[str, Json] | None = Field(
        description="the statechart's own account; null until the start is consumed, and once its data was erased"
    )
    compensation: Compensations | None = Field(description="null where nothing could be undone")
    inbox: Waiting
    held_key: HeldKey | None = Field(
        description="of a failed one: who holds its business key now; null where nobody else does"
    )
    locked: list[Locked] = Field(
        description="which of its rows sessions that are not Signalbox's have locked; on SQLite none"
    )
    places: Places | None = Field(
        description="the places of its definition's `concurrency`; null without one, and once it has ended"
    )
    tasks: list[Task] = Field(description="the newest tasks that are open")
    limits: dict[str, list[LimitWait]] = Field(
        description="by the id of a task that is due: the limits that have no room for it"
    )
    unattended: list[Unattended] = Field(
        description="what it waits for and no living worker does: steps, or types of its tasks"
    )
    breakers: list[WaitsForBreaker] = Field(description="which of its tasks wait for circuit breakers")
    children: list[Child] = Field(description="children that have not ended, the failed ones first")
    incidents: list[Incident] = Field(description="the newest incidents that are open")


class Member(Shape):
    """A member of an input or output, flat: for forms. Bounds stand there where the schema has them."""

    name: str
    type: str = Field(description='`string`, `object`, … , several with "or" between them, or `any`')
    description: str
    required: bool
    default: Json = Field(default=None, description="absent where there is none")
    enum: list[Json] | None = None
    min: float | None = None
    max: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    min_items: int | None = None
    max_items: int | None = None
    pattern: str | None = None


class TypeExample(Shape):
    """A task as a definition writes it, and what it does."""

    says: str
    task: dict[str, Json]


class Handler(Shape):
    """A task type: one of the engine's own, or one that task runners offer; `name` is the function's, where the type is SYSTEM."""

    type: str
    name: str | None
    title: str
    category: str = Field(description="`api-call`, `message`, `human`, `ai`, `flow`, `data`, `code`")
    description: str
    input_schema: Json
    output_schema: Json
    parameters: list[Member] = Field(description="the members of the input, from its schema")
    outputs: list[Member] = Field(description="the members of the output, from its schema")
    examples: list[TypeExample]
    light: bool
    isolated: bool
    retry: Json = Field(description="its own policy, for tasks that name none")
    built_in: bool = Field(description="it comes with Signalbox")
    runners: int | None = Field(description="task runners that live and offer it; null where none is needed")
    published_at: Instant | None


class HandlerPage(Shape):
    items: list[Handler]
    next_cursor: None


class InboxFigures(Shape):
    waiting: int
    oldest_seconds: float


class Worker(Shape):
    id: str
    duty: str
    host: str
    pid: int
    version: str
    types: list[str]
    slots: int
    started_at: Instant
    seen_at: Instant
    is_alive: bool = Field(description="seen in the last 15 s")


class Stats(Shape):
    instances: dict[str, int] = Field(description="how many, by status")
    tasks: dict[str, int] = Field(description="how many, by status")
    inbox: InboxFigures
    stalled: int = Field(description="instances without a reason to wake; always 0, or something is broken")
    workers: list[Worker]


class RetentionStatus(Shape):
    kept_days: dict[str, float | None] = Field(description="by final status; null: for ever")
    due: int = Field(description="finished instances whose time is over; 10,000 are counted at most")
    oldest_finished_at: Instant | None = Field(description="of those that are due")
    deleted: int = Field(description="tombstones: instances that were deleted so far")
    last_deleted_at: Instant | None


class Alive(Shape):
    status: Literal["alive"]


class Readiness(Shape):
    status: Literal["ready", "not ready"]
    database: Literal["up", "down", "read-only", "full"] = Field(
        description="full: a write was refused for want of room on its disk, and there is none yet; it is read all the same"
    )
    schema_: Literal["up", "down", "outdated", "incomplete"] = Field(
        alias="schema",
        description="incomplete: calls met tables that are not there, or not open to the API, as after a restore without rights: `signalbox db upgrade`",
    )
    broker: Literal["up", "down", "read-only", "off"] = Field(
        description="down, or a replica that takes no messages, is no reason not to be ready: work is found by looking"
    )
