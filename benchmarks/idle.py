"""What the whole stack costs while it has nothing to do: CPU of every process, with an empty database and with many who sleep.

    python -m benchmarks.idle --postgres               a real PostgreSQL with fsync, and Valkey; 100,000 sleeping instances
    python -m benchmarks.idle                          the embedded database
    python -m benchmarks.idle -n 10000 --seconds 60 --json

API, orchestrator, task runner, broker and database, as `signalbox up` runs them. After some time to settle, the CPU time that each process
and its children use is counted over a minute, in percent of one core; then again with instances that sleep in an `after` of 30
days. Nobody calls the API meanwhile, and what this process does (it waits) is not counted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.copies import copy_instance
from benchmarks.stacks import CALLER, application_database, begin, cpu_by_part, start, tell, write_report
from common.commands.definitions import apply_definition
from common.config import Limits
from common.db.tables import history, instances, timers
from common.store import keys
from signalbox.bench import TENANT, Options, bench_stack
from signalbox.machine import describe_machine
from signalbox.stack import Stack

SLEEPER = {
    "id": "sleeper",
    "initial": "asleep",
    "states": {"asleep": {"after": {"30d": "awake"}}, "awake": {"type": "final"}},
}
STEP_SECONDS = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle", description=__doc__.splitlines()[0])
    parser.add_argument("-n", "--sleeping", type=int, default=100_000, help="instances of the second part")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long either is measured")
    parser.add_argument("--settle", type=float, default=20.0, help="seconds before that")
    parser.add_argument("--postgres", action="store_true", help="a real PostgreSQL from the wheel, fsync on")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    begin()
    report = measure(asked.sleeping, asked.seconds, asked.settle, is_postgres=asked.postgres)
    write_report(report, as_json=asked.json)


def measure(sleeping: int, seconds: float, settle: float, *, is_postgres: bool) -> dict[str, Any]:
    """Percent of a core that each part uses, with nobody and with `sleeping` instances."""
    options = Options(
        instances=0, steps=1, modes=(), where="postgres" if is_postgres else "embedded", over_http=True
    )
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="signalbox-idle-")))
        stack = ending.enter_context(bench_stack(options, folder, tell))
        rows = [{"sleeping": 0, **_idle(stack, seconds, settle)}]
        with ExitStack() as filling:
            database = application_database(stack, filling)
            with database.transaction() as tx:
                tenant_id = keys.ensure_tenant(tx, TENANT)
                apply_definition(tx, tenant_id, SLEEPER, actor="bench", limits=Limits())
            first = start(database, tenant_id, str(SLEEPER["id"]))
            time.sleep(STEP_SECONDS)  # it has to have been stepped before it is copied
            copy_instance(database, first, sleeping - 1, tables=(instances, history, timers))
            with database.reading() as tx:
                query = "SELECT count(*) FROM timers WHERE status = 'armed'"
                armed = int(tx.exec_driver_sql(query).scalar_one())
        rows.append({"sleeping": armed, **_idle(stack, seconds, settle)})
        return {
            "machine": describe_machine(),
            "database": "PostgreSQL, fsync on" if is_postgres else "SQLite",
            "seconds": seconds,
            "% of a core": rows,
        }


def _idle(stack: Stack, seconds: float, settle: float) -> dict[str, float]:
    _rest(stack, settle)
    before, began = cpu_by_part(stack), time.monotonic()
    _rest(stack, seconds)
    took, after = time.monotonic() - began, cpu_by_part(stack)
    used = {part: 100 * (after[part] - before[part]) / took for part in after if part != CALLER}
    return {"all": round(sum(used.values()), 2), **{part: round(share, 2) for part, share in used.items()}}


def _rest(stack: Stack, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(stack.tick(), left))


if __name__ == "__main__":
    main()
