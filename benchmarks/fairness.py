"""What a quiet tenant notices of one that floods the engine: its latency alone, and beside 100,000 due tasks, in one run.

    python -m benchmarks.fairness --postgres           a real PostgreSQL with fsync, and Valkey
    python -m benchmarks.fairness                      the embedded database
    python -m benchmarks.fairness -n 20000 --seconds 30 --rate 2 --json

The quiet tenant starts workflows of three no-op steps at a steady rate, first with the engine for itself. Then the
other tenant's instances are put into the database (one, stepped to its first task before, is copied in SQL, so that they are all due at
once), and the quiet tenant goes on as before. Latencies are from `created_at` to `finished_at`, on the database's clock; the two workers are
one process each. With `--restart` they end and come back with the flood, and know nobody any more.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.copies import copy_instance
from benchmarks.stacks import application_database, begin, start, tell, write_report
from common.commands.definitions import apply_definition
from common.config import Limits
from common.db import Database
from common.db.tables import instances, tasks
from common.ids import InstanceId, TenantId
from common.store import keys, listing
from orchestrator.advance import advance_ready
from orchestrator.advancing import Advancing
from signalbox.bench import Options, bench_stack, steps_chart
from signalbox.cli.follow import ENDED
from signalbox.machine import describe_machine
from signalbox.measure import Latency, latency
from signalbox.stack import Stack

WARM_UP = 20
SETTLE_SECONDS = 3.0
PATIENCE_SECONDS = 120.0
CHART = steps_chart(3)
NEVER = "2999-01-01 00:00:00.000000"


@dataclass(frozen=True)
class Quiet:
    """The tenant that starts a few workflows a second."""

    stack: Stack
    database: Database
    tenant_id: TenantId
    rate: float

    def measure(self, seconds: float) -> Latency:
        """Start workflows for so long, one each 1/rate seconds whatever became of the others, and wait until all have ended."""
        ids: list[str] = []
        began = time.monotonic()
        for number in range(max(round(seconds * self.rate), 1)):
            time.sleep(max(began + number / self.rate - time.monotonic(), 0.0))
            self.stack.tick()
            ids.append(self.start())
        return latency(self.await_all(ids))

    def start(self) -> str:
        return start(self.database, self.tenant_id, str(CHART["id"]))

    def await_all(self, ids: list[str]) -> list[float]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            self.stack.tick()
            with self.database.reading() as tx:
                found = listing.read_instances(tx, self.tenant_id, ids)
            if all(found[one].status in ENDED for one in ids):
                return [_milliseconds(found[one]) for one in ids]
            if time.monotonic() > deadline:
                left = sum(found[one].status not in ENDED for one in ids)
                raise TimeoutError(
                    f"{left} of {len(ids)} quiet workflows have not ended after {PATIENCE_SECONDS:g} s"
                )
            time.sleep(0.1)


def _milliseconds(record: listing.InstanceRecord) -> float:
    if record.finished_at is None:
        raise ValueError(f'instance {record.id} is "{record.status}" and has no end')
    return (record.finished_at - record.created_at).total_seconds() * 1_000


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fairness", description=__doc__.splitlines()[0]
    )
    parser.add_argument("-n", "--tasks", type=int, default=100_000, help="due tasks of the other tenant")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long either is measured")
    parser.add_argument("--rate", type=float, default=2.0, help="workflows a second of the quiet tenant")
    parser.add_argument("--restart", action="store_true", help="the workers, as the flood begins")
    parser.add_argument("--postgres", action="store_true", help="a real PostgreSQL from the wheel, fsync on")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    begin()
    report = measure(
        asked.tasks, asked.seconds, asked.rate, is_postgres=asked.postgres, restarts=asked.restart
    )
    write_report(report, as_json=asked.json)


def measure(
    due: int, seconds: float, rate: float, *, is_postgres: bool, restarts: bool = False
) -> dict[str, Any]:
    options = Options(instances=due, steps=3, modes=(), where="postgres" if is_postgres else "embedded")
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="signalbox-fairness-")))
        stack = ending.enter_context(bench_stack(options, folder, tell))
        database = application_database(stack, ending)
        stack.stop_workers()
        flooding, first = _put_off(database)
        _start_workers(stack)
        quiet = Quiet(stack, database, _tenant(database, "quiet"), rate)
        quiet.await_all([quiet.start() for _ in range(WARM_UP)])
        alone = quiet.measure(seconds)
        tell(f"alone: p50 {alone.p50:.1f} ms, p99 {alone.p99:.1f} ms")
        if restarts:
            stack.stop_workers()
        copy_instance(
            database,
            first,
            due,
            tables=(instances, tasks),
            changes={"tasks": {"run_at": "o.created_at"}},
        )
        tell(f"{due:,} tasks of another tenant are due")
        if restarts:
            _start_workers(stack)
        time.sleep(SETTLE_SECONDS)
        before, began = _tasks_done(database, flooding), time.monotonic()
        beside = quiet.measure(seconds)
        done = _tasks_done(database, flooding)
        took = time.monotonic() - began
        return {
            "machine": describe_machine(),
            "database": "PostgreSQL, fsync on" if is_postgres else "SQLite",
            "due tasks of the other tenant": due,
            "quiet workflows a second": rate,
            "workers restarted": restarts,
            "alone, p50 ms": round(alone.p50, 1),
            "alone, p99 ms": round(alone.p99, 1),
            "beside the flood, p50 ms": round(beside.p50, 1),
            "beside the flood, p99 ms": round(beside.p99, 1),
            "ratio of p50": round(beside.p50 / alone.p50, 2),
            "ratio of p99": round(beside.p99 / alone.p99, 2),
            "the flood's tasks done a second": round((done - before) / took),
        }


def _tenant(database: Database, name: str) -> TenantId:
    with database.transaction() as tx:
        tenant_id = keys.ensure_tenant(tx, name)
        apply_definition(tx, tenant_id, CHART, actor="bench", limits=Limits())
    return tenant_id


def _start_workers(stack: Stack) -> None:
    for ready in stack.start_workers():
        tell(f"{ready.name}: {ready.detail}")


def _put_off(database: Database) -> tuple[TenantId, InstanceId]:
    """An instance of the other tenant, stepped to its first task, which nobody claims."""
    tenant_id = _tenant(database, "flooding")
    first = start(database, tenant_id, str(CHART["id"]))
    advance_ready(Advancing(database, Limits().max_context_bytes), until=time.monotonic() + 60)
    with database.transaction() as tx:
        tx.exec_driver_sql(f"UPDATE tasks SET run_at = '{NEVER}' WHERE instance_id = '{first}'")
    return tenant_id, first


def _tasks_done(database: Database, tenant_id: TenantId) -> int:
    query = f"SELECT count(*) FROM tasks WHERE status = 'succeeded' AND tenant_id = '{tenant_id}'"
    with database.reading() as tx:
        return int(tx.exec_driver_sql(query).scalar_one())


if __name__ == "__main__":
    main()
