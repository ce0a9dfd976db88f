"""New tasks of a batch whose handlers a runner is asked to call before they are stored (`light_calls.py`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from common.canonical import read
from common.ids import LeaseToken
from common.queues.offers import Offer
from common.queues.told_task import ToldTask
from common.store.leased import CalledHere

Row: TypeAlias = dict[str, Any]
CallerOf: TypeAlias = Callable[[str, str], Offer | None]
"""Finds the offer of who calls the handler of a type and name for a step; None where nobody does."""


@dataclass
class LentTasks:
    """`out` are those that a runner may have called, by id, with its offer and the token of their leases; `ended` is what has succeeded."""

    asked: set[str] = field(default_factory=set)
    out: dict[str, tuple[Offer, LeaseToken]] = field(default_factory=dict)
    ended: list[tuple[Row, CalledHere]] = field(default_factory=list)

    def lend(self, task: ToldTask, offer: Offer) -> None:
        self.asked.add(task.id)
        self.out[task.id] = (offer, task.token)

    def take_back(self, task: ToldTask) -> None:
        self.out.pop(task.id, None)

    def end(self, row: Row, called: CalledHere) -> None:
        """A task has succeeded, and is stored as such."""
        offer, _ = self.out.pop(row["id"])
        allow_attempts(row, offer)
        self.ended.append((row, called))

    def merge(self, other: LentTasks) -> None:
        self.out.update(other.out)
        self.ended += other.ended


def is_plain(row: Mapping[str, Any]) -> bool:
    """Does a new task ask for nothing beside a call of its handler? What bounds its time, and what must not be done twice, needs a lease."""
    return (
        row["asked_as"] is None
        and row["limit_key"] is None
        and row["idempotency_key"] is None
        and row["secrets"] is None
        and row["timeout_ms"] is None
        and row["heartbeat_ms"] is None
        and not row["held"]
        and not is_once(row)
    )


def is_once(row: Mapping[str, Any]) -> bool:
    """Must nobody do the task again once its lease is lost?"""
    return row["options"] is not None and read(row["options"]).get("onLost") == "fail"


def allow_attempts(row: Row, offer: Offer) -> None:
    """Where neither the task nor its definition says how often it may be tried, its handler does."""
    allowed = offer.max_attempts(row["type"], row["name"])
    if row["retry"] is None and allowed is not None:
        row["max_attempts"] = allowed


def told_task(row: Mapping[str, Any], token: LeaseToken) -> ToldTask:
    """What a runner is told of a new task that is leased to it under `token`, or will be."""
    return ToldTask(
        row["id"], token, row["tenant_id"], row["instance_id"], row["key"], row["type"], row["name"],
        row["max_attempts"], row["input"], row["retry"], row["options"], row["completion_event"], row["failure_event"],
        row["created_at"],
    )  # fmt: skip
