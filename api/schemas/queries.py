"""Query parameters, as Pydantic models."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from api.schemas.base import Instant, Key, LabelPair, Query, Version
from api.schemas.requests import ConfigKey, ConfigModule
from common.breaker import BreakerState
from common.commands.people import MAX_PERSON
from common.commands.schedules import MAX_SHOWN
from common.db.tables import ConfigScope, IncidentStatus, SuggestionStatus
from common.lifecycle import InstanceStatus, TaskStatus


class PageQuery(Query):
    limit: int = Field(50, ge=1, description="at most 200 unless the installation allows more")
    cursor: str | None = Field(None, description='"nextCursor" of the page before, with the same filters')


class DefinitionListQuery(PageQuery):
    search: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="only keys with this text in them, in upper or lower case",
    )


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
    queued: bool | None = Field(None, description="whether it waits for a place (`concurrency`)")
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


class HistoryQuery(PageQuery):
    since: int = Field(1, ge=1, le=2**53, description="the row to begin with: 12 of `12.1`")


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


class BreakerQuery(PageQuery):
    state: BreakerState | None = None
    type: str | None = Field(None, max_length=200, description="of task")


class NextRunsQuery(Query):
    count: int = Field(10, ge=1, le=MAX_SHOWN)


class HandlersQuery(Query):
    category: str | None = Field(default=None, max_length=100)


class HandlerQuery(Query):
    name: str | None = Field(default=None, max_length=200, description="of a function of type SYSTEM")


class DiffQuery(Query):
    from_: Version | None = Field(
        None, alias="from", description="the older version; else the one before the newer"
    )
    to: Version | None = Field(None, description="the newer version; else the active one, or the newest")


class StatisticsQuery(Query):
    since: Instant | None = Field(
        None, description="instances that were created from then on; else 30 days ago"
    )


class DiagramQuery(Query):
    format: Literal["mermaid", "svg"] = "mermaid"
