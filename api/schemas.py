"""The bodies and answers of the API, as Pydantic models: requests are validated by them, answers documented.

Answers are built by shapes.py from stored text, without a detour over these models; a test holds every answer against
its model, so that the document stays true.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, RootModel, model_validator
from pydantic.alias_generators import to_camel

from common.clock import parse_instant
from common.commands.configs import MAX_DESCRIPTION
from common.commands.people import MAX_CODE, MAX_PERSON
from common.commands.schedules import CATCH_UP_LIMIT, MAX_CATCH_UP, MAX_NAME, MAX_SHOWN
from common.commands.secrets import MAX_VALUE_BYTES
from common.commands.send import MAX_NOTE, MAX_REASON
from common.commands.start import MAX_KEY, MAX_LABELS, PRIORITIES
from common.commands.suggestions import MAX_COMMENT
from common.db.tables import (
    AttemptOutcome,
    ConfigScope,
    DefinitionStatus,
    IncidentStatus,
    Source,
    SuggestionStatus,
)
from common.event_names import MAX_TYPE
from common.lifecycle import InstanceStatus, TaskStatus
from common.links import MAX_PERSON as MAX_LINK_PERSON
from common.schedule import LONGEST_TEXT, CatchUp, Overlap

Json = Any


class Body(BaseModel):
    """A request body: camelCase, unknown members refused, no type coerced into another."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, alias_generator=to_camel)


class Query(BaseModel):
    """Query parameters: text is read into the parameter's type, unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel)


class Shape(BaseModel):
    """A piece of an answer. More members may be added at any time."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, use_enum_values=True)


def _instant(value: Any) -> Any:
    return parse_instant(value) if isinstance(value, str) else value


def _label_name(name: str) -> str:
    if not 0 < len(name) <= 63 or ":" in name:
        raise ValueError(f'a label\'s name has 1 to 63 characters and no ":", found "{name[:80]}"')
    return name


def _label_pair(text: str) -> str:
    if ":" not in text:
        raise ValueError(f'a label filter is "name:value", found "{text[:80]}"')
    return text


Instant = Annotated[datetime, BeforeValidator(_instant)]
Key = Annotated[str, Field(min_length=1, max_length=MAX_KEY)]
Version = Annotated[int, Field(ge=1, le=2**31 - 1)]
LabelName = Annotated[str, AfterValidator(_label_name)]
LabelValue = Annotated[str, Field(max_length=MAX_KEY)]
Labels = Annotated[dict[LabelName, LabelValue], Field(max_length=MAX_LABELS)]
LabelPair = Annotated[str, AfterValidator(_label_pair)]

# -- requests -----------------------------------------------------------------------------------------------------


class ApplyBody(Body):
    """A definition to apply."""

    document: dict[str, Json] = Field(
        description="the definition, as /api/v1/schema/definition.json describes it"
    )
    activate: bool = Field(
        True, description="let it start new instances, in place of the version that does so now"
    )
    allow_unknown_types: bool = Field(
        False, description="accept task types that no runner has published yet, with a warning"
    )


class SecretBody(Body):
    """The value of a secret, which no answer ever tells."""

    value: str = Field(min_length=1, max_length=MAX_VALUE_BYTES, description="at most 65,536 bytes in UTF-8")


class EmptyBody(Body):
    """Nothing, or an empty object."""


class RestoreBody(Body):
    """How an old version comes back."""

    activate: bool = Field(True, description="let the restored version start new instances")


class CheckBody(Body):
    """A definition to check without applying it."""

    document: dict[str, Json]


class SimulateBody(Body):
    """A definition and the events to run through it, on a virtual clock; `{"advance_ms": N}` moves the clock."""

    document: dict[str, Json]
    events: list[Json] = Field(default_factory=list)
    config: dict[str, dict[str, Json]] = Field(
        default_factory=dict, description="what expressions read as config: {module: {key: value}}"
    )


