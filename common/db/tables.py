"""Every table, once. Migrations are compared with this file on both databases (tests/migrations).

Rules that hold throughout: every row carries `tenant_id`; instants end in `_at`, UTC, from the database's clock; what
the kernel reads back or the chain hashes is text, the very bytes that were hashed; only `labels` is searched JSON.
CHECK, UNIQUE and foreign keys state what Python only believes.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from common.breaker import BreakerState
from common.clock import UtcDateTime
from common.db.types import (
    BigId,
    CanonicalText,
    Digest,
    Id,
    JsonList,
    Labels,
    TransactionId,
    current_transaction,
)
from common.lifecycle import ENDED, FINAL, LIVE, InstanceStatus, TaskStatus
from common.schedule import CatchUp, Overlap, ScheduleKind

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _one_of(column: str, values: Iterable[str]) -> str:
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


class DefinitionStatus(StrEnum):
    DRAFT = "draft"
    ACTIVE = "active"
    INACTIVE = "inactive"
    ARCHIVED = "archived"


class InboxType(StrEnum):
    """What an inbox row is; the event inside an `event` row names itself."""

    START = "start"
    EVENT = "event"  # from outside, or from another instance
    TASK = "task"  # an ended task, with the obligation that it answers
    TASK_LATE = "task.late"  # a result that came after its lease was lost: recorded, without effect
    TIMER = "timer"
    CHILD = "child"
    UNDELIVERED = "undelivered"  # a `send` of this instance that found nobody
    INCIDENT = "incident"  # the engine gives up on the instance
    NOTE = "note"
    RECORD = "record"  # an entry that the engine tells, without effect
    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry"
    RESTART = "restart"
    STEP = "step"  # take one parked row of a paused instance
    TIMEOUT = "timeout"  # the time of the whole instance is over
    ERASE = "erase"  # take the bodies away that an ended instance has left, and keep the structure


class TimerStatus(StrEnum):
    ARMED = "armed"
    FIRED = "fired"
    CANCELLED = "cancelled"


class ConfigScope(StrEnum):
    """Where a configuration value holds; the narrowest that has one wins."""

    TENANT = "tenant"
    MODULE = "module"
    INSTANCE = "instance"


class SuggestionStatus(StrEnum):
    OPEN = "open"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    EXPIRED = "expired"  # its instance ended first


class IncidentStatus(StrEnum):
    OPEN = "open"
    RESOLVED = "resolved"


class AttemptOutcome(StrEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RELEASED = "released"  # given back before it ended: a drain
    CONTINUED = "continued"  # ended well, and the work goes on in another one: a turn, a poll
    LOST = "lost"  # its lease expired
    CANCELLED = "cancelled"
    LATE = "late"  # ended after its lease was lost: recorded, not counted
    TIMED_OUT = "timed_out"


class Source(StrEnum):
    """Where a schedule or a trigger comes from."""

    API = "api"
    DEFINITION = "definition"  # written in the active version, and kept in step with it


class Role(StrEnum):
    VIEWER = "viewer"
    OPERATOR = "operator"
    AUTHOR = "author"
    WORKER = "worker"
    ADMIN = "admin"


# Busy rows are rewritten often: room on the page keeps the new version beside the old one (HOT).
_BUSY = {"fillfactor": "75"}
# A queue table is empty most of the time whatever passed through it: vacuum by count, not by share.
_QUEUE = {"autovacuum_vacuum_threshold": "2000", "autovacuum_vacuum_scale_factor": "0"}

tenants = Table(
    "tenants",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
)


def _tenant() -> Column[str]:
    return Column("tenant_id", Id, ForeignKey("tenants.id"), nullable=False)


def _same_tenant(column: str, table: str) -> ForeignKeyConstraint:
    """Point at a row of the same tenant: the database itself keeps tenants apart.

    It also takes the place of a foreign key to `tenants`, which would make every insert of a tenant lock that one row.
    """
    return ForeignKeyConstraint(["tenant_id", column], [f"{table}.tenant_id", f"{table}.id"])


api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Id, primary_key=True),
    _tenant(),
    Column("name", Text, nullable=False),
    Column("role", Text, CheckConstraint(_one_of("role", Role), name="role"), nullable=False),
    Column("prefix", Text, nullable=False, unique=True),
    Column("hash", Digest, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("tenant_id", Id, ForeignKey("tenants.id"), primary_key=True),
    Column("principal", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("digest", Digest, nullable=False),  # of the method, path and body
    Column("status", SmallInteger, nullable=False),
    Column("answer", CanonicalText, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("instance_id", Id),  # whose data the answer shows; null: nobody's, or that of several
    Index("ix_idempotency_expires_at", "expires_at"),
)

definitions = Table(
    "definitions",
    metadata,
    Column("id", Id, primary_key=True),
    _tenant(),
    Column("key", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column(
        "status", Text, CheckConstraint(_one_of("status", DefinitionStatus), name="status"), nullable=False
    ),
    Column("document", CanonicalText, nullable=False),
    Column("checksum", Text, nullable=False),  # SHA-256 of the document's text, hex
    Column("dialect", Text, nullable=False, server_default="signalbox"),
    Column("warnings", CanonicalText, nullable=False, server_default="[]"),
    Column("labels", Labels, nullable=False, server_default="{}"),
    Column("retention", CanonicalText),  # what the document says of it: milliseconds by status
    Column("created_by", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("tenant_id", "key", "version"),
    UniqueConstraint("tenant_id", "id"),
    Index(
        "uq_definitions_active",
        "tenant_id",
        "key",
        unique=True,
        postgresql_where=text("status = 'active'"),
        sqlite_where=text("status = 'active'"),
    ),
)

_LIVE = _one_of("status", LIVE)

instances = Table(
    "instances",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Id, nullable=False),
    Column("definition_id", Id, nullable=False),
    Column("definition_key", Text, nullable=False),
    Column("definition_version", Integer, nullable=False),
    Column("business_key", Text),
    Column("status", Text, CheckConstraint(_one_of("status", InstanceStatus), name="status"), nullable=False),
    Column("configuration", CanonicalText, nullable=False, server_default="[]"),
    Column("snapshot", CanonicalText),  # null until the start is consumed
    Column("input", CanonicalText, nullable=False, server_default="null"),
    Column("output", CanonicalText),
    Column("error", CanonicalText),
    Column("sequence", Integer, nullable=False, server_default="0"),
    Column("head_hash", Digest, nullable=False),
    Column("last_step_at", UtcDateTime),
    Column("strikes", SmallInteger, nullable=False, server_default="0"),
    Column("open_tasks", Integer, nullable=False, server_default="0"),
    Column("open_timers", Integer, nullable=False, server_default="0"),
    Column("open_children", Integer, nullable=False, server_default="0"),
    Column("accepts_events", Boolean, nullable=False, server_default=text("true")),
    Column("priority", SmallInteger, nullable=False, server_default="0"),
    Column("parent_id", Id),
    Column("parent_key", Text),  # the parent's obligation that it answers; null where nobody waits for it
    Column("cancel_with_parent", Boolean, nullable=False, server_default=text("true")),
    Column("depth", SmallInteger, nullable=False, server_default="0"),  # how many parents are above it
    Column("deadline_at", UtcDateTime),
    Column("labels", Labels, nullable=False, server_default="{}"),
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    Column("erased_at", UtcDateTime),  # when its bodies were taken away
    Column("schedule_id", Id),  # the schedule that started it, which may be gone
    Column("scheduled_at", UtcDateTime),  # the instant that it was started for; null where fired by hand
    Column("concurrency_key", Text),  # whom it shares the places of its definition's `concurrency` with
    Column(  # waits for such a place
        "queued",
        Boolean,
        CheckConstraint("NOT queued OR concurrency_key IS NOT NULL", name="queued"),
        nullable=False,
        server_default=text("false"),
    ),
    CheckConstraint(f"({_one_of('status', FINAL)}) = (finished_at IS NOT NULL)", name="finished"),
    Index(
        "ix_instances_finished",
        "definition_id",
        "status",
        "finished_at",
        "id",
        postgresql_where=text("finished_at IS NOT NULL"),
        sqlite_where=text("finished_at IS NOT NULL"),
    ),
    Index(
        "uq_instances_business_key",
        "tenant_id",
        "definition_key",
        "business_key",
        unique=True,
        postgresql_where=text(f"business_key IS NOT NULL AND {_LIVE}"),
        sqlite_where=text(f"business_key IS NOT NULL AND {_LIVE}"),
    ),
    UniqueConstraint("tenant_id", "id"),
    _same_tenant("definition_id", "definitions"),
    _same_tenant("parent_id", "instances"),
    Index(
        "uq_instances_parent_key",
        "parent_id",
        "parent_key",
        unique=True,
        postgresql_where=text("parent_id IS NOT NULL"),
        sqlite_where=text("parent_id IS NOT NULL"),
    ),
    CheckConstraint("depth >= 0", name="depth"),
    Index(  # an instant starts one instance, whatever happens
        "uq_instances_schedule",
        "schedule_id",
        "scheduled_at",
        unique=True,
        postgresql_where=text("schedule_id IS NOT NULL"),
        sqlite_where=text("schedule_id IS NOT NULL"),
    ),
    Index(  # who of a schedule's instances lives, however many have ended
        "ix_instances_scheduled",
        "schedule_id",
        postgresql_where=text(f"schedule_id IS NOT NULL AND {_LIVE}"),
        sqlite_where=text(f"schedule_id IS NOT NULL AND {_LIVE}"),
    ),
    Index(  # who has a place, and who waits for one, in the order of their coming
        "ix_instances_concurrency",
        "tenant_id",
        "definition_key",
        "concurrency_key",
        "queued",
        "id",
        postgresql_where=text(f"concurrency_key IS NOT NULL AND {_LIVE}"),
        sqlite_where=text(f"concurrency_key IS NOT NULL AND {_LIVE}"),
    ),
    Index(  # who waits for a place, in the order in which they get one
        "ix_instances_queued",
        "tenant_id",
        "definition_key",
        "concurrency_key",
        text("priority DESC"),
        "id",
        postgresql_where=text("queued AND status = 'pending'"),
        sqlite_where=text("queued AND status = 'pending'"),
    ),
    postgresql_with=_BUSY,
)

tombstones = Table(
    "tombstones",  # what is left of an instance whose time of keeping is over; never changed, never deleted
    metadata,
    Column("instance_id", Id, primary_key=True),
    _tenant(),
    Column("definition_key", Text, nullable=False),
    Column("definition_version", Integer, nullable=False),
    Column("status", Text, CheckConstraint(_one_of("status", FINAL), name="status"), nullable=False),
    Column("parent_id", Id),
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime, nullable=False),
    Column("erased_at", UtcDateTime),
    Column("sequence", Integer, nullable=False),
    Column(
        "head_hash", Digest, nullable=False
    ),  # whoever kept an export can prove that it was the whole of it
    Column("deleted_at", UtcDateTime, nullable=False),
    Column("reason", Text, nullable=False),
    Index("ix_tombstones_list", "tenant_id", "deleted_at"),
)

inbox = Table(
    "inbox",
    metadata,
    Column("id", BigId, Identity(always=True), primary_key=True),
    Column("tenant_id", Id, nullable=False),
    Column("instance_id", Id, nullable=False),
    Column("lane", SmallInteger, CheckConstraint("lane IN (0, 1)", name="lane"), nullable=False),
    Column("type", Text, CheckConstraint(_one_of("type", InboxType), name="type"), nullable=False),
    Column("body", CanonicalText, nullable=False),
    Column("source", Text, nullable=False),  # who is named as the actor in the history
    Column("accepted_at", UtcDateTime, nullable=False),
    Column("parked", Boolean, nullable=False, server_default=text("false")),
    _same_tenant("instance_id", "instances"),
    Index(  # by tenant, who are given turns
        "ix_inbox_ready",
        "tenant_id",
        "id",
        postgresql_where=text("NOT parked"),
        sqlite_where=text("NOT parked"),
    ),
    Index("ix_inbox_instance", "instance_id", "lane", "id"),
    postgresql_with=_QUEUE,
    sqlite_autoincrement=True,  # ids must not be reused: consumed rows are deleted, and order is the id's
)

history = Table(
    "history",
    metadata,
    Column("instance_id", Id, primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("tenant_id", Id, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("actor", Text, nullable=False),
    Column("input", CanonicalText),  # null once erased, as are changes and salt
    Column("changes", CanonicalText),
    Column("salt", Digest),
    Column("digest", Digest, nullable=False),
    Column("previous_hash", Digest, nullable=False),
    Column("hash", Digest, nullable=False),
    Column("tx", TransactionId, nullable=False, server_default=current_transaction()),
    _same_tenant("instance_id", "instances"),
    CheckConstraint("sequence > 0", name="sequence"),
    CheckConstraint("(input IS NULL) = (salt IS NULL) AND (changes IS NULL) = (salt IS NULL)", name="erased"),
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Id, nullable=False),
    Column("instance_id", Id, nullable=False),
    Column("key", Text, nullable=False),  # the obligation in the snapshot that this row answers
    Column("joined_keys", CanonicalText),  # further obligations that asked for the same idempotency key
    Column("type", Text, nullable=False),  # of the handler that executes it
    Column("asked_as", Text),  # the type that was asked for, where another executes it: POLL
    Column("name", Text, nullable=False),
    Column("status", Text, CheckConstraint(_one_of("status", TaskStatus), name="status"), nullable=False),
    Column("priority", SmallInteger, nullable=False, server_default="0"),
    Column("run_at", UtcDateTime, nullable=False),
    Column("held", Boolean, nullable=False, server_default=text("false")),
    Column("parent_task_id", Id),  # the MAP that it is an item of
    Column("item_index", Integer),
    Column(
        "gated",  # an item whose turn has not come: its MAP bounds how many run at once
        Boolean,
        CheckConstraint("NOT gated OR parent_task_id IS NOT NULL", name="gated"),
        nullable=False,
        server_default=text("false"),
    ),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("max_attempts", Integer, nullable=False),
    Column("lost", SmallInteger, nullable=False, server_default="0"),
    Column("retry", CanonicalText),  # the policy as asked for; null: the defaults of common/retry.py
    Column("timeout_ms", BigId),  # of one attempt
    Column("heartbeat_ms", BigId),  # the longest silence of a handler
    Column("start_within_ms", BigId),  # the longest wait for a worker, of each attempt
    Column("finish_within_ms", BigId),  # the longest time from its first `run_at` to its end
    Column("start_by_at", UtcDateTime),  # while pending: when that wait is over
    Column("finish_by_at", UtcDateTime),  # when that time is over
    Column("options", CanonicalText),
    Column("completion_event", Text, nullable=False),
    Column("failure_event", Text, nullable=False),
    Column("idempotency_key", Text),
    Column("limit_key", Text),  # the row of `limits` that its definition asked for
    Column("breaker", Text),  # while pending: the circuit breaker it waits for, "TYPE TARGET"
    Column("breaker_since", UtcDateTime),
    Column("lease_owner", Id),
    Column("lease_token", Id),
    Column("lease_expires_at", UtcDateTime),
    Column("assignee", Text),  # the person whose work it is
    Column("candidates", JsonList),  # the persons who may take it
    Column("due_at", UtcDateTime),  # for people: nothing ends by it
    Column("ended_by", Text),  # the principal that completed or rejected it
    Column("input", CanonicalText, nullable=False),
    Column(
        "secrets", CanonicalText
    ),  # the places in `input` where the definition itself names secrets and links
    Column("state", CanonicalText),  # what the next attempt goes on from; never shown
    Column("output", CanonicalText),
    Column("error", CanonicalText),
    Column("progress", CanonicalText),
    Column("created_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    UniqueConstraint("instance_id", "key"),
    CheckConstraint(f"({_one_of('status', ENDED)}) = (finished_at IS NOT NULL)", name="finished"),
    CheckConstraint("lease_token IS NULL OR status = 'running'", name="leased"),
    CheckConstraint(
        "(lease_token IS NULL) = (lease_expires_at IS NULL) AND (lease_token IS NULL) = (lease_owner IS NULL)",
        name="lease",
    ),
    Index(
        "uq_tasks_idempotency_key",
        "instance_id",
        "idempotency_key",
        unique=True,
        postgresql_where=text("idempotency_key IS NOT NULL"),
        sqlite_where=text("idempotency_key IS NOT NULL"),
    ),
    Index(
        "ix_tasks_due",  # by tenant, who are given turns
        "tenant_id",
        "type",
        text("coalesce(limit_key, '')"),  # those without one by themselves, however many wait for a limit
        text("priority DESC"),
        "run_at",
        "id",
        postgresql_where=text("status = 'pending' AND NOT held AND NOT gated"),
        sqlite_where=text("status = 'pending' AND NOT held AND NOT gated"),
    ),
    Index(
        "uq_tasks_item",
        "parent_task_id",
        "item_index",
        unique=True,
        postgresql_where=text("parent_task_id IS NOT NULL"),
        sqlite_where=text("parent_task_id IS NOT NULL"),
    ),
    Index(
        "ix_tasks_gated",
        "parent_task_id",
        "item_index",
        postgresql_where=text("gated"),
        sqlite_where=text("gated"),
    ),
    Index(
        "ix_tasks_people",
        "tenant_id",
        "id",
        postgresql_where=text("type = 'HUMAN' AND finished_at IS NULL"),
        sqlite_where=text("type = 'HUMAN' AND finished_at IS NULL"),
    ),
    Index(
        "ix_tasks_lease",
        "lease_expires_at",
        postgresql_where=text("status = 'running' AND lease_token IS NOT NULL"),
        sqlite_where=text("status = 'running' AND lease_token IS NOT NULL"),
    ),
    Index(
        "ix_tasks_start_by",
        "start_by_at",
        postgresql_where=text("status = 'pending' AND start_by_at IS NOT NULL"),
        sqlite_where=text("status = 'pending' AND start_by_at IS NOT NULL"),
    ),
    Index(
        "ix_tasks_finish_by",
        "finish_by_at",
        postgresql_where=text("finished_at IS NULL AND finish_by_at IS NOT NULL"),
        sqlite_where=text("finished_at IS NULL AND finish_by_at IS NOT NULL"),
    ),
    Index(  # how many of a type run; by another predicate than that of the leases, which would else be looked up here
        "ix_tasks_running",
        "tenant_id",
        "type",
        postgresql_where=text("lease_owner IS NOT NULL"),
        sqlite_where=text("lease_owner IS NOT NULL"),
    ),
    Index(  # who of a key runs, and who waits in which order
        "ix_tasks_limited",
        "tenant_id",
        "limit_key",
        "status",
        text("priority DESC"),
        "run_at",
        "id",
        postgresql_where=text("limit_key IS NOT NULL AND finished_at IS NULL"),
        sqlite_where=text("limit_key IS NOT NULL AND finished_at IS NULL"),
    ),
    Index(  # who waits for a circuit breaker
        "ix_tasks_breaker",
        "tenant_id",
        "breaker",
        "run_at",
        postgresql_where=text("breaker IS NOT NULL AND status = 'pending'"),
        sqlite_where=text("breaker IS NOT NULL AND status = 'pending'"),
    ),
    UniqueConstraint("tenant_id", "id"),
    _same_tenant("instance_id", "instances"),
    postgresql_with={**_BUSY, **_QUEUE},
)

attempts = Table(
    "attempts",
    metadata,
    Column("task_id", Id, primary_key=True),
    Column("token", Id, primary_key=True),
    Column("tenant_id", Id, nullable=False),
    Column("attempt", Integer, nullable=False),  # not unique: a lost or released attempt does not count
    Column("worker_id", Id, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("outcome", Text, CheckConstraint(_one_of("outcome", AttemptOutcome), name="outcome")),
    Column("error", CanonicalText),
    Column("progress", CanonicalText),
    Column("result_digest", Digest),  # of what a late handler brought, so that a repeat is recognised
    _same_tenant("task_id", "tasks"),
    CheckConstraint("(ended_at IS NULL) = (outcome IS NULL)", name="ended"),
    postgresql_with=_BUSY,
)

timers = Table(
    "timers",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Id, nullable=False),
    Column("instance_id", Id, nullable=False),
    Column("key", Text, nullable=False),
    Column("due_at", UtcDateTime, nullable=False),
    Column("status", Text, CheckConstraint(_one_of("status", TimerStatus), name="status"), nullable=False),
    Column("inbox_type", Text, nullable=False, server_default=InboxType.TIMER.value),
    Column("body", CanonicalText, nullable=False),  # of the inbox row that firing makes
    Column("created_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    UniqueConstraint("instance_id", "key"),
    _same_tenant("instance_id", "instances"),
    CheckConstraint("(status = 'armed') = (finished_at IS NULL)", name="finished"),
    Index(
        "ix_timers_due",
        "due_at",
        postgresql_where=text("status = 'armed'"),
        sqlite_where=text("status = 'armed'"),
    ),
)

joins = Table(
    "joins",
    metadata,
    Column("task_id", Id, primary_key=True),  # the MAP
    Column("tenant_id", Id, nullable=False),
    Column("instance_id", Id, nullable=False),
    Column("total", Integer, nullable=False),
    Column("needed", Integer, nullable=False),  # how many items must succeed
    Column("fail_fast", Boolean, nullable=False),
    Column("concurrency", Integer),
    Column("succeeded", Integer, nullable=False, server_default="0"),
    Column("failed", Integer, nullable=False, server_default="0"),
    Column("ended_at", UtcDateTime),
    CheckConstraint("total > 0 AND needed BETWEEN 1 AND total", name="needed"),
    CheckConstraint("succeeded >= 0 AND failed >= 0 AND succeeded + failed <= total", name="counts"),
    _same_tenant("task_id", "tasks"),
    _same_tenant("instance_id", "instances"),
    Index("ix_joins_instance_id", "instance_id"),
    postgresql_with=_BUSY,
)

limits = Table(
    "limits",  # what runs at once and how often something starts; locked in the order of the keys
    metadata,
    Column("tenant_id", Id, ForeignKey("tenants.id"), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("source", Text, CheckConstraint(_one_of("source", Source), name="source"), nullable=False),
    Column("max_running", Integer),
    Column("rate_count", Integer),  # starts in `rate_ms`; both or neither
    Column("rate_ms", BigId),
    Column("burst", Integer),  # the most tokens that the bucket holds
    Column("tokens", Double),
    Column("refilled_at", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("updated_by", Text, nullable=False),
    CheckConstraint("max_running IS NULL OR max_running >= 0", name="max_running"),
    CheckConstraint(
        "(rate_count IS NULL) = (rate_ms IS NULL) AND (rate_count IS NULL) = (burst IS NULL) "
        "AND (rate_count IS NULL) = (tokens IS NULL) AND (rate_count IS NULL) = (refilled_at IS NULL)",
        name="rate",
    ),
    CheckConstraint("rate_count > 0 AND rate_ms > 0 AND burst > 0", name="positive"),
    Index(  # the few that hold for a type, among as many keys as definitions think of
        "ix_limits_types",
        "tenant_id",
        "key",
        postgresql_where=text("substr(key, 1, 5) = 'type:'"),
        sqlite_where=text("substr(key, 1, 5) = 'type:'"),
    ),
    postgresql_with=_BUSY,
)

breakers = Table(
    "breakers",  # whether a type of task may call a target, as its last calls went
    metadata,
    Column("tenant_id", Id, ForeignKey("tenants.id"), primary_key=True),
    Column("type", Text, primary_key=True),
    Column("target", Text, primary_key=True),
    Column("state", Text, CheckConstraint(_one_of("state", BreakerState), name="state"), nullable=False),
    Column(
        "forced", Boolean, nullable=False, server_default=text("false")
    ),  # an operator's word, until reset
    Column("successes", Integer, nullable=False, server_default="0"),  # since `counted_from`
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("in_a_row", Integer, nullable=False, server_default="0"),  # failures without a success between
    Column("counted_from", UtcDateTime, nullable=False),
    Column("opened_at", UtcDateTime),
    Column("retry_at", UtcDateTime),  # when one call may try again
    Column("probe_task_id", Id),  # the task that tries, for as long as it runs under this token
    Column("probe_token", Id),
    Column("last_error", CanonicalText),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("updated_by", Text, nullable=False),
    CheckConstraint("successes >= 0 AND failures >= 0 AND in_a_row >= 0", name="counts"),
    CheckConstraint("(probe_token IS NULL) = (probe_task_id IS NULL)", name="probe"),
    Index(
        "ix_breakers_open",
        "retry_at",
        postgresql_where=text("state <> 'closed'"),
        sqlite_where=text("state <> 'closed'"),
    ),
    Index("ix_breakers_updated_at", "updated_at"),
    postgresql_with=_BUSY,
)

suggestions = Table(
    "suggestions",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Id, nullable=False),
    Column("instance_id", Id, nullable=False),
    Column("task_id", Id, nullable=False),  # the AI task that made it
    Column("event", Text, nullable=False),
    Column("payload", CanonicalText, nullable=False),
    Column("reason", Text, nullable=False),
    Column("confidence", CanonicalText),
    Column(
        "status", Text, CheckConstraint(_one_of("status", SuggestionStatus), name="status"), nullable=False
    ),
    Column("created_at", UtcDateTime, nullable=False),
    Column("decided_at", UtcDateTime),
    Column("decided_by", Text),
    Column("comment", Text),  # of who decided
    CheckConstraint("(status = 'open') = (decided_at IS NULL)", name="decided"),
    _same_tenant("instance_id", "instances"),
    _same_tenant("task_id", "tasks"),
    Index("ix_suggestions_list", "tenant_id", "id"),
    Index("ix_suggestions_instance_id", "instance_id"),
    Index("ix_suggestions_task_id", "task_id"),
)

used_links = Table(
    "used_links",
    metadata,
    Column("tenant_id", Id, primary_key=True),
    Column("digest", Digest, primary_key=True),  # SHA-256 of what makes the link one of its own
    Column("instance_id", Id, nullable=False),
    Column("person", Text, nullable=False),
    Column("used_at", UtcDateTime, nullable=False),
    _same_tenant("instance_id", "instances"),
    Index("ix_used_links_instance_id", "instance_id"),
)

instance_metadata = Table(
    "instance_metadata",
    metadata,
    Column("instance_id", Id, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("tenant_id", Id, nullable=False),
    Column("value", CanonicalText, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("updated_by", Text, nullable=False),
    _same_tenant("instance_id", "instances"),
)

configs = Table(
    "configs",
    metadata,
    Column("id", Id, primary_key=True),
    _tenant(),
    Column("scope", Text, CheckConstraint(_one_of("scope", ConfigScope), name="scope"), nullable=False),
    Column("scope_id", Text, nullable=False, server_default=""),  # of scope instance: whose value it is
    Column("module", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("value", CanonicalText, nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("updated_by", Text, nullable=False),
    UniqueConstraint("tenant_id", "module", "key", "scope", "scope_id"),
    CheckConstraint("(scope = 'instance') = (scope_id <> '')", name="scope_id"),
)

secrets = Table(
    "secrets",
    metadata,
    Column("tenant_id", Id, ForeignKey("tenants.id"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("version", Integer, nullable=False),  # how often its value was set
    Column("key_id", Text, nullable=False),  # which key it is sealed under
    Column("sealed", LargeBinary, nullable=False),  # nonce and AES-GCM ciphertext
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("updated_by", Text, nullable=False),
)

incidents = Table(
    "incidents",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Id, nullable=False),
    Column("instance_id", Id, nullable=False),
    Column("task_id", Id),
    Column("code", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("detail", CanonicalText, nullable=False, server_default="{}"),
    Column("sequence", Integer, nullable=False),  # of the history row that tells of it
    Column("status", Text, CheckConstraint(_one_of("status", IncidentStatus), name="status"), nullable=False),
    Column("opened_at", UtcDateTime, nullable=False),
    Column("resolved_at", UtcDateTime),
    Column("resolved_by", Text),
    Column("resolution", Text),  # the way out that was taken
    _same_tenant("instance_id", "instances"),
    _same_tenant("task_id", "tasks"),
    CheckConstraint("(status = 'open') = (resolved_at IS NULL)", name="resolved"),
    Index("ix_incidents_list", "tenant_id", "id"),
    Index("ix_incidents_instance_id", "instance_id"),
    Index(
        "ix_incidents_task_id",
        "task_id",
        postgresql_where=text("task_id IS NOT NULL"),
        sqlite_where=text("task_id IS NOT NULL"),
    ),
)

schedules = Table(
    "schedules",
    metadata,
    Column("id", Id, primary_key=True),
    _tenant(),
    Column("name", Text),
    Column("definition_key", Text, nullable=False),
    Column("source", Text, CheckConstraint(_one_of("source", Source), name="source"), nullable=False),
    Column("kind", Text, CheckConstraint(_one_of("kind", ScheduleKind), name="kind"), nullable=False),
    Column("expression", Text, nullable=False),  # of its kind: a cron text, a duration, an instant
    Column("timezone", Text, nullable=False),
    Column("anchor_at", UtcDateTime, nullable=False),  # where intervals begin
    Column("overlap", Text, CheckConstraint(_one_of("overlap", Overlap), name="overlap"), nullable=False),
    Column("catch_up", Text, CheckConstraint(_one_of("catch_up", CatchUp), name="catch_up"), nullable=False),
    Column("catch_up_limit", Integer, nullable=False),
    Column("jitter_ms", BigId, nullable=False),
    Column("input", CanonicalText),  # a template; null: what the engine knows of the run
    Column("business_key", Text),  # a template
    Column("paused", Boolean, nullable=False),
    Column("active", Boolean, nullable=False),  # false: the version that it is written in is not active
    Column("scheduled_at", UtcDateTime),  # the instant that it waits for
    Column("next_at", UtcDateTime),  # when that run is due, with its jitter; null: there is none
    Column("queued", CanonicalText, nullable=False, server_default="[]"),  # runs that wait for the one before
    Column("last_scheduled_at", UtcDateTime),
    Column("last_fired_at", UtcDateTime),
    Column("last_instance_id", Id),
    Column("last_error", CanonicalText),  # of the newest run; null where it started
    Column("fired", Integer, nullable=False, server_default="0"),
    Column("skipped", Integer, nullable=False, server_default="0"),
    Column("refused", Integer, nullable=False, server_default="0"),
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("updated_by", Text, nullable=False),
    CheckConstraint("(next_at IS NULL) = (scheduled_at IS NULL)", name="next"),
    CheckConstraint("active OR next_at IS NULL", name="active"),
    CheckConstraint("jitter_ms >= 0 AND catch_up_limit > 0", name="bounds"),
    Index(
        "ix_schedules_due",
        "next_at",
        postgresql_where=text("NOT paused AND next_at IS NOT NULL"),
        sqlite_where=text("NOT paused AND next_at IS NOT NULL"),
    ),
    Index(
        "ix_schedules_queued",
        "id",
        postgresql_where=text("NOT paused AND queued <> '[]'"),
        sqlite_where=text("NOT paused AND queued <> '[]'"),
    ),
    Index("ix_schedules_list", "tenant_id", "id"),
    Index(
        "uq_schedules_definition",
        "tenant_id",
        "definition_key",
        "name",
        unique=True,
        postgresql_where=text("source = 'definition'"),
        sqlite_where=text("source = 'definition'"),
    ),
)

triggers = Table(
    "triggers",
    metadata,
    Column("id", Id, primary_key=True),
    _tenant(),
    Column("name", Text),
    Column("definition_key", Text, nullable=False),
    Column("source", Text, CheckConstraint(_one_of("source", Source), name="source"), nullable=False),
    Column("event", Text, nullable=False),  # exact, `foo.*` or `*`
    Column("condition", CanonicalText),  # a guard
    Column("business_key", Text),  # a template
    Column("input", CanonicalText),  # a template; null: the event
    Column("definition_id", Id),  # the version that it is written in, which has the guards that it names
    Column("enabled", Boolean, nullable=False),
    Column("active", Boolean, nullable=False),  # false: the version that it is written in is not active
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("updated_by", Text, nullable=False),
    Index(
        "ix_triggers_event",
        "tenant_id",
        "event",
        postgresql_where=text("enabled AND active"),
        sqlite_where=text("enabled AND active"),
    ),
    Index("ix_triggers_list", "tenant_id", "id"),
    Index(
        "uq_triggers_definition",
        "tenant_id",
        "definition_key",
        "name",
        unique=True,
        postgresql_where=text("source = 'definition'"),
        sqlite_where=text("source = 'definition'"),
    ),
)

published = Table(  # events that an instance has emitted, for triggers that answer them
    "published",
    metadata,
    Column("id", BigId, Identity(always=True), primary_key=True),
    _tenant(),
    Column("trigger_id", Id, nullable=False),
    Column("emitter_id", Id, nullable=False),
    Column("depth", SmallInteger, nullable=False),  # of what it starts
    Column("event", CanonicalText, nullable=False),
    Column("published_at", UtcDateTime, nullable=False),
    postgresql_with=_QUEUE,
    sqlite_autoincrement=True,
)

handlers = Table(
    "handlers",
    metadata,
    Column("type", Text, primary_key=True),
    Column("name", Text, primary_key=True, server_default=""),  # the function, where the type is SYSTEM
    Column("description", Text, nullable=False, server_default=""),
    Column("light", Boolean, nullable=False, server_default=text("false")),
    Column("isolated", Boolean, nullable=False, server_default=text("false")),
    Column("input_schema", CanonicalText),
    Column("output_schema", CanonicalText),
    Column("retry", CanonicalText),  # the handler's own policy, the last in the order of precedence
    Column("published_at", UtcDateTime, nullable=False),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Id, primary_key=True),
    Column("duty", Text, nullable=False),  # orchestrator or task-runner
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", Text, nullable=False),
    Column("types", CanonicalText, nullable=False, server_default="[]"),
    Column("slots", Integer, nullable=False, server_default="0"),
    Column("started_at", UtcDateTime, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),  # it said good-bye, or was found dead
    Column("died_at", UtcDateTime),  # it was found dead: instances it may have held are stepped with care
    Index("ix_workers_seen_at", "seen_at"),
)
