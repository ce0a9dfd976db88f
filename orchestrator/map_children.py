"""Starting the children of MAPs: an item that is a workflow waits as a row until its turn, and is started from that row.

Whatever let it have its turn (its MAP's step, the end of another child, a resume) only commits the row; who looks finds
it. So a crash in between loses nothing, and an item that cannot be started is counted as any other that failed.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from common import faults
from common.canonical import read
from common.commands.outcome import WorkflowEnd, end_workflow_items
from common.config import Limits
from common.db import ORCHESTRATOR_QUEUE, Database, note_bell
from common.db.now import read_now
from common.store import inbox, joins
from common.store.joins import StartableItem
from orchestrator.children import Children
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
    children = Children()
    for item in items:
        children.ask(item, wanted_child(item))
    joins.begin(tx, [item.task_id for item in items])
    inbox.put(tx, children.save(tx, limits=limits, now=now))
    end_workflow_items(tx, [WorkflowEnd.failed(*one) for one in children.refused_items], now=now)
    note_bell(tx, ORCHESTRATOR_QUEUE)
    faults.hit("before_items_commit")
    return len(items)


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
        instance_id=read(item.options or "{}")["instanceId"],
        priority=item.priority,
    )
