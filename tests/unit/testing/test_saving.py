"""What the orchestrator collects is all that the kit saves: something new there has to be taught here too."""

from dataclasses import fields
from datetime import UTC, datetime

from common.db.tables import tasks, timers
from orchestrator.batch import Batch
from orchestrator.children import Children
from signalbox.testing.memory import Task, Timer

BATCH = {
    "now", "history", "instances", "consumed", "parked", "frozen", "thawed", "released", "steps", "due_tasks", "children",
    "_tasks", "_asked_again", "_timers", "_cancelled_tasks", "_open_tasks", "_cancelled_timers", "sends", "_incidents",
    "_resolved", "_retried_tasks", "_skipped_tasks", "_maps", "_left_over", "asked_models", "_assigned",
    "taken_back",
    "_opened",  # lines of a log
    "emitted",  # told by the history: the kit asks no triggers
    "_limits",  # the kit runs task after task, as the test says: no limit is ever full
    "asking", "vacated",  # places: the kit starts one instance, which has one
    "limited", "handed", "told", "lent",  # nobody offers the kit anything
    "_origin",  # what ids are made of
    "ended", "unstored",  # nor tells it how a task ended
    "erasures",  # which nobody asks for: the kit has no erasure
}  # fmt: skip
LEFT_OUT = {
    "breaker",
    "breaker_since",
    "tenant_id",
    "secrets",
    "created_at",
    "lease_owner",
    "lease_token",
    "lease_expires_at",
}
"""Columns that no decision of the kit reads: there is one tenant, and a lease is the attempt that runs."""


def names(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}


def test_a_batch_collects_what_saving_knows() -> None:
    assert names(Batch) == BATCH, "teach signalbox/testing/saving.py what is new, then this test"
    assert names(Children) == {
        "_asked", "_cancelled", "_telling", "_ended", "_ended_tasks", "ended_items", "refused_items",
    }  # fmt: skip


def test_a_task_in_memory_has_the_columns_of_the_table() -> None:
    assert {column.name for column in tasks.columns} - LEFT_OUT - names(Task) == set()


def test_a_timer_in_memory_has_the_columns_of_the_table() -> None:
    known = names(Timer) | {"id", "tenant_id", "status", "created_at", "finished_at"}
    assert {column.name for column in timers.columns} - known == set()
    timer = Timer("i", "k", datetime(2026, 1, 1, tzinfo=UTC), "timer", "{}")  # type: ignore[arg-type]
    assert timer.key == "k"
