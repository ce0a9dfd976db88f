"""The bodies of the HTTP API as the client hands them out: plain dictionaries with these members.

The field names are the contract of the API; an answer may carry more. Instants are RFC 3339 text in UTC.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

Json = Any
"""Any JSON value: the edge at which our types end and a user's data begin."""


class Problem(TypedDict):
    """One finding about a definition; `severity` is "error" or "warning"."""

    severity: str
    code: str
    path: str
    message: str
    suggestion: str | None


class DefinitionSummary(TypedDict):
    """A version of a definition, without its document."""

    id: str
    key: str
    version: int
    status: str
    checksum: str
    labels: dict[str, str]
    warnings: list[Problem]
    createdAt: str
    createdBy: str


class Definition(DefinitionSummary):
    document: dict[str, Json]


class DocumentChange(TypedDict):
    """One place at which two versions of a definition differ."""

    path: str
    kind: str
    before: Json
    after: Json


DefinitionDiff = TypedDict(
    "DefinitionDiff",
    {"key": str, "from": int, "to": int, "changes": list[DocumentChange], "truncated": bool},
)
"""What differs between two versions of a definition."""


class VersionFigures(TypedDict):
    """How the instances of a version, or of all of them, have fared."""

    total: int
    instances: dict[str, int]
    meanMs: int | None
    longestMs: int | None
    lastCreatedAt: str | None


class VersionStatistics(VersionFigures):
    version: int


class TaskStatistics(TypedDict):
    """How the tasks of one name and type have fared."""

    name: str
    type: str
    total: int
    succeeded: int
    failed: int
    open: int
    meanAttempts: float
    meanMs: int | None
    longestMs: int | None


class DefinitionStatistics(VersionFigures):
    key: str
    since: str
    versions: list[VersionStatistics]
    tasks: list[TaskStatistics]


class Failure(TypedDict):
    """Why an instance or a task failed."""

    code: str
    message: str
    data: Json


class Instance(TypedDict):
    id: str
    definitionKey: str
    definitionVersion: int
    definitionId: str
    status: str
    configuration: list[str]
    context: dict[str, Json] | None
    input: Json
    output: Json
    error: Failure | None
    businessKey: str | None
    labels: dict[str, str]
    priority: int
    sequence: int
    parentId: str | None
    depth: int
    createdAt: str
    startedAt: str | None
    finishedAt: str | None
    deadlineAt: str | None
    erasedAt: str | None
    concurrencyKey: str | None
    queued: bool


class Entry(TypedDict):
    """One entry of an instance's history; `sequence` is "12.3", `hash` and `previousHash` are those of its row."""

    sequence: str
    type: str
    at: str
    actor: str
    payload: dict[str, Json]
    hash: str
    previousHash: str


class Verdict(TypedDict):
    """What checking a history said: are the hashes a chain, and does replaying it give the stored snapshot."""

    valid: bool
    entries: int
    replayed: bool
    erased: int  # rows whose body was erased
    problems: list[Json]


class _Bounds(TypedDict, total=False):
    default: Json
    enum: list[Json]
    min: float
    max: float
    minLength: int
    maxLength: int
    minItems: int
    maxItems: int
    pattern: str


class Member(_Bounds):
    """A member of an input or output, flat; its bounds stand there where the schema has them."""

    name: str
    type: str
    description: str
    required: bool


class TypeExample(TypedDict):
    says: str
    task: dict[str, Json]


class Handler(TypedDict):
    """A task type; `runners` is None where none is needed."""

    type: str
    name: str | None
    title: str
    category: str
    description: str
    inputSchema: Json
    outputSchema: Json
    parameters: list[Member]
    outputs: list[Member]
    examples: list[TypeExample]
    light: bool
    isolated: bool
    retry: Json
    builtIn: bool
    runners: int | None
    publishedAt: str | None


class Poll(TypedDict):
    """How a POLL is asked again, and what it has counted; `type` is that of its inner task."""

    type: str
    until: str
    intervalMs: int
    timeoutMs: int | None
    maxAttempts: int | None
    polls: int
    lastPolledAt: str | None


class MapItems(TypedDict):
    total: int
    succeeded: int
    failed: int
    open: int


class WaitsFor(TypedDict):
    """Which circuit breaker a task waits for, since when."""

    taskId: str
    since: str
    breaker: Breaker | None
    reason: str


class Task(TypedDict):
    id: str
    instanceId: str
    type: str
    name: str
    status: str
    attempt: int
    maxAttempts: int
    runAt: str
    waitsFor: WaitsFor | None
    limitKey: str | None
    input: Json
    output: Json
    error: Failure | None
    progress: Json
    attempts: list[dict[str, Json]]
    title: Json
    description: Json
    form: Json
    candidates: list[str]
    fourEyes: bool
    assignee: str | None
    dueAt: str | None
    endedBy: str | None
    shownHash: str | None
    poll: Poll | None
    parentTaskId: str | None
    index: int | None
    items: MapItems | None


