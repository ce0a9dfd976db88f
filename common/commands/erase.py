"""Erasing what ended instances know of people: accepted here, done by the step that consumes it.

The erasure waits its turn in the inbox like everything else, so that whatever was accepted before it is consumed first
and erased too. What comes after it (a note, a late result) is not; erasing again takes that away as well.
"""

from __future__ import annotations

from functools import partial

from sqlalchemy import Connection

from common.canonical import dumps
from common.commands.absent import absent_instance
from common.commands.bulk import Bulk
from common.commands.control import cancel_instance
from common.commands.send import reason_text
from common.db import ORCHESTRATOR_QUEUE, note_bell
from common.db.now import read_now
from common.db.tables import InboxType
from common.errors import Conflict
from common.ids import InstanceId, TenantId, is_id
from common.lifecycle import instance_can
from common.store import erasure, inbox, listing
from common.store.accepting import read_standing
from common.store.listing import InstanceFilter

NAMED = 5


def erase_instance(
    tx: Connection,
    tenant_id: TenantId,
    instance_id: str,
    *,
    reason: str | None,
    cancel: bool,
    children: bool,
    actor: str,
) -> None:
    """Ask for the bodies of an ended instance, and of its `children`, to be taken away. The caller commits.

    With `cancel`, who has not ended is cancelled first. Raises before anything is written: `NotFound`
    (`instance.not_found`), `Conflict` (`instance.not_ended`, also for a child), `Invalid` for the reason.
    """
    why = reason_text(reason)
    require_ended(tx, tenant_id, instance_id, cancel=cancel, children=children)
    found = read_standing(tx, tenant_id, instance_id)
    if found is not None and not instance_can("erase", found.status):
        cancel_instance(tx, tenant_id, instance_id, reason=why, actor=actor)
    body = dumps({"cancel": cancel, "children": children, "reason": why})
    # Behind what was accepted before it, unlike commands: an event that waits must not bring back what it erases.
    inbox.put(
        tx, [inbox.new_row(tenant_id, InstanceId(instance_id), InboxType.ERASE, body, actor, read_now(tx))]
    )
    note_bell(tx, ORCHESTRATOR_QUEUE, instance_id)


def require_ended(
    tx: Connection, tenant_id: TenantId, instance_id: str, *, cancel: bool, children: bool
) -> None:
    """Raise `NotFound`, or `Conflict` (`instance.not_ended`) where somebody has not ended and is not to be cancelled."""
    found = read_standing(tx, tenant_id, instance_id) if is_id(instance_id) else None
    if found is None:
        raise absent_instance(tx, tenant_id, instance_id)
    status = found.status
    if cancel:
        return
    if not instance_can("erase", status):
        raise Conflict(
            f"cannot erase instance {instance_id}: {status.value}; cancel it first, or say cancel with it",
            code="instance.not_ended",
            status=status.value,
        )
    unfinished = erasure.find_unfinished(tx, tenant_id, instance_id, limit=NAMED) if children else []
    if unfinished:
        named = ", ".join(f"{one.id} is {one.status.value}" for one in unfinished)
        raise Conflict(
            f"cannot erase instance {instance_id} with its children: {named}; cancel them first, or say cancel with it",
            code="instance.not_ended",
            unfinished=[one.id for one in unfinished],
        )


def erase_all(
    tx: Connection,
    tenant_id: TenantId,
    wanted: InstanceFilter,
    *,
    reason: str | None,
    cancel: bool,
    children: bool,
    dry_run: bool,
    before: str | None,
    limit: int,
    actor: str,
) -> Bulk:
    """Erase up to `limit` instances that match, newest first, older than the id `before`. The caller commits."""
    page = listing.list_statuses(tx, tenant_id, wanted, before=before, limit=limit)
    bulk = Bulk(last=page.items[-1].id if page.items else None, has_more=page.has_more)
    for one in page.items:
        if dry_run:
            check = partial(require_ended, tx, tenant_id, one.id, cancel=cancel, children=children)
            bulk.add(one.id, check)
        else:
            erase = partial(erase_instance, tx, tenant_id, one.id, reason=reason, actor=actor)
            bulk.add(one.id, partial(erase, cancel=cancel, children=children))
    return bulk
