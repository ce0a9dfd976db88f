"""Ways out of an incident: what stopped an instance is tried again, or left out, on record.

What a retry does is put together here, from the incident and the history row that tells of it, and travels whole in the
inbox row: the step that takes it reads nothing else, and can be replayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import Connection

from common.canonical import clean, dumps, read
from common.commands.admission import refuse_without_room
from common.commands.send import accept, reason_text, require_legal, require_size
from common.config import Limits
from common.db.tables import InboxType, IncidentStatus
from common.errors import Conflict, NotFound
from common.ids import InstanceId, TenantId, is_id
from common.lifecycle import InstanceStatus
from common.store import history, inbox, incidents, instances, tasks
from common.store.incidents import OpenIncident

Way = Literal["retry", "skip"]


def resolve_incident(
    tx: Connection,
    tenant_id: TenantId,
    incident_id: str,
    *,
    way: Way,
    output: Any,
    reason: str | None,
    actor: str,
    limits: Limits,
) -> str:
    """Ask for an incident to be resolved, and its instance to go on; returns the instance's id.

    `retry` runs the failed task again, or takes the event again whose step failed. `skip` answers the task with
    `output` as if it had succeeded, or leaves the event out. The caller commits. Raises `NotFound`
    (`incident.not_found`), `Conflict` (`incident.resolved`, or as a retry does), `Invalid` and `LimitExceeded`.
    """
    seen = _find(tx, tenant_id, incident_id)
    if seen is not None:
        instances.hold(tx, tenant_id, seen.instance_id)  # from now on no step can change it
    found = require_resolvable(tx, tenant_id, incident_id, way=way, output=output, limits=limits)
    chosen = ways_out(tx, tenant_id, [found], way=way, output=clean(output, max_depth=limits.max_json_depth))
    body = dumps({"incidents": chosen, "reason": reason_text(reason)})
    accept(tx, tenant_id, found.instance_id, "retry", InboxType.RETRY, body, lane=inbox.CONTROL, actor=actor)
    return found.instance_id


def require_resolvable(
    tx: Connection, tenant_id: TenantId, incident_id: str, *, way: Way, output: Any, limits: Limits
) -> OpenIncident:
    """The incident, which can be resolved as it stands; else raises what `resolve_incident` raises."""
    found = _find(tx, tenant_id, incident_id)
    if found is None:
        raise NotFound(f'no incident "{incident_id}"', code="incident.not_found")
    if found.status is not IncidentStatus.OPEN:
        raise Conflict(f"incident {incident_id} is resolved already", code="incident.resolved")
    stored = instances.read_stored(tx, tenant_id, found.instance_id)
    if stored is not None:
        refuse_ended_in_error(stored.id, stored.snapshot)
    cleaned = clean(output, max_depth=limits.max_json_depth)
    require_size(dumps(cleaned), "the output is", limits, "max_output_bytes")
    if stored is not None:
        refuse_without_room(tx, stored, way)
        refuse_held_key(tx, stored)
    require_legal(tx, tenant_id, found.instance_id, "retry")
    return found


def _find(tx: Connection, tenant_id: TenantId, incident_id: str) -> OpenIncident | None:
    return incidents.find(tx, tenant_id, incident_id) if is_id(incident_id) else None


def refuse_ended_in_error(instance_id: str, snapshot: str | None) -> None:
    """Raise `Conflict` for an instance that has nothing to go on from: it ended in an error, or what it had done is undone."""
    stands = {} if snapshot is None else read(snapshot)
    if stands.get("status") == "error" and "started" in stands.get("compensation", {}):
        raise Conflict(
            f"cannot retry instance {instance_id}: what it had done is undone; restart it from a state, or start another",
            code="instance.compensated",
        )
    if stands.get("status") == "error":
        raise Conflict(
            f"cannot retry instance {instance_id}: its machine ended with an error; restart it from a state",
            code="instance.ended_in_error",
        )


def refuse_held_key(tx: Connection, stored: instances.StoredInstance, *, undoes: bool = False) -> None:
    """Raise `Conflict` where a failed instance would go on, or be undone, under a business key that another holds by now.

    It gave its key back when it failed. Read without a lock: for one that loses the race the database refuses the step.
    """
    if stored.business_key is None or stored.status is not InstanceStatus.FAILED:
        return
    holder = instances.find_live(tx, stored.tenant_id, stored.definition_key, stored.business_key)
    if holder is None:
        return
    why = why_held(stored.business_key, holder)
    told = (
        f"instance {stored.id} cannot be undone now: {why}; wait until that has ended, or cancel without compensation"
        if undoes
        else f"instance {stored.id} cannot go on now: {why}; wait until that has ended, or cancel one of the two"
    )
    raise Conflict(told, code="instance.business_key_held", instanceId=holder)


def why_held(business_key: str, holder: InstanceId) -> str:
    """Why a failed instance cannot go on whose business key another has taken, in words."""
    return f'its business key "{business_key}" is held by instance {holder}'


def ways_out(
    tx: Connection, tenant_id: TenantId, open_ones: Sequence[OpenIncident], *, way: Way, output: Any = None
) -> list[dict[str, Any]]:
    """What a `retry` row says of each incident (`common.decide_control.retry` reads it)."""
    return [_way_out(tx, tenant_id, one, way, output) for one in open_ones]


def _way_out(tx: Connection, tenant_id: TenantId, one: OpenIncident, way: Way, output: Any) -> dict[str, Any]:
    chosen: dict[str, Any] = {"code": one.code, "id": one.id, "way": way}
    key = read(one.detail).get("key")
    if one.task_id is not None and key is not None:
        chosen["task"] = {"id": one.task_id, "key": key}
        if way == "skip":
            chosen["answer"] = _answer(tx, tenant_id, one.task_id, key, output)
        return chosen
    row = history.read_row(tx, tenant_id, one.instance_id, one.sequence)
    if row is None or row.input is None:
        return chosen
    recorded = read(row.input)
    failed_on = _failed_on(recorded["type"], recorded["body"])
    if failed_on is None:
        return chosen
    if failed_on["type"] == InboxType.CHILD.value and way == "skip":
        chosen["output"] = output
    return {**chosen, "row": failed_on}


def _answer(tx: Connection, tenant_id: TenantId, task_id: str, key: str, output: Any) -> dict[str, Any]:
    """The event and entry that stand for a task which is skipped."""
    facts = tasks.read_names(tx, tenant_id, task_id)
    task = {"attempt": facts.attempt, "id": task_id, "name": facts.name, "type": facts.type}
    return {
        "entry": {"key": key, "name": facts.name, "taskId": task_id, "type": "task.skipped"},
        "event": {"output": output, "task": task, "type": facts.completion_event},
    }


def _failed_on(type: str, body: Any) -> dict[str, Any] | None:
    """The row that a step failed on; of a retry, the row that it took again; None where the engine gave up by itself."""
    if type == InboxType.INCIDENT.value:
        return None
    if type != InboxType.RETRY.value:
        return {"body": body, "type": type}
    taken = [chosen["row"] for chosen in body["incidents"] if "row" in chosen and chosen["way"] == "retry"]
    return taken[-1] if taken else None
