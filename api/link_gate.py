"""How often one link may be asked for: so that a page that is loaded over and over costs no statements without end."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

MOST = 30
SECONDS = 60.0
REMEMBERED = 10_000


class LinkGate:
    """Counts requests by link in one process: `MOST` in `SECONDS`. Forgets what was asked for longest ago."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._asked: OrderedDict[bytes, tuple[float, int]] = OrderedDict()
        self._turn = threading.Lock()

    def seconds_to_wait(self, digest: bytes) -> int:
        """Count a request for a link; 0 where it may be answered, else the seconds after which one may."""
        now = self._monotonic()
        with self._turn:
            began, count = self._asked.pop(digest, (now, 0))
            if now - began >= SECONDS:
                began, count = now, 0
            self._asked[digest] = (began, count + 1)
            while len(self._asked) > REMEMBERED:
                self._asked.popitem(last=False)
        return 0 if count < MOST else max(1, round(began + SECONDS - now))
