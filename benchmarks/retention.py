"""What sweeping finished instances costs the workflows that go on meanwhile, on PostgreSQL and Valkey.

    python -m benchmarks.retention                     100,000 finished instances, 200 workflows a second
    python -m benchmarks.retention -n 1000000 --seconds 240
    python -m benchmarks.retention -n 1000000 --all    until the last one is swept
    python -m benchmarks.retention --rate 50 --json

One 3-step workflow is run to its end and copied in SQL with all its rows, finished long ago, ids and instants in order as
they would have come. Workflows are started at a steady rate, whether or not the ones before have ended, for periods of ten
seconds in which in turn nobody sweeps and somebody does: what else the machine does meets both. With `--all`, one period
lasts until nothing is left, between a period before and one after it. The sweep is an orchestrator's, in this process.
Latency is from accepted to finished, by the database's clock; each workflow belongs to the period that accepted it.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.copies import copy_instance
from benchmarks.stacks import application_database, begin, start, tell, write_report
from common.commands.definitions import apply_definition
from common.config import Limits
from common.db import Database
from common.db.tables import attempts, history, instances, tasks
from common.ids import InstanceId, TenantId
from common.retention import Keeping
from common.store import keys
from orchestrator.retention import sweep
from signalbox.bench import TENANT, Options, bench_stack, steps_chart
from signalbox.machine import describe_machine

STARTERS = 4
STEPS = 3
PERIOD_SECONDS = 10.0
END_SECONDS = 60.0
"""How long the workflows that were started in a period may take to end after it."""
TABLES = ("instances", "history", "tasks", "attempts", "tombstones")
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
    parser.add_argument("--rate", type=float, default=200.0, help="workflows started a second (200)")
    parser.add_argument(
        "--all", action="store_true", help="sweep until nothing is left, instead of for --seconds"
    )
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    begin()
    report = measure(
        min(asked.instances, 1_000_000), seconds=asked.seconds, rate=asked.rate, sweeps_all=asked.all
    )
    write_report(report, as_json=asked.json)


def measure(count: int, *, seconds: float, rate: float, sweeps_all: bool = False) -> dict[str, Any]:
    options = Options(instances=count, steps=STEPS, modes=(), where="postgres")
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="signalbox-retention-")))
        stack = ending.enter_context(bench_stack(options, folder, tell))
        database = application_database(stack, ending)
        with database.transaction() as tx:
            tenant_id = keys.ensure_tenant(tx, TENANT)
            for key in ("old", "live"):
                chart = {**steps_chart(STEPS), "id": key}
                apply_definition(
                    tx, tenant_id, chart, actor="bench", limits=Limits(), allow_unknown_types=True
                )
        _run_one(database, tenant_id, "old")
        _copy(database, count)
        sizes = _sizes(database)
        load = _Load(database, tenant_id, rate)
        load.run(lambda: time.sleep(PERIOD_SECONDS))  # caches are filled, connections open
        before = load.run(lambda: time.sleep(PERIOD_SECONDS))
        without, sweeping, after = _Measured(), _Measured(), before
        without.add(before)
        swept = 0
        for _ in range(1 if sweeps_all else max(round(seconds / PERIOD_SECONDS / 2), 1)):
            measured, deleted = _while_sweeping(database, load, ends=not sweeps_all)
            sweeping.add(measured)
            swept += deleted
            after = load.run(lambda: time.sleep(PERIOD_SECONDS))
            without.add(after)
            tell(
                f"{swept:,} swept; p99 {measured.quantile(0.99):.0f} ms meanwhile, {after.quantile(0.99):.0f} after"
            )
        return {
            "machine": describe_machine(),
            "finished instances": count,
            "size before": sizes,
            "size after": _sizes(database),
            "swept": swept,
            "swept a second, under load": round(swept / sweeping.seconds),
            "workflows asked for a second": rate,
            "workflows a second, nobody sweeps": round(len(without.latencies) / without.seconds, 1),
            "workflows a second, sweeping": round(len(sweeping.latencies) / sweeping.seconds, 1),
            **{
                f"p{share}, ms: before, after": f"{before.quantile(share / 100):.1f}, {after.quantile(share / 100):.1f}"
                for share in (50, 99)
            },
            **{
                f"p{share}, ms: without, sweeping, ratio": _compared(without, sweeping, share / 100)
                for share in (50, 99)
            },
        }


def _while_sweeping(database: Database, load: _Load, *, ends: bool) -> tuple[_Measured, int]:
    """A period with a sweep, with the rests of an orchestrator: its workflows, and how many instances went.

    `ends`: after the time of a period; otherwise when nothing is left.
    """
    over = threading.Event()
    counts: list[int] = []
    thread = threading.Thread(
        target=lambda: counts.append(sweep(database, KEEPING, rest=over.wait)), daemon=True
    )
    thread.start()
    measured = load.run(lambda: thread.join(PERIOD_SECONDS if ends else None))
    if ends and not thread.is_alive():
        raise ValueError("everything was swept before the time was over: take more instances")
    over.set()
    thread.join()
    return measured, counts[0]


def _sizes(database: Database) -> str:
    """Rows and bytes, indexes included, of the tables that a sweep deletes from."""
    with database.reading() as tx:
        return ", ".join(
            f"{name} {number:,} ({size})"
            for name in TABLES
            for number, size in tx.exec_driver_sql(
                f"SELECT (SELECT count(*) FROM {name}), pg_size_pretty(pg_total_relation_size('{name}'))"
            )
        )


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


class _Load:
    """Starts workflows at a steady rate, from a few threads, whether or not the ones before have ended."""

    def __init__(self, database: Database, tenant_id: TenantId, rate: float) -> None:
        self._database = database
        self._tenant_id = tenant_id
        self._rate = rate

    def run(self, meanwhile: Callable[[], object]) -> _Measured:
        """Go on for as long as `meanwhile` takes, and wait for the ends of what was started."""
        over = threading.Event()
        began = time.monotonic()
        with self._database.reading() as tx:
            since = tx.exec_driver_sql("SELECT clock_timestamp()").scalar_one()

        def keep_starting(number: int) -> None:
            due = began + number / self._rate
            while not over.wait(max(due - time.monotonic(), 0.0)):
                start(self._database, self._tenant_id, "live")
                due += STARTERS / self._rate

        threads = [threading.Thread(target=keep_starting, args=(n,), daemon=True) for n in range(STARTERS)]
        for thread in threads:
            thread.start()
        meanwhile()
        over.set()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - began
        return _Measured(self._latencies(since), seconds)

    def _latencies(self, since: datetime) -> list[float]:
        deadline = time.monotonic() + END_SECONDS
        query = (
            "SELECT extract(epoch FROM i.finished_at - i.created_at) * 1000 FROM instances i"
            " JOIN definitions d ON d.id = i.definition_id WHERE d.key = 'live' AND i.created_at >= %(since)s"
        )
        while True:
            with self._database.reading() as tx:
                found = [row[0] for row in tx.exec_driver_sql(query, {"since": since})]
            if None not in found:
                return [float(one) for one in found]
            if time.monotonic() > deadline:
                raise ValueError(f"{found.count(None)} workflows have not ended: ask for a lower --rate")
            time.sleep(0.2)


def _run_one(database: Database, tenant_id: TenantId, key: str) -> float:
    """Start a workflow and wait for its end; milliseconds from accepted to finished, by the database's clock."""
    started = start(database, tenant_id, key)
    query = (
        "SELECT extract(epoch FROM finished_at - created_at) * 1000 FROM instances"
        f" WHERE id = '{started}' AND finished_at IS NOT NULL"
    )
    while True:
        with database.reading() as tx:
            row = tx.exec_driver_sql(query).one_or_none()
        if row is not None:
            return float(row[0])
        time.sleep(0.002)


def _copy(database: Database, count: int) -> None:
    """Make the one instance of "old" into `count`, all finished long ago, with their rows.

    Instants rise from one to the next, as they do where instances come one after the other: what is deleted together
    stands together.
    """
    with database.reading() as tx:
        query = "SELECT id FROM instances WHERE definition_key = 'old' ORDER BY created_at LIMIT 1"
        first = InstanceId(str(tx.exec_driver_sql(query).scalar_one()))
    ended = {"instances": {"finished_at": f"now() - {LONG_AGO} + n * interval '1 ms'"}}
    copy_instance(database, first, count - 1, tables=(instances, history, tasks, attempts), changes=ended)


if __name__ == "__main__":
    main()
