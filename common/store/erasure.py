"""Taking bodies away: what came from outside leaves the rows of ended instances; ids, types, statuses and times stay.

Two statements of history exist that change it, and both are the database's own exception to "append-only": a body goes
with its salt (here), and all rows of an instance go once its tombstone stands (retention.py). The digest and the hashes
stay, so the chain verifies, and without the salt nobody can guess the body from its digest.

The caller is the step that consumes the erasure: it holds the instances, and has ended them in a step before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import (
    Connection,
    Delete,
    Text,
    Update,
    and_,
    bindparam,
    cast,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)

from common.canonical import dumps
from common.db.tables import (
    InboxType,
    attempts,
    configs,
    definitions,
    history,
    idempotency,
    inbox,
    incidents,
    instance_metadata,
    instances,
    suggestions,
    tasks,
    timers,
    used_links,
)
from common.db.types import UtcDateTime, among
from common.ids import InstanceId, TenantId
from common.lifecycle import FINAL, InstanceStatus
from common.store.configs import DELETE_OF_INSTANCES

TABLES_WITH_BODIES = tuple(
    table.name
    for table in (
        instances, inbox, history, tasks, attempts, timers, incidents, suggestions, used_links, instance_metadata, configs,
        idempotency,
    )
)  # fmt: skip

ERASED = "erased"
"""What stands where a text may not be null."""

_i, _t = instances.c, tasks.c

_HISTORY = (
    update(history)
    .where(
        history.c.instance_id == bindparam("id"),
        history.c.sequence < bindparam("before"),
        history.c.salt.is_not(None),
    )
    .values(input=None, changes=None, salt=None)
)


def erase_history(tx: Connection, instance_id: str, *, before: int) -> None:
    """Take the bodies of the history rows away that come before the one that tells of it."""
    tx.execute(_HISTORY, {"id": instance_id, "before": before})


_TASKS_OF = select(_t.id).where(among(_t.instance_id, "ids"))
# A name may be made from data (`"name": "call ${input.phone}"`): it stays where the definition itself says it.
_IS_WRITTEN = exists().where(
    definitions.c.id == _i.definition_id,
    _i.id == _t.instance_id,
    func.replace(definitions.c.document, literal('"').concat(_t.name).concat('"'), "")
    != definitions.c.document,
)
_BODIES: tuple[Update | Delete, ...] = (
    update(tasks).where(among(_t.instance_id, "ids"), ~_IS_WRITTEN).values(name=_t.type),
    update(tasks)
    .where(among(_t.instance_id, "ids"))
    .values(
        input="null",
        secrets=None,
        state=None,
        output=None,
        error=None,
        progress=None,
        options=None,
        retry=None,
        completion_event=ERASED,
        failure_event=ERASED,
        idempotency_key=None,
        limit_key=None,
        assignee=None,
        candidates=None,
        ended_by=None,
    ),
    update(attempts)
    .where(attempts.c.task_id.in_(_TASKS_OF))
    .values(error=None, progress=None, result_digest=None),
    update(timers).where(among(timers.c.instance_id, "ids")).values(body="{}"),
    update(incidents).where(among(incidents.c.instance_id, "ids")).values(message=ERASED, detail="{}"),
    update(suggestions)
    .where(among(suggestions.c.instance_id, "ids"))
    .values(payload="null", reason=ERASED, confidence=None, comment=None),
    update(used_links).where(among(used_links.c.instance_id, "ids")).values(person=ERASED),
    delete(instance_metadata).where(among(instance_metadata.c.instance_id, "ids")),
    DELETE_OF_INSTANCES,
    update(instances)
    .where(among(_i.id, "ids"))
    .values(
        input="null",
        output=None,
        error=None,
        business_key=None,
        labels={},
        concurrency_key=None,
        queued=False,
        erased_at=bindparam("now", type_=UtcDateTime()),
    ),
)


def erase_bodies(tx: Connection, ids: Sequence[str], *, now: datetime) -> None:
    """Take away everything but history that these instances hold: at the end of the step, when all of it is written.

    The snapshot is not touched: the step has written a bare one.
    """
    for statement in _BODIES:
        tx.execute(
            statement, {"ids": list(ids), "now": now} if statement is _BODIES[-1] else {"ids": list(ids)}
        )
    _erase_answers(tx, ids)


# -- answers kept for idempotency keys ------------------------------------------------------------------------------

_GONE = dumps(
    {
        "body": {
            "code": "answer.erased",
            "detail": "this request was answered before; the answer was erased with the data of its instance",
            "status": 410,
            "title": "The answer was erased",
            "type": "/docs/problems#answer.erased",
        },
        "headers": {},
    }
)


def _answers(dialect: str) -> Update:
    """Answers about one instance name it in their column; those about several are looked through, of its tenant only."""
    find = func.strpos if dialect == "postgresql" else func.instr
    shows = exists().where(
        among(_i.id, "ids"),
        _i.tenant_id == idempotency.c.tenant_id,
        or_(
            _i.id == idempotency.c.instance_id,
            and_(idempotency.c.instance_id.is_(None), find(idempotency.c.answer, cast(_i.id, Text)) > 0),
        ),
    )
    return (
        update(idempotency)
        .where(shows, idempotency.c.status > 0)
        .values(status=410, answer=_GONE, instance_id=None)
    )


_ANSWERS = {name: _answers(name) for name in ("postgresql", "sqlite")}


def _erase_answers(tx: Connection, ids: Sequence[str]) -> None:
    """Replace what was answered about these instances; the keys stay, so that no repeat starts anything anew."""
    tx.execute(_ANSWERS[tx.dialect.name], {"ids": list(ids)})


# -- families -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Relative:
    """A child of an instance that is erased."""

    id: InstanceId
    tenant_id: TenantId
    parent_id: InstanceId
    status: InstanceStatus


_waits = exists().where(inbox.c.instance_id == _i.id, inbox.c.type == InboxType.ERASE.value)
_CHILDREN = (
    select(_i.id, _i.tenant_id, _i.parent_id, _i.status)
    .where(among(_i.parent_id, "ids"), ~_waits)
    .order_by(_i.id)
)


def read_children(tx: Connection, ids: Sequence[str]) -> list[Relative]:
    """The children of these instances that are not being erased already."""
    return [
        Relative(row[0], row[1], row[2], InstanceStatus(row[3]))
        for row in tx.execute(_CHILDREN, {"ids": list(ids)})
    ]


def find_unfinished(tx: Connection, tenant_id: TenantId, instance_id: str, *, limit: int) -> list[Relative]:
    """Descendants of an instance that have not ended, in the order of their ids, at most `limit`."""
    family = (
        select(_i.id).where(_i.tenant_id == tenant_id, _i.id == instance_id).cte("family", recursive=True)
    )
    child = instances.alias("child")
    family = family.union(select(child.c.id).where(child.c.parent_id == family.c.id))
    found = (
        select(_i.id, _i.tenant_id, _i.parent_id, _i.status)
        .where(_i.id == family.c.id, _i.id != instance_id, _i.status.not_in(FINAL))
        .order_by(_i.id)
        .limit(limit)
    )
    return [Relative(row[0], row[1], row[2], InstanceStatus(row[3])) for row in tx.execute(found)]
