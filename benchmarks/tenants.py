"""What many tenants cost: workflows a second of a thousand tenants, each with a definition of its own, and of one with as many.

    python -m benchmarks.tenants --postgres            a real PostgreSQL with fsync, and Valkey
    python -m benchmarks.tenants                       the embedded database
    python -m benchmarks.tenants --tenants 2000 --workflows 2 --rounds 5 --json

Every tenant has applied the same document, three light no-op tasks one after the other, and starts as many workflows as every other one; the starts go
round: one of each tenant, then the next of each, from four threads. In turn with it (many, one; one, many; …) a single tenant
starts as many as all of them together. Told are the medians of the rounds, and the ratio of many to one.

- **backlog**: all are started while no worker runs, then the workers come, with nothing in their memory. Counted are those that ended after
  the first ones, over the time from there to the last end; and all, over the time since the workers were started.
- **live**: all are started while the workers run: from the first start to the last end, and the CPU time of a workflow in all
  processes, which bears a machine that has other work.

Instants are those of the database's clock.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from sqlalchemy import select

from benchmarks.stacks import (
    CALLER,
    READ_AT_ONCE,
    application_database,
    begin,
    cpu_by_part,
    from_threads,
    start,
    tell,
    write_report,
)
from common.commands.definitions import apply_definition
from common.config import Limits
from common.db import Database
from common.db.now import read_now
from common.db.tables import instances
from common.ids import InstanceId, TenantId
from common.lifecycle import FINAL, InstanceStatus
from common.store import keys
from signalbox.bench import LIGHT_NOOP, Options, bench_stack, steps_chart
from signalbox.machine import describe_machine
from signalbox.stack import Stack

STEPS = 3
CHART = steps_chart(STEPS, LIGHT_NOOP)
APPLIED_AT_ONCE = 100
PATIENCE_SECONDS = 600.0
LOOK_SECONDS = 0.02

_FACTS = select(instances.c.id, instances.c.status, instances.c.created_at, instances.c.finished_at)


@dataclass(frozen=True)
class Crowd:
    """Some tenants with the same definition, who start as many workflows each."""

    stack: Stack
    database: Database
    tenants: Sequence[TenantId]
    workflows: int

    def measure(self) -> dict[str, float | None]:
        """A round: a backlog, then live. The rate of a backlog is None where all ended at one instant."""
        return {**self._backlog(), **self._live()}

    def _backlog(self) -> dict[str, float | None]:
        self.stack.stop_workers()
        started = self._start()
        with self.database.reading() as tx:
            began = read_now(tx)
        for ready in self.stack.start_workers():
            tell(f"{ready.name}: {ready.detail}")
        ends = [end for _, end in self._await_all(started)]
        return {
            "backlog, a second": rate_after_first(ends),
            "backlog with the workers' start, a second": len(ends) / (max(ends) - began).total_seconds(),
        }

    def _live(self) -> dict[str, float | None]:
        before = cpu_by_part(self.stack)
        spans = self._await_all(self._start())
        after = cpu_by_part(self.stack)
        used = {part: 1_000 * (after[part] - before[part]) / len(spans) for part in after}
        seconds = (max(end for _, end in spans) - min(begun for begun, _ in spans)).total_seconds()
        return {
            "live, a second": len(spans) / seconds,
            "live, CPU ms of a workflow": sum(used.values()),
            "live, CPU ms of its starter": used[CALLER],
        }

    def _start(self) -> list[InstanceId]:
        def one(tenant_id: TenantId) -> InstanceId:
            return start(self.database, tenant_id, str(CHART["id"]))

        return from_threads(one, [tenant for _ in range(self.workflows) for tenant in self.tenants])

    def _await_all(self, started: Sequence[InstanceId]) -> list[tuple[datetime, datetime]]:
        """When each was created and ended, once all have. Looks at the last one until that has, so that waiting costs the stack little."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        left = list(started)
        spans: list[tuple[datetime, datetime]] = []
        while left:
            self.stack.tick()
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{len(left)} of {len(started)} instances have not ended after {PATIENCE_SECONDS:g} s"
                )
            if self._ended(left[-1:]):
                ended = self._ended(left)
                spans += ended.values()
                left = [one for one in left if one not in ended]
            if left:
                time.sleep(LOOK_SECONDS)
        return spans

    def _ended(self, ids: Sequence[InstanceId]) -> dict[InstanceId, tuple[datetime, datetime]]:
        """Whoever they belong to: to ask for those of each tenant would cost many tenants what it does not cost one."""
        found: dict[InstanceId, tuple[datetime, datetime]] = {}
        for first in range(0, len(ids), READ_AT_ONCE):
            wanted = instances.c.id.in_(ids[first : first + READ_AT_ONCE])
            with self.database.reading() as tx:
                for id_, status, created_at, finished_at in tx.execute(_FACTS.where(wanted)):
                    if status == InstanceStatus.COMPLETED:
                        found[id_] = created_at, finished_at
                    elif status in (*FINAL, InstanceStatus.FAILED):
                        raise ValueError(f'instance {id_} is "{status}", expected "completed"')
        return found


