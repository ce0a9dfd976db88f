"""What a crash costs a backlog: workflows a second before an orchestrator is killed amid it, and after.

    python -m benchmarks.crash --postgres              a real PostgreSQL with fsync, and Valkey
    python -m benchmarks.crash                         the embedded database
    python -m benchmarks.crash --instances 5000 --rounds 5 --part orchestrator-2 --json

A backlog of three light no-op tasks one after the other is started while no worker runs; then the workers come. Once a third of it has ended, one
orchestrator gets SIGKILL, and `signalbox up`, or whoever keeps workers running, starts it again. In turn with it goes a backlog of which nobody
is killed, split at the same number of ends. Told are the medians of the rounds. Instants are those of the database's clock.

- **before**: ends a second, from the first ones to the kill.
- **after**: ends a second, from the kill to the last.
- **pause**: seconds from the kill to the next end.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from sqlalchemy import func, select

from benchmarks.stacks import application_database, begin, from_threads, start, tell, write_report
from common.commands.definitions import apply_definition
from common.config import Limits
from common.db import Database
from common.db.now import read_now
from common.db.tables import instances
from common.ids import TenantId
from common.lifecycle import InstanceStatus
from common.store import keys
from signalbox.bench import LIGHT_NOOP, Options, bench_stack, steps_chart
from signalbox.machine import describe_machine
from signalbox.stack import Stack

CHART = steps_chart(3, LIGHT_NOOP)
PATIENCE_SECONDS = 600.0
LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Backlogs:
    """Backlogs of so many workflows; each round is a tenant's, who can be told from the others."""

    stack: Stack
    database: Database
    workflows: int
    part: str

    def measure(self, name: str, *, kills: bool) -> dict[str, float]:
        """A backlog from its start to its end. Raises `TimeoutError`, or `ValueError` where one did not complete."""
        self.stack.stop_workers()
        with self.database.transaction() as tx:
            tenant_id = keys.ensure_tenant(tx, name)
            apply_definition(tx, tenant_id, CHART, actor="bench", limits=Limits())
        from_threads(lambda _: start(self.database, tenant_id, str(CHART["id"])), range(self.workflows))
        for _ready in self.stack.start_workers():
            pass
        self._await(tenant_id, self.workflows // 3)
        at = self._now()
        if kills:
            pid = self.stack.supervisor.pid(self.part)
            if pid is None:
                running = ", ".join(self.stack.supervisor.names())
                raise ValueError(f"expected a part {self.part} to be killed, found {running}")
            os.kill(pid, signal.SIGKILL)
        self._await(tenant_id, self.workflows)
        return figures(self._ends(tenant_id), at)

    def _await(self, tenant_id: TenantId, wanted: int) -> None:
        ended = (
            select(func.count())
            .select_from(instances)
            .where(instances.c.tenant_id == tenant_id, instances.c.status == InstanceStatus.COMPLETED)
        )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            self.stack.tick()
            with self.database.reading() as tx:
                found = tx.execute(ended).scalar_one()
            if found >= wanted:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{found} of {wanted} workflows have completed after {PATIENCE_SECONDS:g} s"
                )
            time.sleep(LOOK_SECONDS)

    def _now(self) -> datetime:
        with self.database.reading() as tx:
            return read_now(tx)

    def _ends(self, tenant_id: TenantId) -> list[datetime]:
        with self.database.reading() as tx:
            ends = select(instances.c.finished_at).where(instances.c.tenant_id == tenant_id)
            return sorted(tx.execute(ends).scalars())


def figures(ends: Sequence[datetime], at: datetime) -> dict[str, float]:
    """Of ends in their order, some before that instant and some after. Raises `ValueError` where all are on one side of it."""
    before, after = [end for end in ends if end <= at], [end for end in ends if end > at]
    if not after or not before or before[0] == at:
        raise ValueError(
            f"expected ends before and after {at:%H:%M:%S.%f}, found {len(before)} and {len(after)}:"
            " ask for a longer backlog with --instances"
        )
    return {
        "before, a second": len(before) / (at - before[0]).total_seconds(),
        "after, a second": len(after) / (after[-1] - at).total_seconds(),
        "pause, s": (after[0] - at).total_seconds(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crash", description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, default=3_000, help="in each backlog")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", default="orchestrator", help="who is killed, as `signalbox up` names it")
    parser.add_argument("--postgres", action="store_true", help="a real PostgreSQL from the wheel, fsync on")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    begin()
    report = measure(asked.instances, asked.rounds, asked.part, is_postgres=asked.postgres)
    write_report(report, as_json=asked.json)


def measure(workflows: int, rounds: int, part: str, *, is_postgres: bool) -> dict[str, Any]:
    """Medians of so many rounds, with and without a kill in turn."""
    where = "postgres" if is_postgres else "embedded"
    options = Options(instances=0, steps=3, modes=(), where=where, is_light=True)
    found: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="signalbox-crash-")))
        stack = ending.enter_context(bench_stack(options, folder, tell))
        backlogs = Backlogs(stack, application_database(stack, ending), workflows, part)
        for number in range(rounds):
            for kills in (True, False) if number % 2 == 0 else (False, True):
                row = backlogs.measure(f"{number}-{kills}", kills=kills)
                found[kills].append(row)
                told = ", ".join(f"{name} {figure:.1f}" for name, figure in row.items())
                tell(f"round {number + 1} of {rounds}, {part if kills else 'nobody'} killed: {told}")
    return {
        "machine": describe_machine(),
        "database": "PostgreSQL, fsync on" if is_postgres else "SQLite",
        "rounds": rounds,
        "medians": [
            {
                "killed": part if kills else "nobody",
                **{name: round(median(row[name] for row in rows), 2) for name in rows[0]},
            }
            for kills, rows in found.items()
        ],
    }


if __name__ == "__main__":
    main()
