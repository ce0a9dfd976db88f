"""What would be the limit beyond this machine, and at which rate: measured demands, and a simulation of more of everything.

    python -m benchmarks.scale                                  measures on PostgreSQL with 1, 2 and 3 workers of each duty
    python -m benchmarks.scale --workers 1 --workers 2 -n 500 --json
    python -m benchmarks.scale --cores 16 --flush-ms 0.5        simulates a database server of that kind

**Measured**, for each number of orchestrators and task runners: 3-step workflows that are all there at once; CPU time by process, transactions,
bytes of WAL, flushes of the WAL and what PostgreSQL's backends waited for (sampled). This machine cannot run many workers side by side, so no rate
is told to scale. What more workers cost is seen in the CPU time of a workflow: it rises by what they take from each other's batches and skip
of each other's locks. That rise a worker is the contention that the simulation goes on with (the sigma of the Universal Scalability Law, X(N) =
N / (1 + sigma (N - 1))); far beyond what was measured it is a guess.

**Simulated**: workflows that arrive at random pass through orchestrators, task runners (a process each: one core at the most, because of the
interpreter's lock), the cores of the database server and the flush of its WAL, which takes along all who wait for it. Demands are those that were
measured. Told are the latency at each rate, and the part that is busiest; a rate at which something is
asked for more than it has is not sustained. Network round trips, caches that are too small and vacuum are not in it.
"""

from __future__ import annotations

import argparse
import heapq
import random
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from sqlalchemy import Connection

from benchmarks.stacks import (
    CALLER,
    POSTGRES,
    application_database,
    await_ended,
    begin,
    cpu_by_part,
    quantiles,
    tell,
    write_report,
)
from common.commands.definitions import apply_definition
from common.commands.start import Start, start_instance
from common.config import limits_of_process
from common.db import Database
from common.ids import InstanceId, TenantId
from common.store import keys
from signalbox.bench import TENANT, Options, bench_stack, steps_chart
from signalbox.machine import describe_machine
from signalbox.parts import Workers
from signalbox.stack import DUTIES, Stack

STEPS = 3
WORK = steps_chart(STEPS)
SAMPLE_SECONDS = 0.02
SETTLE_SECONDS = 2.0
LEAST_CPU_MS = 0.01
WARM_UP = 50
FLUSHES = 100
HOPS = ("start", *("step", "claim", "report") * STEPS, "step")
"""The transactions of a workflow, one after the other."""


@dataclass(frozen=True)
class Demands:
    """What a workflow asks of each part, in seconds of one core. `flush`: of one flush of the WAL."""

    orchestrator: float
    task_runner: float
    postgres: float
    flush: float
    contention: float
    """By how much a workflow's CPU time rises with each further worker of a duty, as a share of that with one."""


@dataclass(frozen=True)
class Site:
    """What there is of everything."""

    orchestrators: int
    task_runners: int
    cores: int
    """Of the database server."""


class _Servers:
    """So many servers with one queue; who is served goes on when his time is over."""

    def __init__(self, world: _World, count: int) -> None:
        self._world = world
        self._free = self._count = count
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()
        self.busy = 0.0

    def ask(self, seconds: float, then: Callable[[], None]) -> None:
        self._waiting.append((seconds, then))
        self._serve()

    def utilisation(self, seconds: float) -> float:
        return self.busy / seconds / self._count

    def _serve(self) -> None:
        while self._free and self._waiting:
            seconds, then = self._waiting.popleft()
            self._free -= 1
            self.busy += seconds
            self._world.after(seconds, lambda then=then: self._done(then))  # type: ignore[misc]

    def _done(self, then: Callable[[], None]) -> None:
        self._free += 1
        then()
        self._serve()


class _Flush:
    """One flush at a time; whoever came before it began is served by it, however many."""

    def __init__(self, world: _World, seconds: float) -> None:
        self._world, self._seconds = world, seconds
        self._waiting: list[Callable[[], None]] = []
        self._is_busy = False
        self.busy = 0.0

    def ask(self, then: Callable[[], None]) -> None:
        self._waiting.append(then)
        if not self._is_busy:
            self._begin()

    def utilisation(self, seconds: float) -> float:
        return self.busy / seconds

    def _begin(self) -> None:
        served, self._waiting = self._waiting, []
        self._is_busy = True
        self.busy += self._seconds

        def done() -> None:
            self._is_busy = False
            for then in served:
                then()
            if self._waiting and not self._is_busy:
                self._begin()

        self._world.after(self._seconds, done)


