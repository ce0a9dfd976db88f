"""How long a MAP over no-op items takes, from its start to its end, and what memory the workers take for it.

    python -m benchmarks.fan_out                 PostgreSQL from the wheel, fsync on: 1,000 and 10,000 items
    python -m benchmarks.fan_out --embedded      SQLite
    python -m benchmarks.fan_out -n 1000 --rounds 5 --json

A stack of its own with the workers that `signalbox up` runs there (the memory of one in reserve is not told); seconds are those of the rows, from the instance's
`created_at` to its `finished_at`, the median of several rounds. `ratio` is what ten times the items cost: 10 is linear.
Memory is the most that a worker process ever held (VmHWM), and what the largest MAP added to it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.stacks import application_database, begin, start, tell, write_report
from common.commands.definitions import apply_definition
from common.config import Limits
from common.db import Database
from common.ids import TenantId
from common.store import keys, listing
from signalbox.bench import Options, bench_stack
from signalbox.machine import describe_machine
from signalbox.stack import Stack

HANDLERS = ("light", "ordinary")
WORKERS = ("orchestrator", "task-runner")
PATIENCE_SECONDS = 120.0


def chart(kind: str) -> dict[str, Any]:
    """A MAP of no-op tasks over the list that it is started with."""
    items = {"items": "${input.items}", "task": {"type": f"bench.{kind}", "input": "${item}"}}
    return {
        "id": f"fan-out-{kind}",
        "initial": "mapping",
        "states": {
            "mapping": {"invoke": {"src": "MAP", "input": items, "onDone": "done"}},
            "done": {"type": "final"},
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fan_out", description=__doc__.splitlines()[0])
    parser.add_argument("-n", "--items", type=int, action="append", help="how many (1,000 and 10,000)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--embedded", action="store_true", help="on SQLite, as `signalbox up` runs")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    begin()
    report = measure(asked.items or [1_000, 10_000], asked.rounds, is_embedded=asked.embedded)
    write_report(report, as_json=asked.json)


def measure(sizes: list[int], rounds: int, *, is_embedded: bool) -> dict[str, Any]:
    """Seconds and megabytes for each kind of handler and number of items."""
    os.environ["SIGNALBOX_HANDLERS"] = "benchmarks.fan_out_handlers"
    options = Options(instances=1, steps=1, modes=(), where="embedded" if is_embedded else "postgres")
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="signalbox-fan-out-")))
        stack = ending.enter_context(bench_stack(options, folder, tell))
        database = application_database(stack, ending)
        tenant_id = _apply(database)
        report: dict[str, Any] = {
            "machine": describe_machine(),
            "database": "SQLite" if is_embedded else "PostgreSQL from the wheel, fsync on",
        }
        for kind in HANDLERS:
            _one(stack, database, tenant_id, kind, 100)
            before = _peaks(stack)
            for size in sizes:
                taken = [_one(stack, database, tenant_id, kind, size) for _ in range(rounds)]
                report[f"{kind}, {size:,} items, seconds"] = round(median(taken), 3)
            first, last = (report[f"{kind}, {size:,} items, seconds"] for size in (sizes[0], sizes[-1]))
            if len(sizes) > 1:
                report[f"{kind}, ratio"] = round(last / first, 1)
            for worker, peak in _peaks(stack).items():
                report[f"{kind}, {worker}, peak MB"] = f"{peak:.0f} (+{peak - before[worker]:.0f})"
        return report


def _apply(database: Database) -> TenantId:
    with database.transaction() as tx:
        tenant_id = keys.ensure_tenant(tx, "bench")
        for kind in HANDLERS:
            apply_definition(tx, tenant_id, chart(kind), actor="bench", limits=Limits())
    return tenant_id


def _one(stack: Stack, database: Database, tenant_id: TenantId, kind: str, size: int) -> float:
    """The seconds of one MAP over `size` items."""
    instance_id = start(database, tenant_id, f"fan-out-{kind}", {"items": list(range(size))})
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        stack.tick()
        with database.reading() as tx:
            record = listing.read_instance(tx, tenant_id, instance_id)
        if record is not None and record.finished_at is not None:
            return (record.finished_at - record.created_at).total_seconds()
        time.sleep(0.05)
    raise SystemExit(f"a MAP over {size:,} items did not end within {PATIENCE_SECONDS:g} s")


def _peaks(stack: Stack) -> dict[str, float]:
    """The most memory that each worker process ever held, in MB."""
    found = {}
    for worker in WORKERS:
        pid = stack.supervisor.pid(worker)
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8") if pid is not None else ""
        lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        found[worker] = int(lines[0].split()[1]) / 1_000 if lines else 0.0
    return found


if __name__ == "__main__":
    main()
