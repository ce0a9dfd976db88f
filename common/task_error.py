"""A failed attempt's error as data, for the process that runs the handler and for the rows alike. Pure: no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any


@dataclass(frozen=True, slots=True)
class TaskError:
    """A failure as data. `retryable` None leaves the decision to the policy. `trace` is cut to size and stays with the attempt.

    `retry_after_ms`: another try is not to come earlier than so much later, as far as the policy's longest wait allows.
    """

    code: str
    message: str
    data: Any = None
    retryable: bool | None = None
    trace: str | None = None
    retry_after_ms: int | None = None

    @property
    def retry_after(self) -> timedelta:
        """The least wait before another try; none where nobody asked for one."""
        return timedelta(milliseconds=self.retry_after_ms or 0)

    def to_json(self) -> dict[str, Any]:
        return {"code": self.code, "data": self.data, "message": self.message}
