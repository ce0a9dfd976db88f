"""What a parent with a child costs, beside two instances that are started separately.

    python -m benchmarks.children                                  a SQLite file
    python -m benchmarks.children --database postgresql://…/empty  a database without anything in it

Everything runs in this process, one transaction after another: the starts as an application makes them, then the steps in
batches as the orchestrator makes them. A leaf completes in its first step. Separately: two starts, two steps. As parent
and child: one start, three steps (the parent starts its child, the child completes, the parent hears of it). Told are
milliseconds for each pair, the median of several rounds, which take turns so that a busy machine is busy for both.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Any

from common.commands.definitions import apply_definition
from common.commands.start import Start, start_instance
from common.config import Limits
from common.db import Database
from common.db.migrate import upgrade
from common.ids import TenantId
from common.observability import configure_logging
from common.store import keys
from orchestrator.advance import advance_ready
from orchestrator.advancing import Advancing

LEAF = {"id": "leaf", "initial": "done", "states": {"done": {"type": "final"}}}
PARENT = {
    "id": "parent",
    "initial": "waiting",
    "states": {
        "waiting": {
            "entry": {"type": "startWorkflow", "definitionKey": "leaf"},
            "on": {"done.workflow.leaf": "done"},
        },
        "done": {"type": "final"},
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.children", description=__doc__.splitlines()[0]
    )
    parser.add_argument("-n", "--pairs", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--database", metavar="URL", help="an empty database of your own")
    asked = parser.parse_args()
    configure_logging("bench", level="WARNING")
    with ExitStack() as ending:
        folder = ending.enter_context(tempfile.TemporaryDirectory())
        database = Database.open(asked.database or f"sqlite:///{folder}/bench.db")
        ending.callback(database.dispose)
        upgrade(database)
        for name, value in measure(database, asked.pairs, asked.rounds).items():
            sys.stdout.write(f"{name:>42}  {value}\n")


def measure(database: Database, pairs: int, rounds: int) -> dict[str, Any]:
    """Milliseconds for each pair, wall clock and this process's CPU: starts and steps apart."""
    limits = Limits()
    advancing = Advancing(database, limits.max_context_bytes, limits=limits)
    with database.transaction() as tx:
        tenant_id = keys.ensure_tenant(tx, "bench")
        for document in (LEAF, PARENT):
            apply_definition(tx, tenant_id, document, actor="bench", limits=limits)
    taken: dict[str, list[float]] = {}
    for turn in range(rounds + 1):
        for name, key, count in (("separately", "leaf", 2 * pairs), ("parent and child", "parent", pairs)):
            parts: dict[str, Callable[[], None]] = {
                "starts": partial(start_all, database, tenant_id, key, count, limits),
                "steps": partial(advance_all, advancing),
            }
            for part, work in parts.items():
                wall, cpu = timed(work)
                if turn:  # the first round warms up
                    taken.setdefault(f"{name}, {part}, wall ms", []).append(wall / pairs * 1000)
                    taken.setdefault(f"{name}, {part}, CPU ms", []).append(cpu / pairs * 1000)
    figures: dict[str, Any] = {name: round(median(values), 2) for name, values in taken.items()}
    for kind in ("wall", "CPU"):
        separately, together = (
            figures[f"{name}, starts, {kind} ms"] + figures[f"{name}, steps, {kind} ms"]
            for name in ("separately", "parent and child")
        )
        figures[f"parent and child : separately, {kind}"] = f"{together:.2f} : {separately:.2f} ms"
    return figures


def start_all(database: Database, tenant_id: TenantId, key: str, count: int, limits: Limits) -> None:
    for _ in range(count):
        with database.transaction() as tx:
            start_instance(tx, tenant_id, Start(definition_key=key), actor="bench", limits=limits)


def advance_all(advancing: Advancing) -> None:
    done = advance_ready(advancing, until=time.monotonic() + 600)
    if done.more:
        raise RuntimeError("the steps took longer than ten minutes")


def timed(work: Callable[[], None]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()
