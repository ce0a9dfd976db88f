"""What a quiet tenant notices of one that floods the engine: its latency alone, and beside 100,000 due tasks, in one run.

    python -m benchmarks.fairness --postgres           a real PostgreSQL with fsync, and Valkey
    python -m benchmarks.fairness                      the embedded database
    python -m benchmarks.fairness -n 20000 --seconds 30 --rounds 1 --rate 2 --json

The quiet tenant starts workflows of three no-op steps at a steady rate, in turn with the engine for itself and beside the flood, because
a machine's speed changes within minutes: percentiles are those of all rounds together. The other tenant's instances are copied in SQL from one
that was stepped to its first task, which nobody claims; for each round beside it all that it has open is made due at once, and put off
again afterwards. Latencies are from `created_at` to `finished_at`, on the database's clock; the two workers are
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
from common.ids import TenantId
from common.store import keys, listing
from orchestrator.advance import advance_ready
from orchestrator.advancing import Advancing
from signalbox.bench import Options, bench_stack, steps_chart
from signalbox.cli.follow import ENDED
from signalbox.machine import describe_machine
from signalbox.measure import latency
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

    def measure(self, seconds: float) -> list[float]:
        """Start workflows for so long, one each 1/rate seconds whatever became of the others; the milliseconds of each once all have ended."""
        ids: list[str] = []
        began = time.monotonic()
        for number in range(max(round(seconds * self.rate), 1)):
            time.sleep(max(began + number / self.rate - time.monotonic(), 0.0))
            self.stack.tick()
            ids.append(self.start())
        return self.await_all(ids)

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
    parser.add_argument("--seconds", type=float, default=30.0, help="how long either is measured, each round")
    parser.add_argument("--rounds", type=int, default=3, help="in which either is measured in turn")
    parser.add_argument("--rate", type=float, default=2.0, help="workflows a second of the quiet tenant")
    parser.add_argument("--restart", action="store_true", help="the workers, as the flood begins")
    parser.add_argument("--postgres", action="store_true", help="a real PostgreSQL from the wheel, fsync on")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    begin()
    report = measure(
        asked.tasks,
        asked.seconds,
        asked.rate,
        is_postgres=asked.postgres,
        rounds=asked.rounds,
        restarts=asked.restart,
    )
    write_report(report, as_json=asked.json)


def measure(
    due: int, seconds: float, rate: float, *, is_postgres: bool, rounds: int = 1, restarts: bool = False
) -> dict[str, Any]:
    options = Options(instances=due, steps=3, modes=(), where="postgres" if is_postgres else "embedded")
    alone: list[float] = []
    beside: list[float] = []
    done, took = 0, 0.0
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="signalbox-fairness-")))
        stack = ending.enter_context(bench_stack(options, folder, tell))
        database = application_database(stack, ending)
        stack.stop_workers()
        flood = _copied(database, due)
        _start_workers(stack)
        quiet = Quiet(stack, database, _tenant(database, "quiet"), rate)
        for number in range(1, rounds + 1):
            # What the flood has left to the database to tidy up is done by these.
            quiet.await_all([quiet.start() for _ in range(WARM_UP)])
            time.sleep(SETTLE_SECONDS)
            alone += quiet.measure(seconds)
            if restarts:
                stack.stop_workers()
            flood.begin()
            if restarts:
                _start_workers(stack)
            time.sleep(SETTLE_SECONDS)
            before, began = flood.done(), time.monotonic()
            beside += quiet.measure(seconds)
            done, took = done + flood.done() - before, took + time.monotonic() - began
            tell(f"round {number} of {rounds}: alone {_told(alone)}; beside the flood {_told(beside)}")
            if number < rounds:
                flood.pause()
    apart, together = latency(alone), latency(beside)
    return {
        "machine": describe_machine(),
        "database": "PostgreSQL, fsync on" if is_postgres else "SQLite",
        "due tasks of the other tenant": due,
        "quiet workflows a second": rate,
        "rounds": rounds,
        "workers restarted": restarts,
        "alone, p50 ms": round(apart.p50, 1),
        "alone, p99 ms": round(apart.p99, 1),
        "beside the flood, p50 ms": round(together.p50, 1),
        "beside the flood, p99 ms": round(together.p99, 1),
        "ratio of p50": round(together.p50 / apart.p50, 2),
        "ratio of p99": round(together.p99 / apart.p99, 2),
        "the flood's tasks done a second": round(done / took),
    }


def _told(milliseconds: list[float]) -> str:
    found = latency(milliseconds)
    return f"p50 {found.p50:.1f} ms, p99 {found.p99:.1f} ms"


def _tenant(database: Database, name: str) -> TenantId:
    with database.transaction() as tx:
        tenant_id = keys.ensure_tenant(tx, name)
        apply_definition(tx, tenant_id, CHART, actor="bench", limits=Limits())
    return tenant_id


def _start_workers(stack: Stack) -> None:
    for ready in stack.start_workers():
        tell(f"{ready.name}: {ready.detail}")


@dataclass(frozen=True)
class Flood:
    """What the other tenant has open. Its tasks are all due, or none is."""

    database: Database
    tenant_id: TenantId

    def begin(self) -> None:
        self._set_due("created_at")

    def pause(self) -> None:
        """Until none of its tasks is due or under way. Those under way may bring one more."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._set_due(f"'{NEVER}'"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the flood goes on after {PATIENCE_SECONDS:g} s")
            time.sleep(0.5)

    def done(self) -> int:
        query = "SELECT count(*) FROM tasks WHERE status = 'succeeded' AND tenant_id = "
        with self.database.reading() as tx:
            return int(tx.exec_driver_sql(f"{query}'{self.tenant_id}'").scalar_one())

    def _set_due(self, run_at: str) -> int:
        query = f"UPDATE tasks SET run_at = {run_at} WHERE status = 'pending' AND run_at <> {run_at} AND tenant_id = "
        with self.database.transaction() as tx:
            return tx.exec_driver_sql(f"{query}'{self.tenant_id}'").rowcount


def _copied(database: Database, count: int) -> Flood:
    """Instances of the other tenant, each stepped to its first task, which nobody claims."""
    tenant_id = _tenant(database, "flooding")
    first = start(database, tenant_id, str(CHART["id"]))
    advance_ready(Advancing(database, Limits().max_context_bytes), until=time.monotonic() + 60)
    flood = Flood(database, tenant_id)
    flood.pause()
    copy_instance(database, first, count, tables=(instances, tasks))
    return flood


if __name__ == "__main__":
    main()
