"""`signalbox.noop`: does nothing, for benchmarks and first steps."""

from __future__ import annotations

from typing import Any

from task_runner.registry import handler


@handler("signalbox.noop", description="Does nothing and returns an empty object.")
def noop(_input: Any) -> dict[str, Any]:
    return {}
