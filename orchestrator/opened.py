"""Incidents that a step has opened, for the log: an instance that stands still must be found by who only reads that."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from common.ids import InstanceId, TenantId
from statechart.record import record


@record
class Opened:
    """An incident. What it says may quote the data of the instance, and stays in the database."""

    tenant_id: TenantId
    instance_id: InstanceId
    definition: str
    code: str
    task_id: str | None


def log_opened(log: Any, opened: Iterable[Opened]) -> None:
    """Tell of incidents, once they are committed."""
    for one in opened:
        log.warning(
            "incident.opened",
            tenant_id=one.tenant_id,
            instance_id=one.instance_id,
            definition=one.definition,
            code=one.code,
            task_id=one.task_id,
        )
