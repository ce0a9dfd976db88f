"""What `signalbox bench --light` calls: nothing, by a handler that a step may wait for."""

from __future__ import annotations

from typing import Any

from signalbox import handler


@handler("bench.light", light=True)
def light(_input: Any) -> dict[str, Any]:
    return {}
