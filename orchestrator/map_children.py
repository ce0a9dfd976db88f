"""Starting the children of MAPs: an item that is a workflow waits as a row until its turn, and is started from that row.

Whatever let it have its turn (its MAP's step, the end of another child, a resume) only commits the row; who looks finds
it. So a crash in between loses nothing, and an item that cannot be started is counted as any other that failed.

An item whose MAP was retried may have a child: one that stands with an incident is retried where it stands, so that nothing is done
twice; one that still runs, or has completed meanwhile, is taken as it is; in the place of one that has ended otherwise another is started.
What a child is about is looked at under its lock. Where somebody holds it the item waits for the next look: it may be ending this
very moment, and whoever ends it has to find the item open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sqlalchemy import Connection

from common import faults
from common.canonical import dumps, read
from common.commands.control import retry_instance
from common.commands.outcome import WorkflowEnd, end_workflow_items
from common.config import Limits
from common.db import ORCHESTRATOR_QUEUE, Database, note_bell
from common.db.now import read_now
from common.errors import Conflict
from common.ids import InstanceId, TaskId, new_id
from common.lifecycle import InstanceStatus
from common.store import inbox, instances, joins
from common.store.instances import LockedInstance
from common.store.joins import StartableItem
from orchestrator.children import Children, error_of, item_output, name_of
from statechart.effects import StartWorkflow

BATCH = 100


def start_items(database: Database, limits: Limits) -> int:
    """Start the children whose turn has come, 100 a transaction, until none is left; returns how many were taken up."""
    taken = 0
    while count := database.run(lambda tx: _start_batch(tx, limits)):
        taken += count
        if count < BATCH:
            break
    return taken


def _start_batch(tx: Connection, limits: Limits) -> int:
    now = read_now(tx)
    items = joins.lock_startable(tx, limit=BATCH, now=now)
    if not items:
        return 0
    turns = _turns(tx, items)
    children = Children()
    for item in turns.starting:
        children.ask(item, wanted_child(item))
    again = {item.task_id: item.child_id for item in turns.starting if item.is_again}
    joins.begin(tx, [item.task_id for item in turns.starting if not item.is_again])
    joins.begin_again(tx, again | turns.going_on)
    inbox.put(tx, children.save(tx, limits=limits, now=now))
    refused = [WorkflowEnd.failed(*one) for one in children.refused_items]
    end_workflow_items(tx, [*refused, *turns.ended], now=now)
    note_bell(tx, ORCHESTRATOR_QUEUE)
    faults.hit("before_items_commit")
    return turns.taken


@dataclass
class _Turns:
    """What becomes of items that have their turn."""

    starting: list[StartableItem] = field(default_factory=list)
    going_on: dict[TaskId, InstanceId] = field(default_factory=dict)
    ended: list[WorkflowEnd] = field(default_factory=list)

    @property
    def taken(self) -> int:
        return len(self.starting) + len(self.going_on)


def _turns(tx: Connection, items: Sequence[StartableItem]) -> _Turns:
    turns, given_up = _Turns([item for item in items if not item.is_again]), []
    again = [item for item in items if item.is_again]
    if not again:
        return turns
    wanted = [item.child_id for item in again]
    free = {child.id: child for child in instances.lock_ready(tx, wanted)}
    held = instances.present(tx, wanted) - free.keys()
    for item in again:
        if item.child_id in held:
            continue
        way = way_of(free.get(item.child_id))
        if way == "anew":
            given_up.append(item.child_id)
            turns.starting.append(replace(item, options=dumps({"again": True, "instanceId": new_id()})))
            continue
        turns.going_on[item.task_id] = item.child_id
        end = _gone_on(tx, item, free[item.child_id], way)
        if end is not None:
            turns.ended.append(end)
    instances.disown(tx, given_up)
    return turns


def _gone_on(tx: Connection, item: StartableItem, child: LockedInstance, way: Way) -> WorkflowEnd | None:
    """Let an item go on with the child that it has; its end, where that is known now."""
    if way == "take":
        return completed(item, child)
    if way == "retry":
        try:
            retry_instance(tx, item.tenant_id, child.id, reason=RETRIED, actor=name_of(item.id))
        except Conflict as refused:  # there is no place for it, or another holds its business key
            return WorkflowEnd.failed(item.id, item.key, error_of(refused))
    return None


Way = Literal["anew", "take", "retry", "wait"]
RETRIED = "the MAP of its parent is tried again"


def way_of(child: LockedInstance | None) -> Way:
    """How an item whose MAP was retried comes to its end, by the child that it has: `anew` is another in its place."""
    if child is None or child.status in (InstanceStatus.CANCELLED, InstanceStatus.TIMED_OUT):
        return "anew"
    if child.status is InstanceStatus.COMPLETED:
        return "take"
    if child.status is not InstanceStatus.FAILED:
        return "wait"
    # A machine that ended with an error of its own, or has been undone, has nothing to go on from.
    has_ended = child.snapshot is not None and read(child.snapshot)["status"] == "error"
    return "anew" if has_ended else "retry"


def completed(item: StartableItem, child: LockedInstance) -> WorkflowEnd:
    """The end of an item whose child completed while its MAP stood still."""
    snapshot: Mapping[str, Any] = {} if child.snapshot is None else read(child.snapshot)
    return WorkflowEnd(item.id, item.key, item_output(child.id, snapshot.get("output")), None)


def wanted_child(item: StartableItem) -> StartWorkflow:
    """What the step asked for, as the row keeps it."""
    asked: dict[str, Any] = read(item.input)
    return StartWorkflow(
        key=item.key,
        definition_key=asked["definitionKey"],
        version=asked.get("version"),
        input=asked.get("input"),
        business_key=asked.get("businessKey"),
        wait=True,
        cancel_with_parent=asked.get("cancelWithParent", True),
        completion_event="",
        failure_event="",
        instance_id=item.child_id,
        priority=item.priority,
    )
