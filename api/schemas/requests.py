"""The bodies of requests, as Pydantic models: requests are validated by them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, RootModel, model_validator

from api.schemas.base import Body, Instant, Json, Key, Labels, Version
from common.commands.configs import MAX_DESCRIPTION
from common.commands.limits import MAX_FIGURE
from common.commands.people import MAX_CODE, MAX_PERSON
from common.commands.schedules import CATCH_UP_LIMIT, MAX_CATCH_UP, MAX_NAME
from common.commands.secrets import MAX_VALUE_BYTES
from common.commands.send import MAX_NOTE, MAX_REASON
from common.commands.start import PRIORITIES
from common.commands.suggestions import MAX_COMMENT
from common.db.tables import ConfigScope
from common.event_names import MAX_TYPE
from common.lifecycle import InstanceStatus
from common.links import MAX_PERSON as MAX_LINK_PERSON
from common.schedule import LONGEST_TEXT, CatchUp, Overlap


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


class RateBody(Body):
    """How often a task may start."""

    count: int = Field(ge=1, le=MAX_FIGURE, description="so many tasks start")
    per: int | Annotated[str, Field(max_length=40)] = Field(
        description='in this time: a duration, such as "1s" or milliseconds'
    )
    burst: int | None = Field(
        None,
        ge=1,
        le=MAX_FIGURE,
        description="the most that start at once; as many as `count` where it is null",
    )


class LimitBody(Body):
    """What a limit allows: at least one of the two."""

    max_running: int | None = Field(None, ge=0, le=MAX_FIGURE, description="tasks that run at once; 0: none")
    rate: RateBody | None = None


class EmptyBody(Body):
    """Nothing, or an empty object."""


class BreakerBody(Body):
    """Which circuit breaker."""

    type: str = Field(min_length=1, max_length=200, description="of task: the name of its handler")
    target: str = Field(
        min_length=1,
        max_length=8_000,
        description="as the list shows it; of a URL only scheme, host and port count",
    )


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
    input: Json = Field(default=None, description="what it is started with")


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


class CancelBody(ReasonBody):
    """How to end an instance."""

    compensate: bool = Field(
        True, description="false: nothing is undone, and what is being undone ends in the middle"
    )


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

    verb: Literal["pause", "resume", "retry", "cancel", "compensate"]
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
