"""A task as a runner is told of it, sealed: before any row tells of it (`light_calls.py`), or with the call that hands it over (`handed.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Self

from common.ids import InstanceId, LeaseToken, TaskId, TenantId
from common.store.claims import TaskClaim
from statechart.record import record


@record
class ToldTask:
    """What a runner needs to know of a new task to call its handler; `input`, `retry` and `options` are JSON texts."""

    id: TaskId
    token: LeaseToken
    tenant_id: TenantId
    instance_id: InstanceId
    key: str
    type: str
    name: str
    max_attempts: int
    input: str
    retry: str | None
    options: str | None
    completion_event: str
    failure_event: str
    at: datetime

    def claim(self) -> TaskClaim:
        """The claim that a lease of it would be: its first attempt."""
        return TaskClaim(
            self.id, self.tenant_id, self.instance_id, self.key, self.type, self.name, 1, self.max_attempts, None, self.input,
            self.retry, None, None, self.options, None, self.completion_event, self.failure_event, None, self.at, self.token,
            claimed_at=self.at, is_first=True,
        )  # fmt: skip

    def told(self) -> tuple[Any, ...]:
        return (
            self.id, self.token, self.tenant_id, self.instance_id, self.key, self.type, self.name, self.max_attempts, self.input,
            self.retry, self.options, self.completion_event, self.failure_event, self.at,
        )  # fmt: skip

    @classmethod
    def read(cls, told: Sequence[Any]) -> Self:
        return cls(*(*told[:-1], datetime.fromisoformat(told[-1])))
