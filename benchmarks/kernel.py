"""Microseconds per step and milliseconds per compilation of the statechart kernel, and what the orchestrator makes of its steps.

    python -m benchmarks.kernel

Prints one line per measurement: the median of several rounds of CPU time, with the aim beside it. Steps are taken on
snapshots that have been through JSON, as in the orchestrator, and alternate between two states so that each works.
A decided step is what the orchestrator does with one, without a database: from a locked row and an inbox row to all rows that the step writes, texts
and hashes included. Of `signalbox bench`'s workflow of three tasks, which takes four steps: `light`, as one batch that goes on from what its tasks
return, and `ordinary`, each a batch of its own that reads the snapshot of the one before.
Charts are loaded three times over: without expressions, with two new ones in each state, and with expressions that some
chart before had, as the next version of a definition has them. Python's collector does not look at what was there
before the benchmark, as in the processes that freeze it once they are up; what a chart leaves to it is measured.
"""

from __future__ import annotations

import gc
import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import statechart
from common.config import Limits
from common.db.tables import InboxType
from common.ids import DefinitionId, InstanceId, TenantId, WorkerId, new_id
from common.lifecycle import InstanceStatus
from common.queues.offers import Offer
from common.queues.told_task import ToldTask
from common.store import inbox
from common.store.inbox import InboxRow
from common.store.instances import GENESIS, LockedInstance
from common.store.leased import CalledHere
from orchestrator.batch import Batch
from orchestrator.charts import CompiledChart
from orchestrator.stepped import begin_instance, step_instance
from orchestrator.stepping import NO_CONFIG, StepLimits, light_end_body
from signalbox.bench import LIGHT_NOOP, steps_chart
from statechart import Chart, Env

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ENV = Env(NOW, {}, "seed")
Document = dict[str, object]

FLAT: Document = {
    "id": "flat",
    "initial": "idle",
    "context": {"count": 0},
    "states": {
        "idle": {
            "on": {
                "GO": {
                    "target": "busy",
                    "guard": "context.count < 1000000000",
                    "actions": [{"type": "assign", "path": "count", "value": "${context.count + 1}"}],
                }
            }
        },
        "busy": {"on": {"BACK": "idle"}},
    },
}

TASKS: Document = {
    "id": "tasks",
    "initial": "idle",
    "context": {"order": {"id": 7}},
    "states": {
        "idle": {
            "on": {
                "GO": {
                    "target": "busy",
                    "actions": [
                        {
                            "type": "createTask",
                            "task": {
                                "type": "orders.ship",
                                "name": "ship",
                                "input": {"id": "${context.order.id}"},
                            },
                        }
                    ],
                }
            }
        },
        "busy": {"on": {"done.task.ship": "idle"}},
    },
}

NESTED: Document = {
    "id": "nested",
    "initial": "a",
    "context": {"count": 0},
    "states": {
        "a": {
            "initial": "b",
            "exit": {"type": "assign", "path": "left", "value": True},
            "states": {
                "b": {
                    "initial": "c",
                    "entry": {"type": "assign", "path": "count", "value": "${context.count + 1}"},
                    "states": {"c": {}, "d": {}},
                }
            },
            "on": {"GO": {"target": "z", "guard": "context.count > 0"}},
        },
        "z": {"initial": "y", "states": {"y": {"on": {"BACK": "#nested.a.b.d"}}}},
    },
}

PARALLEL: Document = {
    "id": "parallel",
    "type": "parallel",
    "context": {"count": 0},
    "states": {
        name: {
            "initial": "off",
            "states": {
                "off": {
                    "on": {
                        "GO": {
                            "target": "on",
                            "actions": [{"type": "assign", "path": "count", "value": "${context.count + 1}"}],
                        }
                    }
                },
                "on": {"on": {"BACK": {"target": "off", "guard": "context.count > 0"}}},
            },
        }
        for name in ("left", "middle", "right")
    },
}


def plain(states: int, salt: int) -> Document:
    """A chart of that many states with two transitions each, and no expression."""
    return {
        "id": f"plain{salt}",
        "initial": "s0",
        "states": {
            f"s{index}": {"on": {"NEXT": f"s{(index + 1) % states}", "RESET": {"target": "s0"}}}
            for index in range(states)
        },
    }


def rich(states: int, salt: int) -> Document:
    """The same with a guard, an assign and an entry action each; `salt` makes every expression a new one."""
    return {
        "id": f"rich{salt}",
        "initial": "s0",
        "context": {"count": 0},
        "states": {
            f"s{index}": {
                "entry": {"type": "log", "message": f"entered {index}"},
                "on": {
                    "NEXT": {
                        "target": f"s{(index + 1) % states}",
                        "guard": f"context.count < {index + salt}",
                        "actions": [
                            {
                                "type": "assign",
                                "path": "count",
                                "value": f"${{context.count + {index + salt}}}",
                            }
                        ],
                    },
                    "RESET": "s0",
                },
            }
            for index in range(states)
        },
    }


def known(states: int, _salt: int) -> Document:
    """`rich` with the expressions of every other chart of this size."""
    return rich(states, 0)


def median_seconds(action: Callable[[], object], *, times: int, rounds: int = 7) -> float:
    """The median over `rounds` of the mean time of one call."""
    action()
    taken = []
    for _ in range(rounds):
        gc.collect()
        began = time.process_time()
        for _ in range(times):
            action()
        taken.append((time.process_time() - began) / times)
    return statistics.median(taken)


