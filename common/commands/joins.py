"""Counting the ends of items for their MAPs, and ending the MAPs whose last item it was.

Theory of operation. Whoever ends items has locked them, by id; the MAPs that they belong to come behind all of them
(operation: ORDER). A MAP that does not run any more counts nothing: its end is decided, its other items are cancelled by
the step that takes its answer. The counts of a group are one statement, however many items it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from common.canonical import dumps, read
from common.commands.digests import attempts_digest
from common.decide_joins import (
    TOLD_ERRORS,
    Count,
    item_failed,
    items_digest,
    not_enough,
    results_text,
    too_large,
)
from common.ids import TaskId
from common.lifecycle import TaskStatus
from common.store import joins
from common.store.joins import OpenMap
from common.task_error import TaskError


@dataclass(frozen=True, slots=True)
class ItemEnd:
    """An item that has ended: with `error` (canonical text) or well. `was_gated`: it had never had its turn."""

    map_id: TaskId
    index: int
    error: str | None = None
    was_gated: bool = False


@dataclass(frozen=True, slots=True)
class Items:
    """What the entry that ends a MAP says of its items: the counts, and a digest over those that have ended."""

    count: Count
    digest: str

    def to_json(self) -> dict[str, Any]:
        return {"items": self.count.to_json(), "itemsDigest": self.digest}


@dataclass(frozen=True, slots=True)
class EndedMap:
    """A MAP that has just ended, with `output` (canonical text) or `error`."""

    map: OpenMap
    items: Items
    output: str | None
    error: TaskError | None


@dataclass(frozen=True, slots=True)
class Counted:
    """The MAPs that ended, and the ids of the items that have their turn now."""

    ended: list[EndedMap]
    opened: list[TaskId]


def count_items(
    tx: Connection,
    ends: Sequence[ItemEnd],
    *,
    now: datetime,
    max_output_bytes: int,
    also: Sequence[str] = (),
) -> Counted:
    """Count items that have ended and whose rows say so; to be called when no lock of an item is waited for any more.

    `also` are ids of MAPs that may be at their end although nothing of theirs has ended just now.
    """
    by_map: dict[str, list[ItemEnd]] = {id_: [] for id_ in also}
    for end in ends:
        by_map.setdefault(end.map_id, []).append(end)
    if not by_map:
        return Counted([], [])
    maps = joins.lock_maps(tx, sorted(by_map))
    before = joins.read_counts(tx, {id_: one.join for id_, one in maps.items()})
    counts = {id_: _counted(one, by_map[id_]) for id_, one in before.items()}
    ended = {id_ for id_, one in counts.items() if one.has_succeeded() is not None}
    joins.save_counts(tx, counts, ended_at=dict.fromkeys(ended, now))
    opened = [
        item
        for id_ in sorted(counts.keys() - ended)
        if (turns := sum(not end.was_gated for end in by_map[id_]))
        for item in joins.open_next(tx, id_, turns, now=now)
    ]
    over = [
        _end(tx, maps[id_], counts[id_], _first_failed(by_map[id_]), max_output_bytes=max_output_bytes)
        for id_ in sorted(ended)
    ]
    joins.end_maps(tx, [_row(one, now) for one in over])
    return Counted(over, opened)


def close(tx: Connection, map_ids: Sequence[str], *, now: datetime) -> dict[str, Items]:
    """Count no more for locked MAPs that have ended otherwise: out of time, or by hand."""
    if not map_ids:
        return {}
    counts = joins.read_counts(tx, dict.fromkeys(map_ids))
    joins.save_counts(tx, counts, ended_at=dict.fromkeys(counts, now))
    return {id_: Items(one, _digest(tx, id_)) for id_, one in counts.items()}


def _counted(count: Count, ends: Sequence[ItemEnd]) -> Count:
    failed = sum(end.error is not None for end in ends)
    return replace(count, succeeded=count.succeeded + len(ends) - failed, failed=count.failed + failed)


def _first_failed(ends: Sequence[ItemEnd]) -> ItemEnd | None:
    """The failure that ends a MAP which needs every item: of those that came together, the one of the lowest index."""
    return min((end for end in ends if end.error is not None), key=lambda end: end.index, default=None)


def _end(
    tx: Connection, map: OpenMap, count: Count, first: ItemEnd | None, *, max_output_bytes: int
) -> EndedMap:
    items = Items(count, _digest(tx, map.id))
    if count.has_succeeded():
        size = joins.results_size(tx, map.id)
        if size > max_output_bytes:
            return EndedMap(map, items, None, too_large(size, max_output_bytes))
        return EndedMap(map, items, results_text(joins.read_results(tx, map.id)), None)
    if map.join == "all" and first is not None and first.error is not None:
        return EndedMap(map, items, None, item_failed(first.index, read(first.error), count.total))
    errors = joins.read_errors(tx, map.id, limit=TOLD_ERRORS)
    return EndedMap(map, items, None, not_enough(count, errors))


def _row(one: EndedMap, now: datetime) -> dict[str, Any]:
    status = TaskStatus.SUCCEEDED if one.error is None else TaskStatus.FAILED
    error = None if one.error is None else dumps(one.error.to_json())
    return {
        "id": one.map.id, "status": status.value, "output": one.output, "error": error, "finished_at": now,
    }  # fmt: skip


def _digest(tx: Connection, map_id: str) -> str:
    return items_digest(
        (index, status, attempts_digest(tries) if tries else None)
        for index, status, tries in joins.read_tries(tx, map_id)
    )
