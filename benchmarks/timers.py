"""What armed timers cost while they wait, and how late they fire when all fall due at once.

    python -m benchmarks.timers                       100,000 timers on the embedded database
    python -m benchmarks.timers --postgres -n 20000   on a real PostgreSQL with fsync
    python -m benchmarks.timers --json

One instance that waits in `after` is started for real and copied in SQL, so that arming takes seconds. Then: the CPU
that the orchestrator uses while nothing is due; and, once every timer is made due at the same instant, how long until the
last instance has stepped, how many steps a second that is, and whether the inbox received them oldest first.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.copies import copy_instance
from benchmarks.stacks import begin, cpu_by_part, tell, write_report
from common.commands.definitions import apply_definition
from common.commands.start import Start, start_instance
from common.config import Limits
from common.db import Database
from common.db.now import read_now
from common.db.tables import instances, timers
from common.store import keys
from signalbox.bench import Options, bench_stack
from signalbox.machine import describe_machine
from signalbox.stack import Stack

CHART = {
    "id": "sleepers",
    "initial": "asleep",
    "states": {"asleep": {"after": {"30d": "awake"}, "on": {"STOP": "awake"}}, "awake": {"type": "final"}},
}
IDLE_SECONDS = 20.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.timers", description=__doc__.splitlines()[0])
    parser.add_argument("-n", "--timers", type=int, default=100_000)
    parser.add_argument("--postgres", action="store_true", help="a real PostgreSQL from the wheel, fsync on")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    begin()
    report = measure(asked.timers, is_postgres=asked.postgres)
    write_report(report, as_json=asked.json)


def measure(count: int, *, is_postgres: bool) -> dict[str, Any]:
    options = Options(instances=count, steps=1, modes=(), where="postgres" if is_postgres else "embedded")
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="signalbox-timers-")))
        stack = ending.enter_context(bench_stack(options, folder, tell))
        database = Database.open(stack.database_url, name="signalbox-timers")
        ending.callback(database.dispose)
        _arm(database, count)
        time.sleep(2)
        before, began = _orchestrator_seconds(stack), time.monotonic()
        time.sleep(IDLE_SECONDS)
        idle = (_orchestrator_seconds(stack) - before) / (time.monotonic() - began)
        before = _orchestrator_seconds(stack)
        seconds = _fire_all(database, count)
        busy = _orchestrator_seconds(stack) - before
        return {
            "machine": describe_machine(),
            "database": "PostgreSQL, fsync on" if is_postgres else "SQLite",
            "timers": count,
            "orchestrator CPU while idle, %": round(100 * idle, 2),
            "all due at once: seconds to the last": round(seconds, 2),
            "timers fired and stepped a second": round(count / seconds),
            "orchestrator CPU seconds for it": round(busy, 2),
            "fired out of order": _out_of_order(database),
        }


def _orchestrator_seconds(stack: Stack) -> float:
    return sum(seconds for part, seconds in cpu_by_part(stack).items() if part.startswith("orchestrator"))


def _arm(database: Database, count: int) -> None:
    """Start one sleeper, then copy its rows until there are `count`."""
    with database.transaction() as tx:
        tenant = keys.ensure_tenant(tx, "timers")
        apply_definition(tx, tenant, CHART, actor="bench", limits=Limits())
        first = start_instance(tx, tenant, Start(definition_key="sleepers"), actor="bench", limits=Limits())
    _wait(database, f"SELECT count(*) FROM timers WHERE instance_id = '{first.instance_id}'", 1, 30)
    copy_instance(database, first.instance_id, count - 1, tables=(instances, timers))
    tell(f"{count:,} timers armed")


def _fire_all(database: Database, count: int) -> float:
    """Make every timer due, one microsecond apart in the order of their ids; seconds until every instance has stepped."""
    with database.transaction() as tx:
        now = read_now(tx)
        tx.exec_driver_sql(f"UPDATE timers SET due_at = '{now:%Y-%m-%d %H:%M:%S.%f}' WHERE status = 'armed'")
    began = time.monotonic()
    _wait(database, "SELECT count(*) FROM instances WHERE status = 'completed'", count, 600)
    return time.monotonic() - began


def _out_of_order(database: Database) -> int:
    """Timers that fired in a later transaction than one that was due after them (all are due at once: by their id)."""
    query = """
        SELECT count(*) FROM (
            SELECT finished_at, max(finished_at) OVER (ORDER BY due_at, id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
              AS latest FROM timers
        ) AS fired WHERE finished_at < latest
    """
    with database.reading() as tx:
        return int(tx.exec_driver_sql(query).scalar_one())


def _wait(database: Database, query: str, wanted: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with database.reading() as tx:
            found = tx.exec_driver_sql(query).scalar_one()
        if found >= wanted:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{query}: expected {wanted}, found {found} after {seconds:g} s")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
