"""The rows of a MAP: its items and its join, made in the step that asks for it and stored in one go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

from common.canonical import dumps
from common.lifecycle import TaskStatus
from statechart.effects import NOT_RUN_BY_A_RUNNER, CreateTask, MapItems

Row: TypeAlias = dict[str, Any]


@dataclass
class MapRows:
    """Items and joins of MAPs that are not stored yet, by (instance, key of the MAP)."""

    items: dict[tuple[str, str], list[Row]] = field(default_factory=dict)
    joins: dict[tuple[str, str], Row] = field(default_factory=dict)

    def add(
        self, row: Row, asked: MapItems, make: Callable[[CreateTask], Row], *, options: Mapping[str, Any]
    ) -> None:
        """Add the items of the MAP whose row is `row`; `make` gives the row of a task that has been asked for."""
        row["options"] = dumps({**options, "join": asked.join})
        key = (row["instance_id"], row["key"])
        self.items[key] = [
            _item(
                make(task), row, index, is_gated=asked.concurrency is not None and index >= asked.concurrency
            )
            for index, task in enumerate(asked.tasks)
        ]
        for item, child in zip(self.items[key], asked.children, strict=False):
            # Started from its row, after the step (`map_children`).
            item |= {
                "status": TaskStatus.PENDING.value,
                "options": dumps({"instanceId": child.instance_id}),
            }
        self.joins[key] = {
            "task_id": row["id"],
            "tenant_id": row["tenant_id"],
            "instance_id": row["instance_id"],
            "total": len(asked.tasks),
            "needed": asked.needed,
            "fail_fast": asked.fail_fast,
            "concurrency": asked.concurrency,
        }

    def drop(self, instance_id: str, key: str) -> None:
        """Leave the items of a MAP out that is withdrawn before it was stored: nobody ever saw them."""
        self.items.pop((instance_id, key), None)
        self.joins.pop((instance_id, key), None)

    def hold(self, instance_id: str, key: str) -> None:
        """Keep the items of a MAP from being claimed."""
        for row in self.items.get((instance_id, key), ()):
            row["held"] = True

    def merge(self, other: MapRows) -> None:
        self.items.update(other.items)
        self.joins.update(other.joins)

    @property
    def has_workflows(self) -> bool:
        """Is there a child to be started from its row?"""
        return any(row["type"] == "WORKFLOW" for rows in self.items.values() for row in rows[:1])

    def rows(self) -> list[Row]:
        """Every item, in order."""
        return [row for rows in self.items.values() for row in rows]


def _item(row: Row, parent: Row, index: int, *, is_gated: bool) -> Row:
    row |= {"parent_task_id": parent["id"], "item_index": index, "gated": is_gated}
    if is_gated:  # its time begins with its turn
        row |= {"status": TaskStatus.PENDING.value, "start_by_at": None, "finish_by_at": None}
    return row


def is_due(row: Row, now: datetime) -> bool:
    """May a runner claim the row as soon as it is stored?"""
    is_claimed = row["type"] not in NOT_RUN_BY_A_RUNNER and not row["gated"]
    return is_claimed and row["status"] == TaskStatus.PENDING and row["run_at"] <= now
