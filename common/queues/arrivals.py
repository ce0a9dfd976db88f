"""Arrivals: callers say whose workflow they have just started or told something, to runners that go through a flood.

The first task of a workflow would meet the claims and reports of the flood that are under way; a runner that hears of it while its step is being
made begins nothing of the flood until it is there (`common.courtesy`). Only runners that have somebody to protect listen, and while nobody
does, next to nothing is said: a hint, like all calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from common.db import ARRIVALS
from common.ids import TenantId
from common.queues.calls import Caller, Listener

ASK_SECONDS = 1.0
"""So often it is tried whether somebody listens by now."""
NAMED_MAX = 8
"""Tenants of one call: where more arrive at once nobody is quiet."""
HINT_MAX = 400
"""Bytes of a call that are read: who may publish to the broker may publish anything."""
AGAIN_SECONDS = 0.01
"""Who has been named is not named again for so long: who arrives more often than that is not quiet."""


class Announcer:
    """Says who has arrived, as long as somebody hears it. For one thread at a time."""

    def __init__(self, calls: Caller) -> None:
        self._calls = calls
        self._asked_at = -ASK_SECONDS
        self._said: Sequence[str] = ()
        self._said_at = -AGAIN_SECONDS

    def announce(self, tenants: Sequence[str]) -> None:
        """Call at once, or not at all."""
        now = time.monotonic()
        if not self._calls.is_heard(ARRIVALS):
            if now < self._asked_at + ASK_SECONDS:
                return
            self._asked_at = now
        if tenants == self._said and now < self._said_at + AGAIN_SECONDS:
            return
        self._said, self._said_at = tenants, now
        self._calls.call_at_once(ARRIVALS, ",".join(tenants[:NAMED_MAX]).encode())


class Arrivals:
    """Hears of arrivals while that is wanted; for one thread."""

    def __init__(self, broker_url: str, heard: Callable[[Sequence[TenantId]], None]) -> None:
        self._broker_url = broker_url
        self._heard = heard
        self._listener: Listener | None = None

    def listen(self, wanted: bool) -> None:
        """Begin to listen, or stop, as `wanted`."""
        if wanted and self._listener is None:
            self._listener = Listener.open(self._broker_url)
            self._listener.listen({ARRIVALS: self._hear})
        elif not wanted and self._listener is not None:
            self._listener.close()
            self._listener = None

    def _hear(self, hints: Sequence[bytes]) -> None:
        named = {one for hint in hints for one in hint[:HINT_MAX].decode(errors="replace").split(",") if one}
        self._heard([TenantId(one) for one in named])
