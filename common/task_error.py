"""A failed attempt's error as data, for the process that runs the handler and for the rows alike. Pure: no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class TaskError:
    """A failure as data. `retryable` None leaves the decision to the policy. `trace` is cut to size and stays with the attempt."""

    code: str
    message: str
    data: Any = None
    retryable: bool | None = None
    trace: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"code": self.code, "data": self.data, "message": self.message}
