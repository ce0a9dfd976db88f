"""The same command for every instance, or every incident, that a filter finds: page by page, each refused by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from sqlalchemy import Connection

from common.commands.control import (
    Refusal,
    cancel_instance,
    compensate_instance,
    pause_instance,
    refuse_cancel,
    refuse_compensate,
    refuse_retry,
    resume_instance,
    retry_instance,
)
from common.commands.incidents import Way, require_resolvable, resolve_incident
from common.commands.send import illegal
from common.config import Limits
from common.errors import SignalboxError
from common.ids import TenantId
from common.lifecycle import instance_can
from common.store import instances, listing
from common.store.listing import IncidentFilter, InstanceFilter

BulkVerb = Literal["pause", "resume", "retry", "cancel", "compensate"]
_COMMANDS: dict[BulkVerb, Callable[..., None]] = {
    "pause": pause_instance,
    "resume": resume_instance,
    "retry": retry_instance,
    "cancel": cancel_instance,
    "compensate": compensate_instance,
}
_REFUSALS: dict[BulkVerb, Refusal] = {
    "retry": refuse_retry,
    "cancel": refuse_cancel,
    "compensate": refuse_compensate,
}


@dataclass
class Bulk:
    """What became of one page: the ids that were (or, in a dry run, would be) accepted, and why others were refused.

    `last` is the last id looked at and `has_more` whether others may follow it.
    """

    accepted: list[str] = field(default_factory=list)
    refused: list[tuple[str, SignalboxError]] = field(default_factory=list)
    last: str | None = None
    has_more: bool = False

    def add(self, id_: str, command: Callable[[], object]) -> None:
        try:
            command()
        except SignalboxError as error:  # commands raise before they write: the others are not touched
            self.refused.append((id_, error))
        else:
            self.accepted.append(id_)


def control_all(
    tx: Connection,
    tenant_id: TenantId,
    verb: BulkVerb,
    wanted: InstanceFilter,
    *,
    dry_run: bool,
    reason: str | None,
    before: str | None,
    limit: int,
    actor: str,
) -> Bulk:
    """Say `verb` to up to `limit` instances that match, newest first, older than the id `before`. The caller commits."""
    page = listing.list_statuses(tx, tenant_id, wanted, before=before, limit=limit)
    bulk = Bulk(last=page.items[-1].id if page.items else None, has_more=page.has_more)
    for one in page.items:
        if not instance_can(verb, one.status):
            bulk.refused.append((one.id, illegal(verb, one.id, one.status, one.finished_at)))
        elif dry_run:
            bulk.add(one.id, partial(_refuse, tx, tenant_id, verb, one.id))
        else:
            bulk.add(one.id, partial(_COMMANDS[verb], tx, tenant_id, one.id, reason=reason, actor=actor))
    return bulk


def _refuse(tx: Connection, tenant_id: TenantId, verb: BulkVerb, instance_id: str) -> None:
    """Raise what the command would raise beside what the lifecycle says."""
    refuse = _REFUSALS.get(verb)
    stored = None if refuse is None else instances.read_stored(tx, tenant_id, instance_id)
    if refuse is not None and stored is not None:
        refuse(tx, stored)


def resolve_all(
    tx: Connection,
    tenant_id: TenantId,
    wanted: IncidentFilter,
    *,
    way: Way,
    output: Any,
    dry_run: bool,
    reason: str | None,
    before: str | None,
    limit: int,
    actor: str,
    limits: Limits,
) -> Bulk:
    """Resolve up to `limit` open incidents that match, newest first, by the same way out. The caller commits."""
    page = listing.list_incidents(tx, tenant_id, wanted, before=before, limit=limit)
    bulk = Bulk(last=page.items[-1].id if page.items else None, has_more=page.has_more)
    for one in page.items:
        if dry_run:
            asked = partial(require_resolvable, tx, tenant_id, one.id, way=way, output=output)
            bulk.add(one.id, partial(asked, limits=limits))
        else:
            resolve = partial(resolve_incident, tx, tenant_id, one.id, way=way, output=output, reason=reason)
            bulk.add(one.id, partial(resolve, actor=actor, limits=limits))
    return bulk