class StartBody(Body):
    """What to start: a definition by its key (its active version, or the `version` named), or by its id."""

    definition_key: Key | None = None
    definition_id: str | None = Field(None, max_length=64)
    version: Version | None = None
    business_key: Key | None = Field(None, description="at most one live instance of a definition holds it")
    input: Json = None
    context: dict[str, Json] | None = Field(
        None, description="laid over the definition's context, member by member"
    )
    priority: int = Field(0, ge=PRIORITIES[0], le=PRIORITIES[-1], description="higher goes first")
    start_at: Instant | None = Field(None, description="not before this instant, RFC 3339 with an offset")
    labels: Labels = Field(default_factory=dict)
    on_conflict: Literal["return", "reject"] = Field(
        "return",
        description="where a live instance holds the business key: answer with that one, or refuse with 409",
    )


class BatchBody(Body):
    """Instances to start, each with a result of its own."""

    instances: list[Json] = Field(min_length=1, description="each as the body of POST /instances")


class EventBody(RootModel[Json]):
    """An event: `type` and any other members, which the definition reads as `event.member`."""

    model_config = ConfigDict(
        json_schema_extra={
            "type": "object",
            "properties": {"type": {"type": "string", "minLength": 1, "maxLength": MAX_TYPE}},
            "required": ["type"],
            "additionalProperties": True,
        }
    )


class ReasonBody(Body):
    """Why; it stands in the history."""

    reason: str | None = Field(None, max_length=MAX_REASON)


class RestartBody(ReasonBody):
    """Where an instance goes on."""

    state: str | None = Field(
        None, max_length=2_000, description="dotted path of the state to enter; without it, the initial one"
    )
    context: dict[str, Json] | None = Field(None, description="laid over the context, member by member")


class InstanceFilterBody(Body):
    """Which instances; at least one member must be there."""

    status: list[Annotated[InstanceStatus, Field(strict=False)]] = Field(
        default_factory=list, max_length=16, description="any of these"
    )
    definition_key: Key | None = None
    business_key: Key | None = None
    state: str | None = Field(None, max_length=2_000, description="active in this state, or in one below it")
    labels: Labels = Field(default_factory=dict, description="all of these")
    created_after: Instant | None = None
    created_before: Instant | None = None


class BulkBody(ReasonBody):
    """A command for every instance that a filter finds."""

    verb: Literal["pause", "resume", "retry", "cancel"]
    filter: InstanceFilterBody
    dry_run: bool = Field(False, description="only tell whom it would concern")
    limit: int = Field(200, ge=1, le=1_000, description="instances looked at in one call")
    cursor: str | None = Field(None, max_length=2_000, description="the `nextCursor` of the call before")


class ErasureFields(ReasonBody):
    """How to erase. The reason stays readable: it must not name the person."""

    cancel: bool = Field(False, description="cancel first what has not ended; without it, that is refused")
    children: bool = Field(True, description="erase the children too, and theirs")


class EraseBody(ErasureFields):
    """Erase one instance."""


class BulkEraseBody(ErasureFields):
    """Erase every instance that a filter finds."""

    filter: InstanceFilterBody
    dry_run: bool = Field(False, description="only tell whom it would concern")
    limit: int = Field(200, ge=1, le=1_000, description="instances looked at in one call")
    cursor: str | None = Field(None, max_length=2_000, description="the `nextCursor` of the call before")


class ResolveBody(ReasonBody):
    """Which way out of an incident."""

    way: Literal["retry", "skip"] = Field(
        description="retry: run the failed task again, or take the event again whose step failed; "
        "skip: answer the task with `output`, or leave the event out"
    )
    output: Json = None


class SuggestionBody(Body):
    """What to say to a suggestion."""

    comment: str | None = Field(None, max_length=MAX_COMMENT)


PersonName = Annotated[str, Field(min_length=1, max_length=MAX_PERSON)]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
LeaseToken = Annotated[str, Field(min_length=1, max_length=64)]


