"""What an examination found wrong with stored rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that should not be: a stable `code`, a sentence, and where."""

    code: str
    message: str
    sequence: int | None = None
    instance_id: str | None = None

    def to_json(self) -> dict[str, Any]:
        found = {
            "code": self.code,
            "message": self.message,
            "sequence": self.sequence,
            "instanceId": self.instance_id,
        }
        return {name: value for name, value in found.items() if value is not None}
