"""Control: commands from people about an instance. They travel in lane 0 and overtake waiting events."""

from __future__ import annotations

from sqlalchemy import Connection

from common.canonical import clean, dumps
from common.commands.send import accept
from common.db.tables import InboxType
from common.errors import Invalid
from common.ids import TenantId
from common.store import inbox

MAX_REASON = 2_000


def cancel_instance(
    tx: Connection, tenant_id: TenantId, instance_id: str, *, reason: str | None, actor: str
) -> None:
    """Ask for an instance to be cancelled: its open tasks and timers end, exit actions run, then it is `cancelled`.

    Raises `NotFound` (`instance.not_found`), `Conflict` for a finished one, `Invalid` for an overlong reason.
    """
    if reason is not None and (not isinstance(reason, str) or len(reason) > MAX_REASON):
        raise Invalid(f"reason: expected text of at most {MAX_REASON} characters", code="reason.invalid")
    body = dumps({"reason": clean(reason)})
    accept(tx, tenant_id, instance_id, "cancel", InboxType.CANCEL, body, lane=inbox.CONTROL, actor=actor)
