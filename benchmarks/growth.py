"""What a workflow, a claim, a timer and an event cost among 1,000, 100,000 and 1,000,000 instances that wait.

    python -m benchmarks.growth                          PostgreSQL with fsync; 1,000,000 instances have 10,000,000 rows of history
    python -m benchmarks.growth --embedded               SQLite, up to 100,000
    python -m benchmarks.growth -n 1000 -n 50000 --rounds 3 --json

Each size is a database of its own, on one server, with workers of its own that all stay up; one is measured while the others
have nothing to do. The rounds go up and down through the sizes (1k, 100k, 1M, 1M, 100k, 1k, …), so that what else the machine does and
how it changes meets all of them; told are the medians, and the ratio of each size to the first.

Who waits: one instance that has armed a timer (`after` 30 days) and has consumed nine events, copied in SQL with its history.
In a round, in this order: 3-step workflows started live from four threads, whose CPU time is counted by process; the same
one at a time, with their latency and that of their claims (from the instant that a task is due to that of its attempt); instances whose
timers fall due after a second and a half, and how late; events to instances that wait, taken evenly from all of them. CPU time
bears a machine that has other work; latencies do less.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psycopg
from sqlalchemy import bindparam, func, select
from sqlalchemy.engine import make_url

from benchmarks.copies import copied_id, copy_instance
from benchmarks.stacks import (
    CALLER,
    application_database,
    await_ended,
    begin,
    cpu_by_part,
    from_threads,
    quantiles,
    start,
    tell,
    write_report,
)
from common.commands.definitions import apply_definition
from common.commands.send import send_event
from common.config import limits_of_process
from common.db import Database
from common.db.tables import attempts, history, instances, tasks, timers
from common.ids import InstanceId, TenantId
from common.store import keys
from signalbox.bench import TENANT, postgres_server, stack_on, steps_chart
from signalbox.folder import DataFolder
from signalbox.machine import describe_machine
from signalbox.stack import Stack

SIZES = (1_000, 100_000, 1_000_000)
EMBEDDED_SIZES = (1_000, 100_000)
HISTORY = 10
PATIENCE_SECONDS = 60.0
DELAY_MS = 1_500
"""Longer than an orchestrator goes without a look at the clock: a timer that is armed and due between two looks has to wait for the second."""
WORK = steps_chart(3)
SLEEPER = {
    "id": "sleeper",
    "initial": "asleep",
    "context": {"pings": 0},
    "states": {
        "asleep": {
            "after": {"30d": "awake"},
            "on": {
                "PING": {"actions": {"type": "assign", "path": "pings", "value": "${context.pings + 1}"}},
                "STOP": "awake",
            },
        },
        "awake": {"type": "final"},
    },
}
TIMED = {
    "id": "timed",
    "initial": "asleep",
    "states": {"asleep": {"after": {str(DELAY_MS): "awake"}}, "awake": {"type": "final"}},
}


@dataclass(frozen=True)
class Amounts:
    """How much of each is done in a round."""

    live: int = 1_000
    alone: int = 60
    timed: int = 60
    timed_a_second: float = 20.0
    events: int = 600


@dataclass
class Site:
    """One size: a database with so many instances that wait, and its stack."""

    waiting: int
    stack: Stack
    database: Database
    tenant_id: TenantId
    first: InstanceId
    rounds: list[dict[str, float]] = field(default_factory=list)

    def measure(self, amounts: Amounts) -> None:
        """One round of everything; keeps its figures."""
        ids, cpu, seconds = self._counting(lambda: self._live(amounts.live))
        figures = {
            f"workflow, CPU ms of {part}": 1_000 * used / len(ids)
            for part, used in cpu.items()
            if part != CALLER
        }
        figures = {
            "workflow, CPU ms": sum(figures.values()) + 1_000 * cpu[CALLER] / len(ids),
            **figures,
            "workflow, CPU ms of its starter": 1_000 * cpu[CALLER] / len(ids),
            "workflows a second, live": len(ids) / seconds,
        }
        figures |= self._alone(amounts.alone)
        figures |= self._timed(amounts)
        _ids, cpu, seconds = self._counting(lambda: self._events(amounts.events))
        figures |= {
            "event to one that waits, CPU ms": 1_000 * sum(cpu.values()) / amounts.events,
            "event, CPU ms of postgres": 1_000 * cpu.get("postgres", 0.0) / amounts.events,
            "events a second": amounts.events / seconds,
        }
        self.rounds.append(figures)
        tell(
            f"{self.waiting:,} waiting: {figures['workflow, CPU ms']:.2f} ms of CPU a workflow,"
            f" {figures['alone, ms p50']:.1f} ms alone, timers {figures['timer late, ms p50']:.1f} ms late"
        )

    def medians(self) -> dict[str, float]:
        return {name: round(median(one[name] for one in self.rounds), 3) for name in self.rounds[0]}

    def _counting(
        self, work: Callable[[], Sequence[InstanceId]]
    ) -> tuple[Sequence[InstanceId], dict[str, float], float]:
        """What `work` returns, the CPU seconds of each part meanwhile, and the seconds that it took."""
        before, began = cpu_by_part(self.stack), time.monotonic()
        found = work()
        seconds, after = time.monotonic() - began, cpu_by_part(self.stack)
        return found, {part: after[part] - before[part] for part in after}, seconds

    def _live(self, count: int) -> Sequence[InstanceId]:
        ids = from_threads(lambda _n: start(self.database, self.tenant_id, str(WORK["id"])), range(count))
        await_ended(self.stack, self.database, self.tenant_id, ids)
        return ids

    def _alone(self, count: int) -> dict[str, float]:
        """One workflow at a time; its latency by the rows, and how long its tasks waited for their claims."""
        took: list[float] = []
        ids: list[InstanceId] = []
        for _ in range(count):
            ids.append(start(self.database, self.tenant_id, str(WORK["id"])))
            [record] = await_ended(self.stack, self.database, self.tenant_id, ids[-1:])
            assert record.finished_at is not None
            took.append((record.finished_at - record.created_at).total_seconds() * 1_000)
        t, a = tasks.c, attempts.c
        claims = (
            select(t.run_at, a.started_at)
            .join(attempts, a.task_id == t.id)
            .where(t.instance_id.in_(bindparam("ids", expanding=True)))
        )
        with self.database.reading() as tx:
            waits = [
                (row.started_at - row.run_at).total_seconds() * 1_000
                for row in tx.execute(claims, {"ids": ids})
            ]
        return {
            **{f"alone, ms {name}": value for name, value in quantiles(took, 50, 95).items()},
            **{f"claim after due, ms {name}": value for name, value in quantiles(waits, 50, 95).items()},
        }

    def _timed(self, amounts: Amounts) -> dict[str, float]:
        """Timers that fall due one after the other: how late they fire, and when their instances have stepped."""
        began = time.monotonic()
        ids: list[InstanceId] = []
        for number in range(amounts.timed):
            time.sleep(max(began + number / amounts.timed_a_second - time.monotonic(), 0.0))
            ids.append(start(self.database, self.tenant_id, str(TIMED["id"])))
        await_ended(self.stack, self.database, self.tenant_id, ids)
        r, i = timers.c, instances.c
        query = (
            select(r.due_at, r.finished_at, i.finished_at.label("stepped_at"))
            .join(instances, i.id == r.instance_id)
            .where(r.instance_id.in_(bindparam("ids", expanding=True)))
        )
        with self.database.reading() as tx:
            rows = tx.execute(query, {"ids": ids}).all()
        late = [(row.finished_at - row.due_at).total_seconds() * 1_000 for row in rows]
        stepped = [(row.stepped_at - row.due_at).total_seconds() * 1_000 for row in rows]
        if min(late) < 0:
            raise ValueError(f"a timer fired {-min(late):.3f} ms early")
        return {
            **{f"timer late, ms {name}": value for name, value in quantiles(late, 50, 95).items()},
            **{
                f"timer due to stepped, ms {name}": value
                for name, value in quantiles(stepped, 50, 95).items()
            },
        }

    def _events(self, count: int) -> Sequence[InstanceId]:
        """Send to instances that wait, a different one each round and as far from each other as there are."""
        stride = max(self.waiting // count, 1)
        numbers = [
            (n * stride + len(self.rounds)) % self.waiting + 1 for n in range(min(count, self.waiting))
        ]
        with self.database.reading() as tx:
            column = copied_id(tx, f"'{self.first}'", "{n}")
            mine = [
                InstanceId(str(tx.exec_driver_sql(f"SELECT {column.format(n=n)}").scalar_one()))
                for n in numbers
            ]
        targets = [mine[n % len(mine)] for n in range(count)]
        before = self._consumed(mine)

        def send(number: int) -> InstanceId:
            self.database.run(
                lambda tx: send_event(
                    tx,
                    self.tenant_id,
                    targets[number],
                    {"type": "PING"},
                    actor="bench",
                    limits=limits_of_process(),
                )
            )
            return targets[number]

        from_threads(send, range(count))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (consumed := self._consumed(mine) - before) < count:
            self.stack.tick()
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{count - consumed} of {count} events not consumed after {PATIENCE_SECONDS:g} s"
                )
            time.sleep(0.02)
        return targets

    def _consumed(self, ids: Sequence[InstanceId]) -> int:
        """Events that these have consumed, ever."""
        query = select(func.sum(instances.c.sequence)).where(
            instances.c.id.in_(bindparam("ids", expanding=True))
        )
        with self.database.reading() as tx:
            return int(tx.execute(query, {"ids": list(ids)}).scalar_one())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__.splitlines()[0])
    parser.add_argument(
        "-n",
        "--waiting",
        type=int,
        action="append",
        help="instances that wait; once a size, the smallest first",
    )
    parser.add_argument(
        "--rounds", type=int, default=6, help="of each size, an even number goes up as often as down"
    )
    parser.add_argument("--embedded", action="store_true", help="SQLite, as `signalbox up` runs")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    begin()
    sizes = asked.waiting or (EMBEDDED_SIZES if asked.embedded else SIZES)
    write_report(measure(sizes, asked.rounds, is_embedded=asked.embedded), as_json=asked.json)


def measure(
    sizes: Sequence[int], rounds: int, *, is_embedded: bool, amounts: Amounts | None = None
) -> dict[str, Any]:
    """The medians of each size and their ratios to the first."""
    amounts = amounts or Amounts()
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="signalbox-growth-")))
        server = None
        if not is_embedded:
            server = DataFolder.at(folder / "server")
            server.create()
        url = None if server is None else ending.enter_context(postgres_server(server, tell))
        sites = [_site(ending, folder / str(size), url, size) for size in sizes]
        for number in range(rounds):
            for site in sites if number % 2 == 0 else reversed(sites):
                site.measure(amounts)
        medians = [site.medians() for site in sites]
        return {
            "machine": describe_machine(),
            "database": "SQLite" if is_embedded else "PostgreSQL, fsync on",
            "rounds": rounds,
            "medians": [_row(site, one) for site, one in zip(sites, medians, strict=True)],
            "ratios": [
                {"waiting": site.waiting, **_ratios(one, medians[0])}
                for site, one in zip(sites, medians, strict=True)
            ],
        }


def _row(site: Site, medians: Mapping[str, float]) -> dict[str, Any]:
    with site.database.reading() as tx:
        entries = tx.exec_driver_sql("SELECT count(*) FROM history").scalar_one()
        armed = tx.exec_driver_sql("SELECT count(*) FROM timers WHERE status = 'armed'").scalar_one()
    return {"waiting": site.waiting, "rows of history": entries, "timers armed": armed, **medians}


def _ratios(figures: Mapping[str, float], first: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value / first[name], 2) for name, value in figures.items() if first[name]}


def _site(ending: ExitStack, folder: Path, server_url: str | None, waiting: int) -> Site:
    """A database and a stack, with so many instances that wait."""
    folder.mkdir()
    url = None if server_url is None else _create_database(server_url, f"growth_{waiting}")
    stack = ending.enter_context(stack_on(url, folder, tell))
    database = application_database(stack, ending)
    with database.transaction() as tx:
        tenant_id = keys.ensure_tenant(tx, TENANT)
        for chart in (WORK, SLEEPER, TIMED):
            apply_definition(tx, tenant_id, chart, actor="bench", limits=limits_of_process())
    first = start(database, tenant_id, str(SLEEPER["id"]))
    site = Site(waiting, stack, database, tenant_id, first)
    for _ in range(HISTORY - 1):
        database.run(
            lambda tx: send_event(
                tx, tenant_id, first, {"type": "PING"}, actor="bench", limits=limits_of_process()
            )
        )
    deadline = time.monotonic() + PATIENCE_SECONDS
    while site._consumed([first]) < HISTORY:
        stack.tick()
        if time.monotonic() > deadline:
            raise TimeoutError("the first instance did not consume its events")
        time.sleep(0.02)
    copy_instance(database, first, waiting, tables=(instances, history, timers))
    await_ended(stack, database, tenant_id, [start(database, tenant_id, str(WORK["id"])) for _ in range(20)])
    return site


def _create_database(server_url: str, name: str) -> str:
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return make_url(server_url).set(database=name).render_as_string(hide_password=False)


if __name__ == "__main__":
    main()
