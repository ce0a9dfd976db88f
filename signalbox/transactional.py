"""Start a workflow inside your own SQL transaction: it starts if and only if your order, payment or user is committed.

    with engine.begin() as connection:
        connection.execute(insert(orders).values(id=7))
        signalbox.start(connection, "order", input={"order": 7}, business_key="order-7")

The tables of Signalbox stand in the same database. Nobody is told by this: the workers find the row when they look,
within a second, or at once where this process rings for them (`common.queues.doorbell.attach`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection

from common.commands.start import Start, Started, start_instance
from common.config import limits_of_process
from common.db import teach_clock
from common.errors import NotFound
from common.store import keys

__all__ = ["Started", "start"]


def start(
    connection: Connection,
    definition_key: str,
    *,
    tenant: str = "default",
    actor: str = "application",
    version: int | None = None,
    business_key: str | None = None,
    input: Any = None,
    context: Mapping[str, Any] | None = None,
    priority: int = 0,
    start_at: datetime | None = None,
    labels: Mapping[str, str] | None = None,
    on_conflict: Literal["return", "reject"] = "return",
) -> Started:
    """Start an instance of the active version of a definition, or of `version`; the caller commits.

    `tenant` is the tenant's name; `actor` stands in the history. With `business_key`, a live instance that has it is
    returned instead (`created` False), or refused for `on_conflict="reject"`. Raises `NotFound`, `Conflict`, `Invalid`
    and `LimitExceeded` before anything is written.
    """
    teach_clock(connection)
    tenant_id = keys.find_tenant(connection, tenant)
    if tenant_id is None:
        raise NotFound(f'no tenant "{tenant}" in this database', code="tenant.not_found")
    request = Start(
        definition_key=definition_key,
        version=version,
        business_key=business_key,
        input=input,
        context=context,
        priority=priority,
        start_at=start_at,
        labels=labels or {},
        on_conflict=on_conflict,
    )
    return start_instance(connection, tenant_id, request, actor=actor, limits=limits_of_process())
