"""What sweeping finished instances costs the workflows that go on meanwhile, on PostgreSQL.

    python -m benchmarks.retention                     100,000 finished instances
    python -m benchmarks.retention -n 1000000 --seconds 120
    python -m benchmarks.retention --json

One 3-step workflow is run to its end and copied in SQL with all its rows, finished long ago. Callers start workflows
one after the other, each waiting for the end of its own, for periods of ten seconds in which in turn nobody sweeps and
somebody does: what else the machine does meets both. The sweep is an orchestrator's, in this process. Latency is from
accepted to finished, by the database's clock.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from common.commands.definitions import apply_definition
from common.commands.start import Start, start_instance
from common.config import Limits, Settings
from common.db import Database
from common.db.tables import attempts, history, instances, tasks
from common.ids import TenantId
from common.observability import configure_logging
from common.queues import doorbell
from common.retention import Keeping
from common.store import keys
from orchestrator.retention import sweep
from signalbox.bench import TENANT, Options, bench_stack, steps_chart
from signalbox.machine import describe_machine

CALLERS = 4
STEPS = 3
COPY_AT_ONCE = 10_000
PERIOD_SECONDS = 10.0
KEEPING = Keeping(completed=timedelta(days=1))
LONG_AGO = "interval '30 days'"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.retention", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "-n", "--instances", type=int, default=100_000, help="finished ones, at most 1,000,000"
    )
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="of workflows, half of them while sweeping"
    )
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    configure_logging("bench", level="WARNING")
    report = measure(min(asked.instances, 1_000_000), seconds=asked.seconds)
    if asked.json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
        return
    for name, value in report.items():
        sys.stdout.write(f"{name:>34}  {value}\n")


def measure(count: int, *, seconds: float) -> dict[str, Any]:
    options = Options(instances=count, steps=STEPS, modes=(), where="postgres")
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="signalbox-retention-")))
        stack = ending.enter_context(bench_stack(options, folder, _tell))
        redis_url = stack.redis_url or "memory://localhost"
        settings = Settings.load(
            database_url=stack.database_url, redis_url=redis_url, doorbells=stack.redis_url is not None
        )
        database = Database.open(stack.database_url, name="signalbox-retention")
        ending.callback(database.dispose)
        bells = doorbell.attach(database, settings)
        if bells is not None:
            ending.callback(bells.close)
        with database.transaction() as tx:
            tenant_id = keys.ensure_tenant(tx, TENANT)
            for key in ("old", "live"):
                chart = {**steps_chart(STEPS), "id": key}
                apply_definition(
                    tx, tenant_id, chart, actor="bench", limits=Limits(), allow_unknown_types=True
                )
        _run_one(database, tenant_id, "old")
        _copy(database, count)
        callers = _Callers(database, tenant_id)
        without, sweeping, swept = _in_turn(database, callers, seconds)
        idle = _sweep_for(database, lambda: time.sleep(PERIOD_SECONDS))
        return {
            "machine": json.dumps(describe_machine()),
            "finished instances": count,
            "callers": CALLERS,
            "swept a second, under load": round(swept / sweeping.seconds),
            "swept a second, nothing else to do": round(idle / PERIOD_SECONDS),
            "workflows a second, nobody sweeps": round(len(without.latencies) / without.seconds, 1),
            "workflows a second, sweeping": round(len(sweeping.latencies) / sweeping.seconds, 1),
            **{
                f"p{share}, ms: without, sweeping, ratio": _compared(without, sweeping, share / 100)
                for share in (50, 99)
            },
        }


def _in_turn(database: Database, callers: _Callers, seconds: float) -> tuple[_Measured, _Measured, int]:
    """Workflows in periods without and with a sweep; how many instances went in the latter."""
    without, sweeping, swept = _Measured(), _Measured(), 0
    for _ in range(max(round(seconds / PERIOD_SECONDS / 2), 1)):
        without.add(callers.run_for(PERIOD_SECONDS))
        swept += _sweep_for(database, lambda: sweeping.add(callers.run_for(PERIOD_SECONDS)))
    return without, sweeping, swept


def _sweep_for(database: Database, meanwhile: Callable[[], object]) -> int:
    """Sweep, with the rests of an orchestrator, for as long as `meanwhile` takes; how many instances went."""
    over = threading.Event()
    counts: list[int] = []
    thread = threading.Thread(
        target=lambda: counts.append(sweep(database, KEEPING, rest=over.wait)), daemon=True
    )
    thread.start()
    meanwhile()
    if not thread.is_alive():
        raise ValueError("everything was swept before the time was over: take more instances")
    over.set()
    thread.join()
    return counts[0]


def _compared(without: _Measured, sweeping: _Measured, share: float) -> str:
    a, b = without.quantile(share), sweeping.quantile(share)
    return f"{a:.1f}, {b:.1f}, {b / a:.2f}"


@dataclass
class _Measured:
    """Latencies of workflows in milliseconds, and how long they were run for."""

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, other: _Measured) -> None:
        self.latencies += other.latencies
        self.seconds += other.seconds

    def quantile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


class _Callers:
    """Some threads that each start a workflow, wait for its end and start the next."""

    def __init__(self, database: Database, tenant_id: TenantId) -> None:
        self._database = database
        self._tenant_id = tenant_id

    def run_for(self, seconds: float) -> _Measured:
        over = threading.Event()
        found: list[float] = []
        began = time.monotonic()

        def call() -> None:
            while not over.is_set():
                found.append(_run_one(self._database, self._tenant_id, "live"))

        threads = [threading.Thread(target=call, daemon=True) for _ in range(CALLERS)]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        over.set()
        for thread in threads:
            thread.join()
        return _Measured(found, time.monotonic() - began)


def _run_one(database: Database, tenant_id: TenantId, key: str) -> float:
    """Start a workflow and wait for its end; milliseconds from accepted to finished, by the database's clock."""
    request = Start(definition_key=key)
    started = database.run(lambda tx: start_instance(tx, tenant_id, request, actor="bench", limits=Limits()))
    query = (
        "SELECT extract(epoch FROM finished_at - created_at) * 1000 FROM instances"
        f" WHERE id = '{started.instance_id}' AND finished_at IS NOT NULL"
    )
    while True:
        with database.reading() as tx:
            row = tx.exec_driver_sql(query).one_or_none()
        if row is not None:
            return float(row[0])
        time.sleep(0.002)


