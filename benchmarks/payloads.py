"""What the size of the data costs: workflows whose input, task, event and context carry 1 KB to 1 MB.

    python -m benchmarks.payloads --postgres           a real PostgreSQL with fsync, and Valkey
    python -m benchmarks.payloads                      the embedded database
    python -m benchmarks.payloads --kilobytes 1 --kilobytes 100 --rounds 5 --json

One workflow is started with a payload, hands it to a task that returns it, keeps the result in its context, and ends with an event that
carries as much again and replaces it. So the payload is accepted twice, stored in snapshot, task and history, loaded for each of three steps
and goes to a handler and back. Sizes take turns, round by round. CPU time is counted by process; the latency is that of one workflow at a
time, its start to its waiting and the event to its end. `stored KB` is what a workflow leaves in the database, dead versions of rows included;
the text is random, which leaves little to compress.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.stacks import (
    CALLER,
    application_database,
    await_ended,
    begin,
    cpu_by_part,
    start,
    tell,
    write_report,
)
from common.commands.definitions import apply_definition
from common.commands.send import send_event
from common.config import limits_of_process
from common.db import Database
from common.ids import InstanceId, TenantId
from common.lifecycle import InstanceStatus
from common.store import keys, listing
from signalbox.bench import TENANT, Options, bench_stack
from signalbox.machine import describe_machine
from signalbox.stack import Stack

KILOBYTES = (1, 10, 100, 1_000)
PATIENCE_SECONDS = 60.0
BYTES_A_ROUND = 4_000_000
FEWEST, MOST = 4, 100
"""Workflows in a round: as many as carry so many bytes, within these."""
CHART = {
    "id": "carrier",
    "initial": "working",
    "context": {"kept": None},
    "states": {
        "working": {
            "invoke": {
                "src": "bench.echo",
                "input": {"data": "${input.data}"},
                "onDone": {
                    "target": "waiting",
                    "actions": {"type": "assign", "path": "kept", "value": "${event.output.data}"},
                },
            }
        },
        "waiting": {
            "on": {
                "GO": {
                    "target": "done",
                    "actions": {"type": "assign", "path": "kept", "value": "${event.data}"},
                }
            }
        },
        "done": {"type": "final"},
    },
}


@dataclass
class Carrier:
    """Workflows of one size."""

    stack: Stack
    database: Database
    tenant_id: TenantId
    kilobytes: int
    rounds: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.first, self.second = _text(self.kilobytes, 1), _text(self.kilobytes, 2)

    @property
    def count(self) -> int:
        return max(FEWEST, min(MOST, BYTES_A_ROUND // (1_000 * self.kilobytes)))

    def measure(self) -> None:
        """One round, one workflow after the other."""
        stored, before = self._stored(), cpu_by_part(self.stack)
        took = [self._run() for _ in range(self.count)]
        after = cpu_by_part(self.stack)
        used = {part: 1_000 * (after[part] - before[part]) / self.count for part in after}
        figures = {
            "CPU ms": sum(used.values()),
            **{f"CPU ms of {part}": one for part, one in used.items() if part != CALLER},
            "CPU ms of its caller": used[CALLER],
            "ms, start to event and event to end": 1_000 * median(took),
            "stored KB": (self._stored() - stored) / 1_000 / self.count,
        }
        self.rounds.append(figures)
        tell(f"{self.kilobytes:,} KB: {figures['CPU ms']:.1f} ms of CPU, {1_000 * median(took):.0f} ms")

    def _run(self) -> float:
        began = time.monotonic()
        instance_id = start(self.database, self.tenant_id, str(CHART["id"]), {"data": self.first})
        self._await(instance_id, InstanceStatus.WAITING)
        waited = time.monotonic() - began
        event = {"type": "GO", "data": self.second}
        began = time.monotonic()
        self.database.run(
            lambda tx: send_event(
                tx, self.tenant_id, instance_id, event, actor="bench", limits=limits_of_process()
            )
        )
        await_ended(self.stack, self.database, self.tenant_id, [instance_id])
        return waited + time.monotonic() - began

    def _await(self, instance_id: InstanceId, status: InstanceStatus) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            self.stack.tick()
            with self.database.reading() as tx:
                record = listing.read_instances(tx, self.tenant_id, [instance_id])[instance_id]
            if record.status is status:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f'{self.kilobytes} KB: expected "{status}", found "{record.status}"; error: {record.error}'
                )
            time.sleep(0.01)

    def _stored(self) -> int:
        """Bytes of the database, without its log."""
        is_postgres = self.database.engine.dialect.name == "postgresql"
        query = (
            "SELECT pg_database_size(current_database())"
            if is_postgres
            else "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
        )
        with self.database.reading() as tx:
            return int(tx.exec_driver_sql(query).scalar_one())


def _text(kilobytes: int, seed: int) -> str:
    """Hexadecimal digits, somewhat less: the limit of 1 MB counts what stands around them too."""
    return random.Random(seed).randbytes(500 * kilobytes - 50).hex()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.payloads", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--kilobytes", type=int, action="append", help="of each payload, at most 1,000; once a size"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--postgres", action="store_true", help="a real PostgreSQL from the wheel, fsync on")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    begin()
    report = measure(asked.kilobytes or KILOBYTES, asked.rounds, is_postgres=asked.postgres)
    write_report(report, as_json=asked.json)


def measure(sizes: Sequence[int], rounds: int, *, is_postgres: bool) -> dict[str, Any]:
    """The medians of each size."""
    os.environ["SIGNALBOX_HANDLERS"] = "benchmarks.payload_handlers"
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="signalbox-payloads-")))
        options = Options(instances=0, steps=1, modes=(), where="postgres" if is_postgres else "embedded")
        stack = ending.enter_context(bench_stack(options, folder, tell))
        database = application_database(stack, ending)
        with database.transaction() as tx:
            tenant_id = keys.ensure_tenant(tx, TENANT)
            apply_definition(tx, tenant_id, CHART, actor="bench", limits=limits_of_process())
        carriers = [Carrier(stack, database, tenant_id, size) for size in sizes]
        for carrier in carriers:  # what is compiled and prepared once
            carrier.measure()
            carrier.rounds.clear()
        for _ in range(rounds):
            for carrier in carriers:
                carrier.measure()
        return {
            "machine": describe_machine(),
            "database": "PostgreSQL, fsync on" if is_postgres else "SQLite",
            "rounds": rounds,
            "medians": [
                {
                    "payload KB": carrier.kilobytes,
                    "workflows a round": carrier.count,
                    **{
                        name: round(median(one[name] for one in carrier.rounds), 1)
                        for name in carrier.rounds[0]
                    },
                }
                for carrier in carriers
            ],
        }


if __name__ == "__main__":
    main()