class SignedLink(TypedDict):
    """A link, which nothing but this answer shows."""

    url: str
    person: str
    expiresAt: str


class Incident(TypedDict):
    id: str
    instanceId: str
    taskId: str | None
    code: str
    message: str
    detail: Json
    sequence: int
    status: str
    openedAt: str
    resolvedAt: str | None
    resolvedBy: str | None
    resolution: str | None
    keyHolder: str | None
    waysOut: list[str]


class IncidentDetail(Incident):
    """An incident with the task that failed."""

    task: Task | None


class Config(TypedDict):
    id: str
    module: str
    key: str
    value: Json
    scope: str
    scopeId: str | None
    description: str
    updatedAt: str
    updatedBy: str


class Compensation(TypedDict):
    """What undoes one piece of work that has ended."""

    id: int
    undoes: str
    key: str
    type: str | None
    name: str | None
    input: Json
    order: int
    kind: str
    onFailure: str
    status: str
    error: dict[str, Json] | None
    registeredAt: str
    startedAt: str | None
    endedAt: str | None


class Compensations(TypedDict):
    """What an instance has done that can be undone, and how far that is."""

    ends: str | None
    reason: str | None
    code: str | None
    awaited: list[str]
    done: int
    skipped: int
    passedOver: int
    total: int
    items: list[Compensation]


class Result(TypedDict):
    """The newest task of one place in a definition."""

    key: str
    state: str
    taskId: str
    name: str
    type: str
    status: str
    input: Json
    output: Json
    error: dict[str, Json] | None
    attempts: int
    runs: int
    startedAt: str | None
    endedAt: str | None
    durationMs: int | None


class Metadata(TypedDict):
    key: str
    value: Json
    updatedAt: str
    updatedBy: str


class ScheduleRun(TypedDict):
    scheduledAt: str
    dueAt: str


class Schedule(TypedDict):
    """A schedule; `nextRuns` only where one is asked for by its id."""

    id: str
    name: str | None
    definitionKey: str
    source: str
    cron: str | None
    every: str | None
    at: str | None
    timezone: str
    overlap: str
    catchUp: str
    catchUpLimit: int
    jitter: int
    input: Json
    businessKey: str | None
    paused: bool
    status: str
    nextAt: str | None
    queued: list[str]
    lastScheduledAt: str | None
    lastFiredAt: str | None
    lastInstanceId: str | None
    lastError: dict[str, Json] | None
    fired: int
    skipped: int
    refused: int
    createdAt: str
    createdBy: str
    updatedAt: str
    updatedBy: str
    nextRuns: NotRequired[list[ScheduleRun]]


class Rate(TypedDict):
    count: int
    perMs: int
    burst: int


class Limit(TypedDict):
    """A limit of running tasks, and what it does at this instant."""

    key: str
    source: str
    maxRunning: int | None
    rate: Rate | None
    running: int
    waiting: int
    tokens: float | None
    createdAt: str
    updatedAt: str
    updatedBy: str


class Breaker(TypedDict):
    type: str
    target: str
    state: str
    forced: bool
    failures: int
    successes: int
    failuresInARow: int
    countedFrom: str
    openedAt: str | None
    retryAt: str | None
    probeTaskId: str | None
    lastError: str | None
    waiting: int
    updatedAt: str
    updatedBy: str


class Trigger(TypedDict):
    id: str
    name: str | None
    definitionKey: str
    source: str
    event: str
    condition: Json
    businessKey: str | None
    input: Json
    enabled: bool
    active: bool
    createdAt: str
    createdBy: str
    updatedAt: str
    updatedBy: str


class Reaction(TypedDict):
    """What one trigger or one instance made of a published event: started, held, delivered or refused."""

    kind: str
    instanceId: str | None
    triggerId: str | None
    definitionKey: str | None
    problem: dict[str, Json] | None


class Resolved(TypedDict):
    """A configuration value that holds, and where it comes from."""

    value: Json
    source: str


class Secret(TypedDict):
    """What is told of a secret: everything but its value."""

    name: str
    version: int
    createdAt: str
    updatedAt: str
    updatedBy: str
    readable: bool


class Suggestion(TypedDict):
    """An event that a model would have sent, and what a person said to it."""

    id: str
    instanceId: str
    taskId: str
    event: str
    payload: dict[str, Json]
    reason: str
    confidence: float | None
    status: str
    createdAt: str
    decidedAt: str | None
    decidedBy: str | None
    comment: str | None


class Refusal(TypedDict):
    """One of many that a command was not accepted for, and why."""

    id: str
    code: str
    detail: str


class BulkPage(TypedDict):
    """What became of a part of those that a filter finds; `accepted` are ids."""

    dryRun: bool
    accepted: list[str]
    refused: list[Refusal]
    nextCursor: str | None


class Page(TypedDict):
    """One page of a list; `nextCursor` asks for the one after it, None at the end."""

    items: list[Any]
    nextCursor: str | None
