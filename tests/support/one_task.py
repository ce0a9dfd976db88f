"""A workflow of one task that takes as long as its input says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ONE_TASK: Mapping[str, Any] = {
    "id": "one-task",
    "initial": "working",
    "states": {
        "working": {"invoke": {"src": "test.rest", "input": {"ms": "${input}"}, "onDone": "done"}},
        "done": {"type": "final"},
    },
}