def rate_after_first(ends: Sequence[datetime]) -> float | None:
    """How many a second ended after the first ones, who end in one commit; None where there is nobody after them."""
    first = min(ends)
    later = sum(end > first for end in ends)
    return later / (max(ends) - first).total_seconds() if later else None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tenants", description=__doc__.splitlines()[0])
    parser.add_argument("--tenants", type=int, default=1_000, help="each with a definition of its own")
    parser.add_argument("--workflows", type=int, default=4, help="of each tenant, in each backlog and live")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--postgres", action="store_true", help="a real PostgreSQL from the wheel, fsync on")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    begin()
    report = measure(asked.tenants, asked.workflows, asked.rounds, is_postgres=asked.postgres)
    write_report(report, as_json=asked.json)


def measure(tenants: int, workflows: int, rounds: int, *, is_postgres: bool) -> dict[str, Any]:
    """Medians of so many rounds, of many tenants and of one with as many workflows as all of them."""
    options = Options(
        instances=0, steps=STEPS, modes=(), where="postgres" if is_postgres else "embedded", is_light=True
    )
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="signalbox-tenants-")))
        stack = ending.enter_context(bench_stack(options, folder, tell))
        database = application_database(stack, ending)
        [alone, *many] = _tenants(database, ["alone", *(f"tenant-{number}" for number in range(tenants))])
        crowds = [
            Crowd(stack, database, many, workflows),
            Crowd(stack, database, [alone], tenants * workflows),
        ]
        found: list[list[dict[str, float | None]]] = [[], []]
        for number in range(rounds):
            for which in (0, 1) if number % 2 == 0 else (1, 0):
                figures = crowds[which].measure()
                found[which].append(figures)
                told = ", ".join(
                    f"{name} {_rounded(figure)}" for name, figure in figures.items() if "CPU" not in name
                )
                tell(f"round {number + 1} of {rounds}, tenants {len(crowds[which].tenants):,}: {told}")
    medians = [_medians(rows) for rows in found]
    ratios = {
        name: _rounded(None if figure is None or (other := medians[1][name]) is None else figure / other)
        for name, figure in medians[0].items()
    }
    return {
        "machine": describe_machine(),
        "database": "PostgreSQL, fsync on" if is_postgres else "SQLite",
        "rounds": rounds,
        "medians": [
            {"tenants": len(crowd.tenants), "workflows of each": crowd.workflows, **_all_rounded(row)}
            for crowd, row in zip(crowds, medians, strict=True)
        ],
        "many to one": [ratios],
    }


def _medians(rows: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name in rows[0]:
        figures = [figure for row in rows if (figure := row[name]) is not None]
        found[name] = median(figures) if figures else None
    return found


def _all_rounded(row: dict[str, float | None]) -> dict[str, float | None]:
    return {name: _rounded(figure) for name, figure in row.items()}


def _rounded(figure: float | None) -> float | None:
    return None if figure is None else round(figure, 2)


def _tenants(database: Database, names: Sequence[str]) -> list[TenantId]:
    """Tenants who have applied the chart each."""
    found: list[TenantId] = []
    for first in range(0, len(names), APPLIED_AT_ONCE):
        with database.transaction() as tx:
            for name in names[first : first + APPLIED_AT_ONCE]:
                tenant_id = keys.ensure_tenant(tx, name)
                apply_definition(tx, tenant_id, CHART, actor="bench", limits=Limits())
                found.append(tenant_id)
    tell(f"{len(found):,} tenants have applied the definition")
    return found


if __name__ == "__main__":
    main()