def _copy(database: Database, count: int) -> None:
    """Make the one instance of "old" into `count`, all finished long ago, with their rows; indexes and foreign keys on."""
    began = time.monotonic()
    for start in range(1, count, COPY_AT_ONCE):
        number = min(COPY_AT_ONCE, count - start)
        with database.transaction() as tx:
            tx.exec_driver_sql(
                "CREATE TEMP TABLE copies ON COMMIT DROP AS SELECT gen_random_uuid() AS new_id"
                f" FROM generate_series(1, {number})"
            )
            tx.exec_driver_sql(
                "CREATE TEMP TABLE first ON COMMIT DROP AS SELECT id FROM instances WHERE definition_key = 'old'"
                " ORDER BY created_at LIMIT 1"
            )
            first = "(SELECT id FROM first)"
            tx.exec_driver_sql(
                "CREATE TEMP TABLE copied_tasks ON COMMIT DROP AS"
                " SELECT copies.new_id AS new_instance, tasks.id AS old_task, gen_random_uuid() AS new_task"
                f" FROM copies CROSS JOIN tasks WHERE tasks.instance_id = {first}"
            )
            _insert(
                tx,
                instances,
                {"id": "new_id", "finished_at": f"now() - {LONG_AGO}"},
                "copies",
                f"o.id = {first}",
            )
            _insert(tx, history, {"instance_id": "new_id"}, "copies", f"o.instance_id = {first}")
            _insert(
                tx,
                tasks,
                {"id": "new_task", "instance_id": "new_instance"},
                "copied_tasks",
                "o.id = old_task",
            )
            _insert(tx, attempts, {"task_id": "new_task"}, "copied_tasks", "o.task_id = old_task")
    _sql(database, "ANALYZE")
    _tell(f"{count:,} finished instances made in {time.monotonic() - began:.0f} s")


def _insert(tx: Any, table: Any, replaced: dict[str, str], source: str, where: str) -> None:
    names = [f"{column.name}" for column in table.columns]
    chosen = ", ".join(replaced.get(name, f'o."{name}"') for name in names)
    quoted = ", ".join(f'"{name}"' for name in names)
    tx.exec_driver_sql(
        f"INSERT INTO {table.name} ({quoted}) SELECT {chosen} FROM {table.name} o CROSS JOIN {source} WHERE {where}"
    )


def _sql(database: Database, statement: str) -> None:
    with database.transaction() as tx:
        tx.exec_driver_sql(statement)


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    main()
