"""Handlers that take too long the first time, for the runner's processes of the tests."""

from __future__ import annotations

import os
import time
from typing import Any

from signalbox import handler

AT_ONCE = {"maxAttempts": 2, "interval": 0, "jitter": 0}


@handler("overrun.spin", timeout="1s", retry=AT_ONCE)
def spin(_input: Any, context: Any) -> dict[str, Any]:
    """Compute without end, the first time: until it is told that nobody waits."""
    while context.attempt == 1 and not context.cancelled:
        pass
    return {"attempt": context.attempt}


@handler("overrun.hang", timeout="1s", retry=AT_ONCE)
def hang(_input: Any, context: Any) -> dict[str, Any]:
    """Hang, the first time, whatever it is told."""
    if context.attempt == 1:
        time.sleep(600)
    return {"pid": os.getpid()}


@handler("overrun.pages", heartbeat_timeout="5s")
def pages(_input: Any, context: Any) -> dict[str, Any]:
    """Read 60 pages, one each 50 ms, from where an earlier attempt stopped."""
    first = (context.progress or {}).get("page", 0)
    for page in range(first + 1, 61):
        time.sleep(0.05)
        context.heartbeat({"page": page})
    return {"first": first}


@handler("light.deadly", light=True)
def deadly(_input: Any) -> None:
    """Break its promise in the worst way: end the process in the middle of the claim."""
    os._exit(9)