def stored(snapshot: dict[str, object]) -> dict[str, object]:
    restored: dict[str, object] = json.loads(json.dumps(snapshot))
    return restored


def two_steps(chart: Chart) -> Callable[[], None]:
    """GO and back again."""
    idle = stored(statechart.start(chart, {}, ENV).snapshot)
    go = {"type": "GO"}
    busy = stored(statechart.step(chart, idle, go, ENV).snapshot)
    back = next(({"type": "done.task.ship"} for _ in busy["tasks"] or ()), {"type": "BACK"})  # type: ignore[attr-defined]
    obligation = next(iter(busy["tasks"]), None)  # type: ignore[call-overload]

    def run() -> None:
        assert statechart.step(chart, idle, go, ENV).outcome == "applied"
        assert statechart.step(chart, busy, back, ENV, obligation=obligation).outcome == "applied"

    return run


WORKFLOW = steps_chart(3, LIGHT_NOOP)
STEPS = 4
COMPILED = CompiledChart(statechart.load(WORKFLOW), "c" * 64)
LIMITS = StepLimits(Limits().max_context_bytes, Limits().max_ai_events)
OFFER = Offer(
    WorkerId(new_id()), timedelta(seconds=30), {}, {LIGHT_NOOP: None}, 100, light=frozenset({LIGHT_NOOP})
)
FOR_EVER = float("inf")


def pending() -> LockedInstance:
    """An instance of the workflow that has not started."""
    return LockedInstance(
        id=InstanceId(new_id()), tenant_id=TenantId(new_id()), definition_id=DefinitionId(new_id()),
        definition_key=str(WORKFLOW["id"]), definition_version=1, business_key=None, status=InstanceStatus.PENDING,
        snapshot=None, error=None, sequence=0, head_hash=GENESIS, last_step_at=None, strikes=0, priority=0, parent_id=None,
        parent_key=None, depth=0, created_at=NOW, deadline_at=None, started_at=None, finished_at=None, concurrency_key=None,
        is_queued=False, now=NOW, limited_types=frozenset(),
    )  # fmt: skip


def start_row(held: LockedInstance) -> InboxRow:
    body = '{"context":null,"input":null}'
    return InboxRow(1, held.id, inbox.ORDINARY, InboxType.START, body, "bench", NOW)


def called(task: ToldTask) -> CalledHere:
    """How a no-op ended."""
    return CalledHere(OFFER.worker, task.token, NOW, NOW, "null")


def light_workflow() -> Callable[[], None]:
    """Four steps in one batch, to the rows that it writes."""
    held = pending()
    row = start_row(held)

    def run() -> None:
        stepped = begin_instance(LIMITS, held, [row], COMPILED, NOW, FOR_EVER, NO_CONFIG)
        while lent := stepped.light_tasks(lambda _type, _name: OFFER):
            for task, offer in lent:
                stepped.lend(task, offer)
                stepped.go_on(task, called(task))
        require_completed(stepped.settled())

    return run


def ordinary_workflow() -> Callable[[], None]:
    """Four steps in a batch each. Each has been taken once before, so that those after it have something to begin with."""
    held = pending()
    row = start_row(held)
    steps: list[tuple[LockedInstance, InboxRow]] = []
    while True:
        steps.append((held, row))
        batch = step_instance(LIMITS, held, [row], COMPILED, NOW, FOR_EVER, NO_CONFIG)
        tasks = batch.light_tasks(lambda _type, _name: OFFER, limited=frozenset())
        if not tasks:
            break
        [(task, _)] = tasks
        written = batch.instances[0]
        held = replace(
            held,
            status=InstanceStatus(written["status"]),
            **{
                name: written[name]
                for name in ("snapshot", "sequence", "head_hash", "last_step_at", "started_at")
            },
        )
        body = light_end_body(task, called(task))
        row = InboxRow(1, held.id, inbox.ORDINARY, InboxType.TASK, body, f"task:{task.id}", NOW)

    def run() -> None:
        for held, row in steps:
            batch = step_instance(LIMITS, held, [row], COMPILED, NOW, FOR_EVER, NO_CONFIG)
        require_completed(batch)

    return run


def require_completed(batch: Batch) -> None:
    [written] = batch.instances
    if (written["status"], written["sequence"]) != (InstanceStatus.COMPLETED, STEPS):
        raise ValueError(f"expected completed after {STEPS} steps, found {written}")


def main() -> None:
    gc.freeze()
    for document, aim in ((FLAT, 60), (TASKS, 60), (NESTED, 150), (PARALLEL, 150)):
        seconds = median_seconds(two_steps(statechart.load(document)), times=2_000) / 2
        print(f"step, {document['id']!s:9} {seconds * 1e6:8.1f} µs   (aim {aim})")
    for name, run in (("light", light_workflow()), ("ordinary", ordinary_workflow())):
        seconds = median_seconds(run, times=500) / STEPS
        print(f"decided step, {name:8} {seconds * 1e6:7.1f} µs")
    for make, states, aim_ms in (
        (plain, 10, 1),
        (plain, 200, 10),
        (rich, 10, 1),
        (rich, 200, 10),
        (known, 200, 10),
    ):
        salts = itertools.count(1_000_000, 1_000_000)
        documents = (make(states, salt) for salt in salts)
        seconds = median_seconds(lambda documents=documents: statechart.load(next(documents)), times=10)  # type: ignore[misc]
        print(f"load {make.__name__:5}, {states:3} states {seconds * 1e3:8.2f} ms   (aim {aim_ms})")


if __name__ == "__main__":
    main()
