"""How many of some spans of time lie over each other: what a limit of things that run at once is judged by."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

Span = tuple[datetime | str, datetime | str]
"""From when to when, both as the database tells them."""


def most_at_once(spans: Iterable[Span]) -> int:
    """The greatest number of spans that share an instant; one that ends where another begins does not meet it."""
    changes = sorted(change for begin, end in spans for change in ((begin, 1), (end, -1)))
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most