class ClaimBody(Body):
    """Whose work a task becomes."""

    assignee: PersonName | None = Field(None, description="without it, who asks")


class DelegateBody(Body):
    """Who takes a task over."""

    assignee: PersonName


class CompleteBody(Body):
    """How a task ends well."""

    output: Json = Field(None, description="what a HUMAN task's form accepts, or what the work came to")
    shown_hash: Hash | None = Field(
        None, description="`shownHash` of the task as it was shown; another one by now is refused"
    )
    lease_token: LeaseToken | None = Field(None, description="of a worker that has leased the task")


class RejectBody(Body):
    """Why a person does not do, or does not allow, what a task asks for."""

    reason: str = Field(min_length=1, max_length=MAX_REASON)
    output: Json = Field(None, description="goes along as the data of the error")
    shown_hash: Hash | None = Field(
        None, description="`shownHash` of the task as it was shown; another one by now is refused"
    )


class TaskLinkBody(Body):
    """A link that completes a task with `output`, or rejects it for the reason `reject`; one of the two."""

    person: Annotated[str, Field(min_length=1, max_length=MAX_LINK_PERSON)] = Field(
        description="who it is for: an address"
    )
    output: Json = None
    reject: str | None = Field(None, min_length=1, max_length=MAX_REASON)
    expires_in: int | Annotated[str, Field(max_length=50)] | None = Field(
        None, description="a duration, 7 days without it"
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> TaskLinkBody:
        if ("output" in self.model_fields_set) == (self.reject is not None):
            raise ValueError("expected either output or reject")
        return self


class EventLinkBody(Body):
    """A link that sends an event."""

    person: Annotated[str, Field(min_length=1, max_length=MAX_LINK_PERSON)] = Field(
        description="who it is for: an address"
    )
    event: dict[str, Json] = Field(description="the event, with its `type`")
    expires_in: int | Annotated[str, Field(max_length=50)] | None = Field(
        None, description="a duration, 7 days without it"
    )


class TaskErrorBody(Body):
    """An error as data."""

    code: str = Field(min_length=1, max_length=MAX_CODE)
    message: str = Field("", max_length=MAX_REASON)
    data: Json = None


class FailBody(Body):
    """How an attempt failed."""

    error: Annotated[str, Field(min_length=1, max_length=MAX_REASON)] | TaskErrorBody
    retryable: bool | None = Field(
        None,
        description="of a leased task: false, no further try; true, another one while there are any left",
    )
    lease_token: LeaseToken | None = Field(None, description="of a worker that has leased the task")


class IncidentFilterBody(Body):
    """Which open incidents; at least one member must be there."""

    code: str | None = Field(None, max_length=200)
    definition_key: Key | None = None


class BulkResolveBody(ResolveBody):
    """A way out for every open incident that a filter finds."""

    filter: IncidentFilterBody
    dry_run: bool = Field(False, description="only tell which it would concern")
    limit: int = Field(200, ge=1, le=1_000, description="incidents looked at in one call")
    cursor: str | None = Field(None, max_length=2_000, description="the `nextCursor` of the call before")


class NoteBody(Body):
    """A note for the history."""

    note: str = Field(min_length=1, max_length=MAX_NOTE)


class MetadataBody(Body):
    """A metadata value; with `expected` only in the place of that one."""

    value: Json
    expected: Json = Field(None, description="the value that is replaced; null: none, or null")


ConfigModule = Annotated[str, Field(min_length=1, max_length=100)]
ConfigKey = Annotated[str, Field(min_length=1, max_length=200)]


class ConfigValueBody(Body):
    """A value, and what it is for."""

    value: Json
    description: str | None = Field(None, max_length=MAX_DESCRIPTION)


class ConfigBody(ConfigValueBody):
    """A value in its scope. Never a secret: everybody who may read anything may read it."""

    module: ConfigModule
    key: ConfigKey
    scope: Annotated[ConfigScope, Field(strict=False)] = Field(
        ConfigScope.MODULE, description="where it holds; the narrowest that has one wins"
    )
    scope_id: Key | None = Field(
        None,
        description="of scope instance: the business key whose value it is, or the id of an instance without one",
    )


class ScheduleBody(Body):
    """When to start instances of a definition. Exactly one of `cron`, `every` and `at`."""

    definition_key: Key
    name: str | None = Field(None, min_length=1, max_length=MAX_NAME, description="for people and histories")
    cron: str | None = Field(
        None,
        max_length=LONGEST_TEXT,
        description="minute hour day month weekday, 6 fields with seconds first, or a word such as @daily",
    )
    every: str | int | None = Field(
        None, description="an interval from the schedule's creation on: 5m, 1h30m, PT1H, milliseconds"
    )
    at: str | None = Field(
        None, max_length=LONGEST_TEXT, description="one instant; without an offset, a time in the zone"
    )
    timezone: str = Field("UTC", max_length=LONGEST_TEXT, description="name of an IANA time zone")
    overlap: Annotated[Overlap, Field(strict=False)] = Field(
        Overlap.SKIP, description="what happens to a run while an instance that this schedule started lives"
    )
    catch_up: Annotated[CatchUp, Field(strict=False)] = Field(
        CatchUp.LAST, description="what happens to runs that nobody could start within a minute of their time"
    )
    catch_up_limit: int = Field(CATCH_UP_LIMIT, ge=1, le=MAX_CATCH_UP, description='of `"catchUp": "all"`')
    jitter: str | int = Field(0, description="runs are put off by up to this duration, at most a day")
    input: Json = Field(
        None, description="of each instance; may read ${scheduledAt}, ${firedAt}, ${scheduleId} and ${now}"
    )
    business_key: Key | None = Field(None, description="of each instance, as `input`")
    paused: bool = False


class TriggerBody(Body):
    """Which event starts an instance of a definition."""

    definition_key: Key
    event: str = Field(min_length=1, max_length=MAX_TYPE, description="an event's type, `foo.*` or `*`")
    name: str | None = Field(None, min_length=1, max_length=MAX_NAME, description="for people and histories")
    condition: Json = Field(
        None, description="a guard over `event`: an expression, or as definitions write it"
    )
    business_key: Key | None = Field(None, description="of each instance; may read ${event.…}")
    input: Json = Field(None, description="of each instance; may read ${event.…}; without it, the event")
    enabled: bool = True


class PublishBody(RootModel[Json]):
    """An event: `type` and any other members; `correlation` names instances that get it and is no part of it."""

    model_config = ConfigDict(
        json_schema_extra={
            "type": "object",
            "properties": {
                "type": {"type": "string", "minLength": 1, "maxLength": MAX_TYPE},
                "correlation": {
                    "type": ["object", "null"],
                    "properties": {
                        "definitionKey": {"type": "string"},
                        "businessKey": {"type": "string"},
                        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                    },
                    "additionalProperties": False,
                },
            },
            "required": ["type"],
            "additionalProperties": True,
        }
    )


class CorrelationBody(Body):
    """Which live instances get a published event: a business key, labels, or both."""

    definition_key: Key | None = None
    business_key: Key | None = None
    labels: Labels = Field(default_factory=dict)


class ResumeScheduleBody(Body):
    """How a paused schedule goes on."""

    catch_up: bool = Field(False, description="what came meanwhile was missed, and `catchUp` decides")


# -- query parameters ---------------------------------------------------------------------------------------------


class PageQuery(Query):
    limit: int = Field(50, ge=1, description="at most 200 unless the installation allows more")
    cursor: str | None = Field(None, description='"nextCursor" of the page before, with the same filters')


class InstanceQuery(PageQuery):
    status: list[InstanceStatus] = Field(default_factory=list, description="may be repeated: any of these")
    definition_key: str | None = None
    business_key: str | None = None
    state: str | None = Field(
        None, description="dotted path of a state that is active, itself or by one below it"
    )
    label: list[LabelPair] = Field(
        default_factory=list, max_length=16, description="name:value, all of these"
    )
    parent_id: str | None = Field(None, description="the children of this instance")
    created_after: Instant | None = None
    created_before: Instant | None = None


class ConfigQuery(PageQuery):
    module: str | None = None
    key: str | None = None
    scope: ConfigScope | None = None
    scope_id: str | None = None


class ResolveConfigQuery(Query):
    module: ConfigModule
    key: ConfigKey | None = None
    keys: str | None = Field(
        None,
        max_length=20_000,
        description="several keys, separated by commas, at most 100: answered as `results`",
    )
    scope_id: Key | None = Field(None, description="whose values of scope instance are asked for")
    definition_key: str | None = Field(
        None, max_length=1_000, description="the definition whose active version's defaults are asked last"
    )


class TaskQuery(PageQuery):
    status: list[TaskStatus] = Field(default_factory=list, description="may be repeated: any of these")
    type: str | None = None
    instance_id: str | None = None
    assignee: str | None = Field(None, max_length=MAX_PERSON, description="the work of this person")
    candidate: str | None = Field(None, max_length=MAX_PERSON, description="what this person may claim")
    overdue: bool = Field(False, description="only what has not ended and is past its due time")
    parent_task_id: str | None = Field(None, description="only the items of this MAP")


class InstanceTaskQuery(PageQuery):
    status: list[TaskStatus] = Field(default_factory=list, description="may be repeated: any of these")


class IncidentQuery(PageQuery):
    status: IncidentStatus | None = None
    instance_id: str | None = None
    code: str | None = None
    definition_key: str | None = None


class SuggestionQuery(PageQuery):
    status: SuggestionStatus | None = None
    instance_id: str | None = None


class ScheduleQuery(PageQuery):
    definition_key: str | None = None
    paused: bool | None = None


class TriggerQuery(PageQuery):
    definition_key: str | None = None
    event: str | None = None


class NextRunsQuery(Query):
    count: int = Field(10, ge=1, le=MAX_SHOWN)


class HandlersQuery(Query):
    category: str | None = Field(default=None, max_length=100)


class HandlerQuery(Query):
    name: str | None = Field(default=None, max_length=200, description="of a function of type SYSTEM")


class DiagramQuery(Query):
    format: Literal["mermaid", "svg"] = "mermaid"


# -- answers ------------------------------------------------------------------------------------------------------


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
    trace: str | None = Field(description="of the exception, cut to size; null in lists")
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
    run_at: Instant
    input: Json
    output: Json
    error: ErrorShape | None
    progress: Json
    idempotency_key: str | None
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
    ways_out: list[Literal["retry", "skip", "restart", "cancel"]] = Field(
        description="what can be done about it now: resolve it by retry or skip, restart or cancel its instance"
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


class Secret(Shape):
    """What may be told of a secret: everything but its value."""

    name: str
    version: int = Field(description="how often its value was set")
    created_at: datetime
    updated_at: datetime = Field(description="when its value was set last")
    updated_by: str


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


class Child(Shape):
    """A child that has not ended."""

    instance_id: str
    key: str | None = Field(description="what its parent waits for; null where nobody waits")
    definition_key: str
    business_key: str | None
    status: InstanceStatus
    incidents: list[Incident] = Field(description="those that are open")


class Explanation(Shape):
    """Why an instance stands where it stands, and what would move it."""

    instance_id: str
    status: InstanceStatus
    erased_at: Instant | None = Field(description="when its data was erased")
    chart: dict[str, Json] | None = Field(
        description="the statechart's own account; null until the start is consumed, and once its data was erased"
    )
    inbox: Waiting
    tasks: list[Task] = Field(description="the newest tasks that are open")
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
    database: Literal["up", "down"]
    schema_: Literal["up", "down", "outdated"] = Field(alias="schema")
    broker: Literal["up", "down", "off"] = Field(
        description="down is no reason not to be ready: work is found by looking"
    )
