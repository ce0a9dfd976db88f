"""Control: commands from people about an instance. They travel in lane 0 and overtake waiting events.

Each is checked against the instance's status as it is read without a lock, and refused at once with `Conflict`
(`instance.illegal_verb`, `instance.finished`) where the lifecycle does not allow it; one that loses a race afterwards
is recorded as `event.rejected`. All raise `NotFound` (`instance.not_found`) and, for an overlong reason, `Invalid`.
The caller commits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from sqlalchemy import Connection

from common.canonical import clean, dumps, read
from common.commands.admission import refuse_without_room
from common.commands.incidents import refuse_ended_in_error, refuse_held_key, ways_out
from common.commands.send import accept, reason_text, require_legal, require_size
from common.config import Limits
from common.db.tables import InboxType
from common.decide import VERBS
from common.decide_compensation import is_running
from common.errors import Conflict, Invalid, did_you_mean
from common.ids import TenantId, is_id
from common.lifecycle import InstanceStatus
from common.store import inbox, incidents, instances
from statechart import DefinitionInvalid, load
from statechart.compensation import is_there_to_undo

STATES_NAMED = 20
Refusal = Callable[[Connection, instances.StoredInstance], None]
"""Raises `Conflict` where a command that the lifecycle allows would be refused all the same; writes nothing."""


def cancel_instance(
    tx: Connection,
    tenant_id: TenantId,
    instance_id: str,
    *,
    reason: str | None,
    actor: str,
    compensate: bool = True,
) -> None:
    """Ask for an instance to end: open tasks and timers are cancelled, exit actions run, then it is `cancelled`.

    What it has done is undone first where its definition says so; with `compensate` false it is not, and one that is being
    undone ends in the middle. Raises `Conflict` (`compensation.stopped`) for one whose compensation has failed, unless so,
    and (`instance.business_key_held`) for one that would be undone under a key that another holds by now.
    """
    body = {"reason": reason_text(reason)} | ({} if compensate else {"compensate": False})

    refuse = refuse_cancel if compensate else None
    _command(tx, tenant_id, instance_id, InboxType.CANCEL, body, actor, refuse=refuse)


def refuse_cancel(tx: Connection, stored: instances.StoredInstance) -> None:
    """Raise `Conflict` for a cancel that would undo what cannot be undone now."""
    if stored.status is InstanceStatus.FAILED and stored.snapshot is not None:
        _refuse_stopped(stored)
        if read(stored.snapshot).get("compensation"):
            refuse_held_key(tx, stored, undoes=True)


def compensate_instance(
    tx: Connection, tenant_id: TenantId, instance_id: str, *, reason: str | None, actor: str
) -> None:
    """Ask for an instance to undo what it has done, and to end: a failed one `failed`, any other `cancelled`.

    Raises `Conflict` (`compensation.nothing`) where nothing is registered that could be undone.
    """
    require_legal(tx, tenant_id, instance_id, "compensate")
    stored = instances.read_stored(tx, tenant_id, instance_id)
    if stored is not None:
        refuse_compensate(tx, stored)
    error = instances.read_error(tx, tenant_id, instance_id)
    body = {
        "error": None if error is None else read(error),
        "reason": reason_text(reason),
        "verb": "compensate",
    }
    accept(
        tx,
        tenant_id,
        instance_id,
        "compensate",
        InboxType.CANCEL,
        dumps(body),
        lane=inbox.CONTROL,
        actor=actor,
    )


def refuse_compensate(tx: Connection, stored: instances.StoredInstance) -> None:
    """Raise `Conflict` where nothing can be undone, or not now."""
    failed = {read(one.detail).get("key") for one in incidents.read_open(tx, stored.tenant_id, stored.id)}
    if not _may_undo(tx, stored, failed=failed):
        raise Conflict(
            f"cannot compensate instance {stored.id}: nothing that it has done says how it is undone",
            code="compensation.nothing",
        )
    refuse_held_key(tx, stored, undoes=True)


def pause_instance(
    tx: Connection, tenant_id: TenantId, instance_id: str, *, reason: str | None, actor: str
) -> None:
    """Ask for an instance to stand still: running tasks finish, results, events and due timers wait, nothing starts."""
    _command(tx, tenant_id, instance_id, InboxType.PAUSE, {"reason": reason_text(reason)}, actor)


def resume_instance(
    tx: Connection, tenant_id: TenantId, instance_id: str, *, reason: str | None, actor: str
) -> None:
    """Ask for a paused instance to go on where it stands; what waited is taken in its order."""
    _command(tx, tenant_id, instance_id, InboxType.RESUME, {"reason": reason_text(reason)}, actor)


def step_instance(tx: Connection, tenant_id: TenantId, instance_id: str, *, actor: str) -> None:
    """Ask a paused instance to let its tasks run and to take the oldest thing that waits: one event, one step."""
    _command(tx, tenant_id, instance_id, InboxType.STEP, {}, actor)


def retry_instance(
    tx: Connection, tenant_id: TenantId, instance_id: str, *, reason: str | None, actor: str
) -> None:
    """Ask for a failed instance to try again what it failed on: its failed task, or the event whose step failed.

    Raises `Conflict` (`instance.ended_in_error`) where the machine itself ended with an error: only a restart helps; and
    (`instance.business_key_held`) where another instance holds by now the business key that this one would take again.
    """
    # A way out that was read before the instance failed, or failed on something else, would thaw it and try nothing again.
    if is_id(instance_id):
        instances.hold(tx, tenant_id, instance_id)
    open_ones = incidents.read_open(tx, tenant_id, instance_id)
    body = {"incidents": ways_out(tx, tenant_id, open_ones, way="retry"), "reason": reason_text(reason)}
    _command(tx, tenant_id, instance_id, InboxType.RETRY, body, actor, refuse=refuse_retry)


def refuse_retry(tx: Connection, stored: instances.StoredInstance) -> None:
    """Raise `Conflict` for a failed instance that cannot go on, or not now."""
    refuse_ended_in_error(stored.id, stored.snapshot)
    refuse_without_room(tx, stored, "retry")
    refuse_held_key(tx, stored, undoes=stored.snapshot is not None and is_running(read(stored.snapshot)))


def restart_instance(
    tx: Connection,
    tenant_id: TenantId,
    instance_id: str,
    *,
    state: str | None,
    context: Mapping[str, Any] | None,
    reason: str | None,
    actor: str,
    limits: Limits,
) -> None:
    """Ask for an instance to leave where it stands and to enter `state`, a dotted path (None: its initial state).

    Open tasks, timers and children are cancelled, the context stays, with `context` laid over it key by key at the top.
    Raises `Invalid` (`restart.unknown_state`) and `Conflict` (`instance.not_started`, `instance.business_key_held`).
    """
    given = None if context is None else clean(context, max_depth=limits.max_json_depth)
    require_size(dumps(given), "the context is", limits)

    def refuse(tx: Connection, stored: instances.StoredInstance) -> None:
        if stored.snapshot is None:
            raise Conflict(
                f"cannot restart instance {instance_id}: it has not started; retry it",
                code="instance.not_started",
            )
        _check_state(tx, stored, state)
        refuse_without_room(tx, stored, "restart")
        refuse_held_key(tx, stored)

    body = {"context": given, "reason": reason_text(reason), "state": state}
    _command(tx, tenant_id, instance_id, InboxType.RESTART, body, actor, refuse=refuse)


def _command(
    tx: Connection,
    tenant_id: TenantId,
    instance_id: str,
    type: InboxType,
    body: Mapping[str, Any],
    actor: str,
    *,
    refuse: Refusal | None = None,
) -> None:
    """Accept a command, unless `refuse` raises for what the lifecycle alone does not tell. Nothing is written then."""
    if refuse is not None:
        require_legal(tx, tenant_id, instance_id, VERBS[type])
        stored = instances.read_stored(tx, tenant_id, instance_id)
        if stored is not None:
            refuse(tx, stored)
    accept(tx, tenant_id, instance_id, VERBS[type], type, dumps(body), lane=inbox.CONTROL, actor=actor)


def _may_undo(tx: Connection, stored: instances.StoredInstance, *, failed: Collection[str]) -> bool:
    snapshot = None if stored.snapshot is None else read(stored.snapshot)
    if snapshot is None or snapshot["status"] != "active":
        return False
    [definition] = instances.read_definitions(tx, [stored.definition_id])
    try:
        return is_there_to_undo(load(read(definition.document)), snapshot, without=failed)
    except DefinitionInvalid:
        return False


def _refuse_stopped(stored: instances.StoredInstance) -> None:
    if stored.status is InstanceStatus.FAILED and is_running(
        None if stored.snapshot is None else read(stored.snapshot)
    ):
        raise Conflict(
            f"cannot cancel instance {stored.id}: one of its compensations has failed; retry it, skip it, "
            "or cancel without compensation",
            code="compensation.stopped",
        )


def _check_state(tx: Connection, stored: instances.StoredInstance, state: str | None) -> None:
    [definition] = instances.read_definitions(tx, [stored.definition_id])
    try:
        chart = load(read(definition.document))
    except DefinitionInvalid as error:
        raise Conflict(
            f"cannot restart instance {stored.id}: its definition does not compile any more",
            code="definition.unusable",
        ) from error
    paths = [node.path for node in chart.nodes if node.parent is not None and node.type != "history"]
    if state is not None and state not in paths:
        known = ", ".join(paths[:STATES_NAMED])
        raise Invalid(
            f'state: expected one of {known}, found "{state}"{did_you_mean(state, paths)}',
            code="restart.unknown_state",
        )
