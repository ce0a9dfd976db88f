"""The saga of the chaos suite: a chart of which everything is undone in the end, by a failure or by a cancel.

A task, two regions side by side with a task each, a child; each says how it is undone. It hears ADD, LATER and CLOSE as the
other charts do. At CLOSE it does what always fails, so that what was done is undone and the instance is failed; an operator
then cancels what is over. A story that cancels it does so at any moment, also while results are on their way.

`judge_sagas` compares what succeeded with what was undone: each once, last first, one after the other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from tests.support.audit import Entry
from tests.support.chaos_chart import CHART, CHILD_KEY, Document, assign
from tests.support.cluster import Cluster

KEY = "chaos-saga"
AMOUNTS = {"first": 1, "left": 10, "right": 100, "child": 10_000}
SUM = sum(AMOUNTS.values())
REFUSED = "chaos.refused"
"""The code of the failure that undoes everything."""


def _work(name: str, ms: int, target: str) -> dict[str, Any]:
    undo = {"type": "chaos.work", "name": f"undo-{name}", "input": {"amount": "${output.amount}", "ms": 60}}
    done = {"target": target, "actions": [assign("sum", "${context.sum + event.output.amount}")]}
    given = {"amount": AMOUNTS[name], "ms": ms}
    invoke = {"src": "chaos.work", "id": name, "name": name, "input": given}
    return {"invoke": {**invoke, "onDone": done, "compensate": undo}}


def _region(name: str, ms: int) -> dict[str, Any]:
    return {
        "initial": "working",
        "states": {"working": _work(name, ms, "worked"), "worked": {"type": "final"}},
    }


_CHILD = {
    "src": "WORKFLOW",
    "id": "child",
    "name": "child",
    "input": CHART["states"]["child"]["invoke"]["input"],
    "compensate": {"type": "chaos.work", "name": "undo-child", "input": {"amount": 0, "ms": 60}},
    "onDone": {"target": "open", "actions": [assign("sum", "${context.sum + event.output.output.amount}")]},
}
SAGA: Document = {
    **CHART,
    "id": KEY,
    # A task that was lost too often says nothing about what it was to do: an operator retries it.
    "compensation": {"except": ["task.lost"]},
    "states": {
        "first": {**_work("first", 200, "both"), "entry": CHART["states"]["first"]["entry"][:1]},
        "both": {
            "type": "parallel",
            "states": {"left": _region("left", 250), "right": _region("right", 80)},
            "onDone": "child",
        },
        "child": {"invoke": _CHILD},
        "open": {"always": {"target": "refused", "guard": "context.closed && context.later == 1"}},
        "refused": {"invoke": {"src": "chaos.refuse", "retry": {"maxAttempts": 1}, "onDone": "done"}},
        "done": {"type": "final"},
    },
}


def judge_sagas(cluster: Cluster, entries: Sequence[Entry]) -> Iterator[str]:
    """What is wrong with how sagas were undone."""
    sagas = {str(row[0]) for row in cluster.query(f"SELECT id FROM instances WHERE definition_key = '{KEY}'")}
    done: dict[str, list[str]] = defaultdict(list)
    undone: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        for change in entry.changes if entry.instance_id in sagas else ():
            if change["type"] == "compensation.registered":
                done[entry.instance_id].append(change["undoes"])
            if change["type"] == "compensation.task.done":
                undone[entry.instance_id].append(change["undoes"])
    succeeded: dict[str, list[str]] = defaultdict(list)
    spans: dict[str, list[tuple[Any, Any, str]]] = defaultdict(list)
    for instance_id, name, started, finished in cluster.query(
        # From its first claim: a step reads the time before it reads its inbox, and so may create a task
        # a moment before the outcome that asked for it.
        "SELECT instance_id, name, (SELECT min(started_at) FROM attempts WHERE task_id = tasks.id), finished_at "
        "FROM tasks WHERE status = 'succeeded' AND type <> 'WORKFLOW'"
    ):
        if str(instance_id) in sagas and name.startswith("undo-"):
            spans[str(instance_id)].append((started, finished, name))
        elif str(instance_id) in sagas:
            succeeded[str(instance_id)].append(name)
    # The task of a child that completes while it is being cancelled is cancelled: the child itself says whether it was done.
    for (parent_id,) in cluster.query(
        f"SELECT parent_id FROM instances WHERE definition_key = '{CHILD_KEY}' AND status = 'completed'"
    ):
        if str(parent_id) in sagas:
            succeeded[str(parent_id)].append("child")
    for saga in sorted(sagas):
        if sorted(done[saga]) != sorted(succeeded[saga]):
            yield f"saga {saga} did {succeeded[saga]} and registered {done[saga]}"
        if undone[saga] != list(reversed(done[saga])):
            yield f"saga {saga} did {done[saga]} and undid {undone[saga]}"
        rows = sorted(spans[saga])
        if [name for _, _, name in rows] != [f"undo-{name}" for name in undone[saga]]:
            yield f"saga {saga} undid {undone[saga]}, its tasks are {rows}"
        if any(before[1] > after[0] for before, after in pairwise(rows)):
            yield f"saga {saga} undid two things at once: {rows}"