class _World:
    """A clock and what happens when."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self._coming: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def after(self, seconds: float, then: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._coming, (self.now + seconds, self._number, then))

    def run(self) -> None:
        while self._coming:
            self.now, _number, then = heapq.heappop(self._coming)
            then()


def simulate(
    demands: Demands, site: Site, rate: float, *, workflows: int = 4_000, seed: int = 1
) -> dict[str, float]:
    """Workflows that arrive `rate` a second, at random: their latency in ms, and how busy each part is, in percent.

    Each service time is exponential about its mean. Not sustained: the latency of the last tenth is more than twice that
    of the second, because a queue grows.
    """
    world = _World(seed)
    rises = 1 + demands.contention * (max(site.orchestrators, site.task_runners) - 1)
    database, flush = _Servers(world, site.cores), _Flush(world, demands.flush)
    workers = {
        "step": _Servers(world, site.orchestrators),
        "claim": _Servers(world, site.task_runners),
        "report": _Servers(world, site.task_runners),
    }
    workers["report"] = workers["claim"]
    of_workers = {
        "step": demands.orchestrator / HOPS.count("step"),
        "claim": demands.task_runner / 2 / HOPS.count("claim"),
        "report": demands.task_runner / 2 / HOPS.count("report"),
    }
    of_database = demands.postgres / len(HOPS)
    took: list[float] = []

    def about(mean: float) -> float:
        return world.random.expovariate(1 / (mean * rises)) if mean else 0.0

    def arrive() -> None:
        began = world.now

        def hop(number: int) -> None:
            if number == len(HOPS):
                took.append(1_000 * (world.now - began))
                return
            name = HOPS[number]

            def write() -> None:
                database.ask(about(of_database), lambda: flush.ask(lambda: hop(number + 1)))

            if name in workers:
                workers[name].ask(about(of_workers[name]), write)
            else:
                write()

        hop(0)

    at = 0.0
    for _ in range(workflows):
        at += world.random.expovariate(rate)
        world.after(at, arrive)
    world.run()
    share = max(len(took) // 10, 1)
    early, late = median(took[share : 2 * share]), median(took[-share:])
    return {
        "workflows a second": rate,
        **{f"ms {name}": value for name, value in quantiles(took, 50, 99).items()},
        "sustained": late < 2 * early and at > 0.9 * world.now,
        "orchestrators busy, %": round(100 * workers["step"].utilisation(world.now)),
        "task runners busy, %": round(100 * workers["claim"].utilisation(world.now)),
        "database's cores busy, %": round(100 * database.utilisation(world.now)),
        "WAL flush busy, %": round(100 * flush.utilisation(world.now)),
    }


def limits(demands: Demands, site: Site) -> dict[str, int]:
    """Workflows a second at which each part is asked for all it has; the smallest is the limit."""
    rises = 1 + demands.contention * (max(site.orchestrators, site.task_runners) - 1)
    return {
        "orchestrators": round(site.orchestrators / demands.orchestrator / rises),
        "task runners": round(site.task_runners / demands.task_runner / rises),
        "database's cores": round(site.cores / demands.postgres / rises),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.splitlines()[0])
    parser.add_argument("-n", "--workflows", type=int, default=1_500, help="of a measured round")
    parser.add_argument(
        "--workers", type=int, action="append", help="of each duty (1, 2 and 3); once a number"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=16, help="of the simulated database server")
    parser.add_argument("--flush-ms", type=float, help="of its WAL; else what is measured here")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    begin()
    report = measure(
        asked.workers or [1, 2, 3],
        asked.rounds,
        asked.workflows,
        cores=asked.cores,
        flush_seconds=None if asked.flush_ms is None else asked.flush_ms / 1_000,
    )
    write_report(report, as_json=asked.json)


def measure(
    workers: Sequence[int], rounds: int, workflows: int, *, cores: int, flush_seconds: float | None = None
) -> dict[str, Any]:
    """What a workflow demands with so many workers of each duty, and what that comes to on a larger site."""
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="signalbox-scale-")))
        options = Options(instances=0, steps=STEPS, modes=(), where="postgres", workers=Workers(1, 1))
        stack = ending.enter_context(bench_stack(options, folder, tell))
        database = application_database(stack, ending)
        with database.transaction() as tx:
            tenant_id = keys.ensure_tenant(tx, TENANT)
            apply_definition(tx, tenant_id, WORK, actor="bench", limits=limits_of_process())
        flushes = flush_seconds or _flush_seconds(database)
        measured: dict[int, list[dict[str, Any]]] = {count: [] for count in workers}
        _round(stack, database, tenant_id, 1, min(workflows, 200))
        for number in range(rounds):
            for count in workers if number % 2 == 0 else list(reversed(workers)):
                figures = _round(stack, database, tenant_id, count, workflows)
                measured[count].append(figures)
                tell(
                    f"{count} of each: {figures['CPU ms']:.2f} ms of CPU a workflow, waits: {figures['waits']}"
                )
    rows = [
        {
            "workers of each duty": count,
            **{name: round(median(one[name] for one in found), 3) for name in found[0] if name != "waits"},
        }
        for count, found in measured.items()
    ]
    demands = _demands(rows, flushes)
    sites = [Site(n, n, cores) for n in (1, 2, 4, 8, 16)]
    return {
        "machine": describe_machine(),
        "measured": rows,
        "waits": {
            f"{count} of each": _shares(sum((one["waits"] for one in found), Counter()))
            for count, found in measured.items()
        },
        "demands": {
            "orchestrator, ms": round(1_000 * demands.orchestrator, 3),
            "task runner, ms": round(1_000 * demands.task_runner, 3),
            "database, ms": round(1_000 * demands.postgres, 3),
            "a flush, ms": round(1_000 * demands.flush, 3),
            "contention a worker": round(demands.contention, 3),
        },
        "limits": [
            {
                "workers of each duty": site.orchestrators,
                "database's cores": cores,
                **_limits_row(demands, site),
            }
            for site in sites
        ],
        "simulated": [
            {
                "workers of each duty": site.orchestrators,
                **simulate(demands, site, share * _smallest(demands, site)),
            }
            for site in sites[1::2]
            for share in (0.5, 0.8, 1.1)
        ],
    }


def _limits_row(demands: Demands, site: Site) -> dict[str, Any]:
    found = limits(demands, site)
    return {
        **{f"{name}, workflows/s": rate for name, rate in found.items()},
        "first": min(found, key=lambda name: found[name]),
    }


def _smallest(demands: Demands, site: Site) -> int:
    return min(limits(demands, site).values())


def _demands(rows: Sequence[dict[str, Any]], flush_seconds: float) -> Demands:
    """Those with the fewest workers, and the slope of the CPU time over their number."""
    first, last = rows[0], rows[-1]
    added = last["workers of each duty"] - first["workers of each duty"]
    rise = (last["CPU ms"] / first["CPU ms"] - 1) / added if added else 0.0
    # The clock of a process ticks a hundred times a second: of a few workflows a part may have taken nothing.
    orchestrator, task_runner, postgres = (
        max(first[f"CPU ms of {part}"], LEAST_CPU_MS) / 1_000
        for part in ("orchestrators", "task runners", "postgres")
    )
    return Demands(
        orchestrator=orchestrator,
        task_runner=task_runner,
        postgres=postgres,
        flush=flush_seconds,
        contention=max(rise, 0.0),
    )


def _round(
    stack: Stack, database: Database, tenant_id: TenantId, count: int, workflows: int
) -> dict[str, Any]:
    """Workflows started live, beside `count` workers of each duty: what each took."""
    more = [stack.add_worker(duty, number).name for duty in DUTIES for number in range(2, count + 1)]
    await_ended(stack, database, tenant_id, _backlog(database, tenant_id, WARM_UP))
    time.sleep(SETTLE_SECONDS)
    waits: Counter[str] = Counter()
    over = threading.Event()
    sampling = threading.Thread(target=_sample, args=(database, waits, over), daemon=True)
    with database.transaction() as tx:
        ids = _start_all(tx, tenant_id, workflows)
        # Before the commit: from then on they are worked on, and of a few little may be left a moment later.
        before, facts, began = cpu_by_part(stack), _facts(database), time.monotonic()
    sampling.start()
    try:
        await_ended(stack, database, tenant_id, ids)
    finally:
        over.set()
        sampling.join()
    seconds, after = time.monotonic() - began, cpu_by_part(stack)
    time.sleep(SETTLE_SECONDS)  # backends tell their statistics with a delay
    facts_after = _facts(database)
    stack.supervisor.end(more)
    used = {part: 1_000 * (after[part] - before[part]) / workflows for part in after if part != CALLER}
    of_duty = {
        f"CPU ms of {duty.replace('-', ' ')}s": sum(
            one for part, one in used.items() if part.startswith(duty)
        )
        for duty in DUTIES
    }
    return {
        "CPU ms": sum(used.values()),
        **of_duty,
        "CPU ms of postgres": used[POSTGRES],
        **{name: (facts_after[name] - facts[name]) / workflows for name in facts},
        "workflows a second here": workflows / seconds,
        "waits": waits,
    }


def _facts(database: Database) -> dict[str, float]:
    """What PostgreSQL has counted until now."""
    with database.reading() as tx:
        version = int(tx.exec_driver_sql("SHOW server_version_num").scalar_one())
        flushed = (
            "SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal'"
            if version >= 180_000
            else "SELECT wal_sync FROM pg_stat_wal"
        )
        row = tx.exec_driver_sql(
            "SELECT (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()),"
            f" pg_current_wal_insert_lsn() - '0/0'::pg_lsn, ({flushed})"
        ).one()
    return {
        "transactions": float(row[0]),
        "WAL bytes": float(row[1]),
        "WAL flushes": float(row[2] or 0),
    }


def _sample(database: Database, waits: Counter[str], over: threading.Event) -> None:
    """What each busy backend waits for, again and again; "CPU" where it waits for nothing."""
    query = (
        "SELECT coalesce(wait_event_type || ':' || wait_event, 'CPU') FROM pg_stat_activity"
        " WHERE datname = current_database() AND state = 'active' AND pid <> pg_backend_pid()"
    )
    while not over.wait(SAMPLE_SECONDS):
        with database.reading() as tx:
            waits.update(row[0] for row in tx.exec_driver_sql(query))


def _shares(waits: Counter[str]) -> str:
    return ", ".join(f"{name} {100 * n / waits.total():.0f} %" for name, n in waits.most_common(5))


def _flush_seconds(database: Database) -> float:
    """How much longer a small transaction takes where its commit waits for the disk; the median of many, in turn."""
    took: dict[str, list[float]] = {"on": [], "off": []}
    for number in range(2 * FLUSHES):
        mode = "on" if number % 2 else "off"
        with database.transaction() as tx:
            tx.exec_driver_sql(f"SET LOCAL synchronous_commit = {mode}")
            tx.exec_driver_sql("SELECT pg_logical_emit_message(true, 'bench', 'x')")
            began = time.perf_counter()
            tx.commit()
            took[mode].append(time.perf_counter() - began)
    return max(median(took["on"]) - median(took["off"]), 1e-6)


def _backlog(database: Database, tenant_id: TenantId, count: int) -> list[InstanceId]:
    """Start so many in one transaction: they are all there at once, while every worker is up."""
    with database.transaction() as tx:
        return _start_all(tx, tenant_id, count)


def _start_all(tx: Connection, tenant_id: TenantId, count: int) -> list[InstanceId]:
    request = Start(definition_key=str(WORK["id"]))
    return [
        start_instance(tx, tenant_id, request, actor="bench", limits=limits_of_process()).instance_id
        for _ in range(count)
    ]


if __name__ == "__main__":
    main()
