"""Follow an instance over HTTP: each history entry as it arrives, until the instance has come to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from common.lifecycle import FINAL, InstanceStatus
from signalbox.client import Client
from signalbox.shapes import Entry, Instance

FIRST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 0.5
ENDED = frozenset({*FINAL, InstanceStatus.FAILED})
"""Statuses in which nothing more happens by itself."""


def follow(
    client: Client,
    instance_id: str,
    *,
    deadline: float | None = None,
    idle: Callable[[], object] = lambda: None,
    is_over: Callable[[Instance], bool] | None = None,
) -> Iterator[Entry]:
    """Yield the history of an instance from its beginning, and go on with what arrives until it has ended.

    `is_over` tells of another moment at which to stop; it is asked of the instance before its history is read.
    `deadline` (monotonic seconds) ends it early. `idle` is called before each pause. Pauses grow while nothing
    happens, so that a long wait costs little and a busy instance is seen at once.
    """
    cursor: str | None = None
    told = 0
    pause = FIRST_PAUSE_SECONDS
    while True:
        # Asked before the history: what happened until this answer stands in the pages read after it.
        instance = client.instance(instance_id)
        has_ended = instance["status"] in ENDED or (is_over is not None and is_over(instance))
        fresh, cursor, told = _read_on(client, instance_id, cursor, told)
        yield from fresh
        if has_ended or (deadline is not None and time.monotonic() >= deadline):
            return
        pause = FIRST_PAUSE_SECONDS if fresh else min(pause * 1.5, LONGEST_PAUSE_SECONDS)
        idle()
        time.sleep(pause)


def _read_on(
    client: Client, instance_id: str, cursor: str | None, told: int
) -> tuple[list[Entry], str | None, int]:
    """Entries after the first `told` ones of the page at `cursor`, and where to read on."""
    fresh: list[Entry] = []
    while True:
        page = client.history_page(instance_id, cursor)
        fresh.extend(page["items"][told:])
        if page["nextCursor"] is None:
            return fresh, cursor, len(page["items"])
        cursor, told = page["nextCursor"], 0


def has_succeeded(instance: Instance) -> bool:
    """Whether an instance that has ended did what its definition wanted."""
    return instance["status"] == InstanceStatus.COMPLETED
