"""The rows of an engine that has no database: what a batch of steps and the end of an attempt write to, and read.

Rows are those of `common.db.tables`, as far as a decision can see them. Ids are numbered from 1, so that every run of a test
has the same ones. Nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from common.canonical import dumps, read
from common.commands.contracts import NOTHING_SAID, Contract, contract_of
from common.db.tables import AttemptOutcome, InboxType
from common.decide_joins import Count
from common.ids import DefinitionId, InstanceId, TaskId, TenantId
from common.lifecycle import LIVE, OPEN, InstanceStatus, TaskStatus
from common.store.configs import Configured
from common.store.inbox import InboxRow
from common.store.instances import GENESIS, LockedInstance
from common.store.limits import NO_TYPES
from common.store.suggestions import Suggestion
from orchestrator.charts import CompiledChart

TENANT = TenantId("00000000-0000-7000-9000-000000000001")
_KINDS = ("instance", "task", "incident", "definition", "suggestion")


@dataclass(eq=False)
class Attempt:
    """One try of a task. It holds its lease as long as `outcome` is None."""

    number: int
    started_at: datetime
    ended_at: datetime | None = None
    outcome: AttemptOutcome | None = None
    error: dict[str, Any] | None = None
    has_told_late: bool = False


@dataclass(eq=False)
class Task:
    """A row of work; the members of `tasks` by their names, `joined_keys` read."""

    id: TaskId
    instance_id: InstanceId
    key: str
    type: str
    name: str
    status: TaskStatus
    priority: int
    run_at: datetime
    held: bool
    max_attempts: int
    retry: str | None
    timeout_ms: int | None
    heartbeat_ms: int | None
    start_within_ms: int | None
    finish_within_ms: int | None
    start_by_at: datetime | None
    finish_by_at: datetime | None
    options: str | None
    completion_event: str
    failure_event: str
    idempotency_key: str | None
    limit_key: str | None
    input: str
    finished_at: datetime | None
    joined_keys: list[str]
    asked_as: str | None
    parent_task_id: TaskId | None
    item_index: int | None
    gated: bool
    assignee: str | None
    candidates: list[str] | None
    due_at: datetime | None
    attempt: int = 0
    lost: int = 0
    output: str | None = None
    error: dict[str, Any] | None = None
    progress: str | None = None
    state: str | None = None
    ended_by: str | None = None
    went_on: int = 0
    """Attempts that count nothing any more, because the work went on after them."""
    attempts: list[Attempt] = field(default_factory=list)

    @classmethod
    def of(cls, row: Mapping[str, Any], id: str) -> Task:
        """A row as a batch of steps makes it, under another id."""
        members = {name: row[name] for name in _TASK_MEMBERS}
        joined = read(row["joined_keys"]) if row["joined_keys"] else []
        return cls(**members | {"id": id, "status": TaskStatus(row["status"]), "joined_keys": joined})

    @property
    def is_open(self) -> bool:
        return self.status in OPEN

    @property
    def is_claimable(self) -> bool:
        """May a runner claim it once its time has come?"""
        return self.status is TaskStatus.PENDING and not self.held and not self.gated

    @property
    def running_attempt(self) -> Attempt | None:
        """The attempt that holds the lease, where one does."""
        last = self.attempts[-1] if self.attempts else None
        return last if last is not None and last.outcome is None else None

    def obligations(self) -> list[str]:
        """The keys of all that it answers."""
        return [self.key, *self.joined_keys]

    @property
    def error_text(self) -> str | None:
        """Its error as it would be stored."""
        return None if self.error is None else dumps(self.error)

    def end_attempt(
        self, outcome: AttemptOutcome, now: datetime, error: dict[str, Any] | None = None
    ) -> None:
        """End the attempt that runs, where one does."""
        attempt = self.running_attempt
        if attempt is not None:
            attempt.outcome, attempt.ended_at, attempt.error = outcome, now, error


_TASK_MEMBERS = tuple(name for name in Task.__dataclass_fields__ if name not in (
    "attempt", "lost", "output", "error", "progress", "state", "ended_by", "went_on", "attempts",
))  # fmt: skip


@dataclass(eq=False)
class Join:
    """What a MAP counts, and how many of its items run at once."""

    count: Count
    concurrency: int | None
    is_over: bool = False


@dataclass(eq=False)
class Timer:
    """An armed timer; it is taken out when it fires or is cancelled."""

    instance_id: InstanceId
    key: str
    due_at: datetime
    inbox_type: InboxType
    body: str


@dataclass(eq=False)
class Incident:
    """Why an instance stopped."""

    id: str
    instance_id: InstanceId
    task_id: str | None
    code: str
    message: str
    detail: dict[str, Any]
    sequence: int
    is_open: bool
    resolution: str | None


@dataclass(eq=False)
class Instance:
    """An instance: the row that is stepped, and what a step does not read."""

    held: LockedInstance
    input: str
    cancel_with_parent: bool = True
    configuration: list[str] = field(default_factory=list)
    output: Any = None
    accepts_events: bool = False

    @property
    def id(self) -> InstanceId:
        return self.held.id


@dataclass
class Memory:
    """Everything that is stored, and the time."""

    now: datetime
    definitions: dict[DefinitionId, CompiledChart] = field(default_factory=dict)
    instances: dict[InstanceId, Instance] = field(default_factory=dict)
    inbox: list[InboxRow] = field(default_factory=list)
    parked: set[int] = field(default_factory=set)
    tasks: dict[TaskId, Task] = field(default_factory=dict)
    joins: dict[TaskId, Join] = field(default_factory=dict)
    item_ends: list[Task] = field(default_factory=list)  # items that have ended and are not counted yet
    timers: list[Timer] = field(default_factory=list)
    incidents: list[Incident] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    suggestions: list[Suggestion] = field(default_factory=list)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    configs: list[Configured] = field(default_factory=list)
    _accepted: int = 0
    _numbers: dict[str, int] = field(default_factory=dict)

    def contract(self, definition_id: DefinitionId) -> Contract:
        """What a definition says of its input and its events."""
        chart = self.definitions[definition_id].chart
        return NOTHING_SAID if chart is None else contract_of(chart.document)

    def number(self, kind: str) -> str:
        """The next id of a kind: a UUID that says which kind it is of and how many came before."""
        made = self._numbers[kind] = self._numbers.get(kind, 0) + 1
        return f"00000000-0000-7000-8{_KINDS.index(kind):03}-{made:012}"

    # -- inbox ------------------------------------------------------------------------------------------------------

    def put(self, row: Mapping[str, Any]) -> None:
        """Accept a row {instance_id, lane, type, body, source}."""
        self._accepted += 1
        accepted = InboxRow(
            self._accepted, row["instance_id"], row["lane"], InboxType(row["type"]), row["body"], row["source"],
            self.now,
        )  # fmt: skip
        self.inbox.append(accepted)

    def ready(self) -> Iterator[InboxRow]:
        """Rows that may be stepped, oldest first."""
        return (row for row in self.inbox if row.id not in self.parked)

    def rows_of(self, instance_id: str, *, parked: bool) -> list[InboxRow]:
        """An instance's rows in the order in which they are taken."""
        rows = [row for row in self.inbox if row.instance_id == instance_id]
        return sorted(
            (row for row in rows if (row.id in self.parked) is parked), key=lambda row: (row.lane, row.id)
        )

    def consume(self, ids: list[int]) -> None:
        gone = set(ids)
        self.inbox = [row for row in self.inbox if row.id not in gone]
        self.parked -= gone

    # -- instances --------------------------------------------------------------------------------------------------

    def insert_pending(
        self,
        *,
        id: str,
        definition_id: DefinitionId,
        definition_key: str,
        definition_version: int,
        **row: Any,
    ) -> Instance | None:
        """Insert a new instance; None where a live one holds its business key."""
        business_key = row.get("business_key")
        if business_key is not None and self.find_live(definition_key, business_key):
            return None
        held = LockedInstance(
            id=InstanceId(id), tenant_id=TENANT, definition_id=definition_id, definition_key=definition_key,
            definition_version=definition_version, business_key=business_key, status=InstanceStatus.PENDING,
            snapshot=None, error=None, sequence=0, head_hash=GENESIS, last_step_at=None, strikes=0,
            priority=row.get("priority", 0), parent_id=row.get("parent_id"), parent_key=row.get("parent_key"),
            depth=row.get("depth", 0), created_at=self.now, deadline_at=None, started_at=None, finished_at=None,
            concurrency_key=None, is_queued=False, now=self.now, limited_types=NO_TYPES,
        )  # fmt: skip
        instance = Instance(held, row["input"], row.get("cancel_with_parent", True))
        self.instances[instance.id] = instance
        return instance

    def find_live(self, definition_key: str, business_key: str) -> InstanceId | None:
        """The live instance that holds a business key, if one does."""
        for instance in self.instances.values():
            held = instance.held
            if (held.definition_key, held.business_key) == (
                definition_key,
                business_key,
            ) and held.status in LIVE:
                return held.id
        return None

    # -- tasks ------------------------------------------------------------------------------------------------------

    def open_tasks(self, instance_ids: set[str] | None = None) -> list[Task]:
        """Open tasks, of some instances or of all, in the order of their making."""
        return [
            task
            for task in self.tasks.values()
            if task.is_open and (instance_ids is None or task.instance_id in instance_ids)
        ]

    def items_of(self, map_id: TaskId) -> list[Task]:
        """The items of a MAP, by index."""
        found = [task for task in self.tasks.values() if task.parent_task_id == map_id]
        return sorted(found, key=lambda task: task.item_index or 0)

    def open_incidents(self, instance_id: str) -> list[Incident]:
        return [one for one in self.incidents if one.instance_id == instance_id and one.is_open]
