"""What the items of `benchmarks.fan_out` call: nothing, by the light and by the ordinary way."""

from __future__ import annotations

from typing import Any

from signalbox import handler


@handler("bench.light", light=True)
def light(input: Any) -> Any:
    """Give the input back."""
    return input


@handler("bench.ordinary")
def ordinary(input: Any) -> Any:
    """Give the input back."""
    return input
