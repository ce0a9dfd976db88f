"""`signalbox bench`: how many workflows a second, and how long one takes, on this machine and this database.

Brings up its own stack, with the workers that `signalbox up` would run there unless others are asked for, starts instances as an application does (in its own
process, through `common.commands.start`, with doorbells) or over HTTP, and reads every figure from the rows: an
instance took from its `created_at` to its `finished_at`, on the database's clock. Three ways of asking:

- **latency**: one instance at a time, the next when the one before has ended;
- **live**: all of them from a few threads, as fast as they can be started, while the workers run;
- **backlog**: all of them started while no worker runs, then the workers come.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from common.commands.definitions import apply_definition
from common.commands.start import Start, start_instance
from common.config import Limits, Settings, redact_url
from common.db import Database
from common.errors import Misconfigured, NotFound, SignalboxError
from common.ids import TenantId
from common.lifecycle import InstanceStatus
from common.observability import configure_logging
from common.queues import doorbell
from common.queues.changes import LOOK_SECONDS, Changes
from common.store import keys, listing
from common.store.listing import InstanceRecord
from signalbox.cli.follow import ENDED
from signalbox.client import Client
from signalbox.folder import DataFolder
from signalbox.machine import describe_machine
from signalbox.measure import Figures, Latency, Run, backlog_figures, latency, live_figures
from signalbox.parts import USUAL, Workers
from signalbox.shapes import Json
from signalbox.stack import Plan, Stack
from signalbox.supervisor import Notice, Supervisor
from signalbox.throwaway_postgres import throwaway_postgres

Mode = Literal["latency", "live", "backlog"]
Where = Literal["embedded", "postgres", "environment"]

NOOP = "signalbox.noop"
LIGHT_NOOP = "bench.light"
LIGHT_HANDLERS = "signalbox.bench_handlers"
"""The module of `LIGHT_NOOP`, which is loaded for `--light` alone: a runner that knows light handlers claims otherwise."""
TENANT = "bench"
WARM_UP = 20
STARTERS = 4
READ_AT_ONCE = 500
STANDSTILL_SECONDS = 30.0
POSTGRES_SECONDS = 20.0
LATENCY_SHARE = 10
"""One at a time takes long: it is measured with this fraction of the instances."""


@dataclass(frozen=True)
class Options:
    """What to measure. `document` None: a chart of `steps` no-op SYSTEM tasks, one after the other, of a `light` handler if `is_light`."""

    instances: int
    steps: int
    modes: Sequence[Mode]
    where: Where
    over_http: bool = False
    document: Mapping[str, Json] | None = None
    input: Json = None
    is_light: bool = False
    workers: Workers = USUAL

    @property
    def chart(self) -> Mapping[str, Json]:
        """The workflow to measure."""
        return self.document or steps_chart(self.steps, LIGHT_NOOP if self.is_light else NOOP)


@dataclass(frozen=True)
class Measurement:
    """One mode's figures. `caller` is the latency as the caller saw it, where it waited for each instance."""

    mode: Mode
    figures: Figures
    start_seconds: float
    caller: Latency | None = None


class Starter(Protocol):
    """Starts one instance and returns its id; called from several threads."""

    def __call__(self) -> str: ...


Tell = Callable[[str], None]


class BenchFailed(SignalboxError):
    """What was to be measured did not run to its end."""

    code = "bench.failed"


def steps_chart(steps: int, function: str = NOOP) -> dict[str, Json]:
    """A chart that asks for `steps` tasks of a function, one after the other."""
    states: dict[str, Json] = {
        f"step{number}": {
            "entry": [
                {
                    "type": "createTask",
                    "task": {"type": "SYSTEM", "name": function, "completionEvent": f"DONE_{number}"},
                }
            ],
            "on": {f"DONE_{number}": f"step{number + 1}" if number < steps else "done"},
        }
        for number in range(1, steps + 1)
    }
    return {"id": f"bench-{steps}-steps", "initial": "step1", "states": {**states, "done": {"type": "final"}}}


def measure(options: Options, tell: Tell) -> dict[str, Json]:
    """Bring up a stack, measure each mode on it, take it down; the report as JSON.

    `tell` gets a line of progress now and then. Raises `BenchFailed` when instances stop making progress.
    """
    configure_logging("bench", level="WARNING")
    notices: list[Notice] = []
    with (
        tempfile.TemporaryDirectory(prefix="signalbox-bench-") as folder,
        bench_stack(options, Path(folder), tell, notices.append) as stack,
        _bench(stack, options, tell) as bench,
    ):
        measurements = [bench.measure(mode) for mode in options.modes]
        return _report(options, stack, bench.steps_of_one, measurements, notices)


@contextmanager
def bench_stack(
    options: Options, path: Path, tell: Tell, say: Callable[[Notice], None] = lambda _notice: None
) -> Iterator[Stack]:
    """A stack of its own in an empty folder; taken down at the end."""
    with ExitStack() as ending:
        folder = DataFolder.at(path)
        folder.create()
        database_url, redis_url = _servers(options.where, folder, ending, tell)
        yield ending.enter_context(
            stack_on(
                database_url,
                path,
                tell,
                say,
                redis_url=redis_url,
                has_api=options.over_http,
                handlers=(LIGHT_HANDLERS,) if options.is_light else (),
                workers=options.workers,
            )
        )


@contextmanager
def stack_on(
    database_url: str | None,
    path: Path,
    tell: Tell,
    say: Callable[[Notice], None] = lambda _notice: None,
    *,
    redis_url: str | None = None,
    has_api: bool = False,
    handlers: Sequence[str] = (),
    workers: Workers = USUAL,
) -> Iterator[Stack]:
    """The same on a database that is there, or on SQLite in its folder (None), with further modules of handlers."""
    plan = Plan(
        folder=DataFolder.at(path),
        cwd=Path.cwd(),
        environment=_environment(os.environ, handlers),
        database_url=database_url,
        redis_url=redis_url,
        tenant=TENANT,
        has_api=has_api,
        workers=workers,
    )
    with Stack(plan, say) as stack:
        for ready in stack.start():
            tell(f"{ready.name}: {ready.detail}")
        yield stack


def _environment(mine: Mapping[str, str], handlers: Sequence[str]) -> dict[str, str]:
    """Our own, without what would make the processes something else than they are by default."""
    kept = {
        name: value for name, value in mine.items() if name not in ("DATABASE_URL", "REDIS_URL", "SMTP_URL")
    }
    modules = [one for one in (kept.get("SIGNALBOX_HANDLERS"), *handlers) if one]
    return kept | ({"SIGNALBOX_HANDLERS": ",".join(modules)} if modules else {})


def _servers(
    where: Where, folder: DataFolder, ending: ExitStack, tell: Tell
) -> tuple[str | None, str | None]:
    """(database URL, broker URL) to measure on; None for an embedded one."""
    if where == "embedded":
        return None, None
    if where == "environment":
        settings = Settings.load()
        if "database_url" not in settings.model_fields_set:
            raise Misconfigured("--environment measures on DATABASE_URL, and that is not set")
        given = "redis_url" in settings.model_fields_set
        return settings.database_url, settings.redis_url if given else None
    return ending.enter_context(postgres_server(folder, tell)), None


@contextmanager
def postgres_server(folder: DataFolder, tell: Tell) -> Iterator[str]:
    """The URL of a PostgreSQL of our own that answers; its log is in `folder`."""
    with ExitStack() as ending:
        server = ending.enter_context(throwaway_postgres())
        supervisor = Supervisor(
            folder.logs, folder.path, lambda notice: tell(f"{notice.part}: {notice.text}")
        )
        ending.callback(supervisor.stop)
        supervisor.start(server.part)
        await_database(server.url, supervisor)
        tell("postgres: from the wheel, fsync on")
        yield server.url


def await_database(url: str, supervisor: Supervisor) -> None:
    import psycopg  # noqa: PLC0415 - only this way of measuring speaks to PostgreSQL before our own engine does

    deadline = time.monotonic() + POSTGRES_SECONDS
    while True:
        supervisor.tick()
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                log = "\n".join(supervisor.log_end("postgres"))
                raise BenchFailed(
                    f"PostgreSQL does not answer: {error}\n{log}", code="bench.postgres"
                ) from error
            time.sleep(0.05)
        else:
            return


@contextmanager
def _bench(stack: Stack, options: Options, tell: Tell) -> Iterator[Bench]:
    """Open what an application would hold open, and apply the definition."""
    overrides = {"database_url": stack.database_url, "redis_url": stack.redis_url or "memory://localhost"}
    settings = Settings.load(**overrides, doorbells=stack.redis_url is not None)
    database = Database.open(settings.database_url, name="signalbox-bench")
    bells = doorbell.attach(database, settings)
    changes = Changes.open(settings.redis_url)
    client = stack.client()
    try:
        document = options.chart
        tenant_id, key = _apply(database, document)
        start = (
            _over_http(client, key, options)
            if options.over_http
            else _in_process(database, tenant_id, key, options)
        )
        yield Bench(stack, database, tenant_id, changes, start, options, tell)
    finally:
        client.close()
        changes.close()
        if bells is not None:
            bells.close()
        database.dispose()


def _apply(database: Database, document: Mapping[str, Json]) -> tuple[TenantId, str]:
    with database.transaction() as tx:
        tenant_id = keys.find_tenant(tx, TENANT)
        if tenant_id is None:
            raise NotFound(f'no tenant "{TENANT}"', code="tenant.not_found")
        applied = apply_definition(tx, tenant_id, document, actor="bench", limits=Limits.load())
    return tenant_id, applied.key


def _in_process(database: Database, tenant_id: TenantId, key: str, options: Options) -> Starter:
    request = Start(definition_key=key, input=options.input)
    limits = Limits.load()

    def start() -> str:
        return database.run(
            lambda tx: start_instance(tx, tenant_id, request, actor="bench", limits=limits)
        ).instance_id

    return start


def _over_http(client: Client, key: str, options: Options) -> Starter:
    return lambda: client.start(key, input=options.input)["id"]


@dataclass
class Bench:
    """One stack under measurement."""

    stack: Stack
    database: Database
    tenant_id: TenantId
    changes: Changes
    start: Starter
    options: Options
    tell: Tell
    steps_of_one: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        # The first instances pay for compiling the chart and preparing the statements, once a process.
        runs = self._await_all([self.start() for _ in range(WARM_UP)])
        self.steps_of_one = runs[0].steps
        self.tell(f"warmed up with {WARM_UP} instances")

    def measure(self, mode: Mode) -> Measurement:
        match mode:
            case "latency":
                found = self._one_at_a_time(max(self.options.instances // LATENCY_SHARE, 1))
            case "live":
                found = self._live(self.options.instances)
            case "backlog":
                found = self._backlog(self.options.instances)
        self.tell(f"{mode}: {found.figures.instances} instances measured")
        return found

    def _one_at_a_time(self, count: int) -> Measurement:
        ids: list[str] = []
        seen: list[float] = []
        began = time.perf_counter()
        for _ in range(count):
            asked = time.perf_counter()
            instance_id = self.start()
            self._await_one(instance_id)
            seen.append((time.perf_counter() - asked) * 1_000)
            ids.append(instance_id)
        took = time.perf_counter() - began
        return Measurement("latency", live_figures(self._await_all(ids)), took, latency(seen))

    def _live(self, count: int) -> Measurement:
        ids, took = self._start_many(count)
        return Measurement("live", live_figures(self._await_all(ids)), took)

    def _backlog(self, count: int) -> Measurement:
        self.stack.stop_workers()
        ids, took = self._start_many(count)
        for _ready in self.stack.start_workers():
            pass
        return Measurement("backlog", backlog_figures(self._await_all(ids)), took)

    def _start_many(self, count: int) -> tuple[list[str], float]:
        """Start instances from a few threads; their ids, and the seconds that it took."""
        left = iter(range(count))
        turn = threading.Lock()

        def work() -> list[str]:
            ids: list[str] = []
            while True:
                with turn:
                    if next(left, None) is None:
                        return ids
                ids.append(self.start())

        began = time.perf_counter()
        with ThreadPoolExecutor(STARTERS) as pool:
            parts = [future.result() for future in [pool.submit(work) for _ in range(STARTERS)]]
        return [instance_id for part in parts for instance_id in part], time.perf_counter() - began

    def _await_one(self, instance_id: str) -> None:
        deadline = time.monotonic() + STANDSTILL_SECONDS
        with self.changes.subscribe(instance_id) as changed:
            while True:
                changed.clear()
                with self.database.looking() as tx:
                    record = listing.read_instance(tx, self.tenant_id, instance_id)
                status = "absent" if record is None else record.status
                if status in ENDED:
                    return
                if time.monotonic() > deadline:
                    raise _standstill(1, status)
                changed.wait(LOOK_SECONDS)

    def _await_all(self, ids: Sequence[str]) -> list[Run]:
        """Wait until every instance has ended. Raises `BenchFailed` when none ends for 30 s, or one did not complete."""
        found: dict[str, InstanceRecord] = {}
        left = list(ids)
        patience = time.monotonic() + STANDSTILL_SECONDS
        while left:
            self.stack.tick()
            # The last ones end last: while they run, reading all the others would only take time from the workers.
            is_late = time.monotonic() > patience
            if is_late or self._ended(left[-STARTERS:]):
                ended = self._ended(left)
                if is_late and not ended:
                    raise _standstill(len(left), self._read(left[:1])[left[0]].status)
                found |= ended
                left = [one for one in left if one not in ended]
                patience = time.monotonic() + STANDSTILL_SECONDS
            if left:
                time.sleep(0.05)
        return [_run(found[one]) for one in ids]

    def _ended(self, ids: Sequence[str]) -> dict[str, InstanceRecord]:
        return {one: record for one, record in self._read(ids).items() if record.status in ENDED}

    def _read(self, ids: Sequence[str]) -> dict[str, InstanceRecord]:
        found: dict[str, InstanceRecord] = {}
        for begin in range(0, len(ids), READ_AT_ONCE):
            with self.database.reading() as tx:
                found |= listing.read_instances(tx, self.tenant_id, ids[begin : begin + READ_AT_ONCE])
        return found


def _run(record: InstanceRecord) -> Run:
    if (
        record.status is not InstanceStatus.COMPLETED
        or record.started_at is None
        or record.finished_at is None
    ):
        raise BenchFailed(
            f'instance {record.id} is "{record.status}", expected "completed": a definition to measure runs to its '
            f"end by itself; error: {record.error}",
            code="bench.not_completed",
        )
    return Run(record.created_at, record.started_at, record.finished_at, record.sequence)


def _standstill(count: int, status: str) -> BenchFailed:
    return BenchFailed(
        f'{count} instances made no progress for {STANDSTILL_SECONDS:g} s, one of them is "{status}"; '
        "a definition to measure runs to its end by itself",
        code="bench.standstill",
    )


def _report(
    options: Options, stack: Stack, steps: int, measurements: Sequence[Measurement], notices: Sequence[Notice]
) -> dict[str, Json]:
    database = {
        "embedded": "SQLite, WAL, synchronous=FULL",
        "postgres": "PostgreSQL from the wheel, fsync on",
    }
    return {
        "machine": describe_machine(),
        "stack": {
            "database": database.get(options.where) or redact_url(stack.database_url),
            "broker": stack.broker.version() if stack.broker else redact_url(stack.redis_url or "none"),
            "orchestrators": stack.workers.orchestrators,
            "taskRunners": stack.workers.task_runners,
            "starts": "over HTTP" if options.over_http else "in process",
            "starters": STARTERS,
        },
        "workflow": {
            "definition": _name(options),
            "steps": steps,
            "handlers": "light" if options.is_light else "ordinary",
        },
        "measurements": [_measurement(one) for one in measurements],
        "notices": [f"{notice.part}: {notice.text}" for notice in notices],
    }


def _name(options: Options) -> str:
    return str(options.chart["id"])


def _measurement(one: Measurement) -> dict[str, Any]:
    figures = one.figures
    found = {
        "mode": one.mode,
        "instances": figures.instances,
        "seconds": round(figures.seconds, 3),
        "workflowsPerSecond": round(figures.workflows_per_second, 1),
        "stepsPerSecond": round(figures.steps_per_second, 1),
        "startsPerSecond": round(figures.instances / one.start_seconds, 1),
        "latencyMs": _latency(figures.latency),
    }
    return found | ({"callerLatencyMs": _latency(one.caller)} if one.caller else {})


def _latency(found: Latency) -> dict[str, float]:
    return {"p50": round(found.p50, 2), "p95": round(found.p95, 2), "p99": round(found.p99, 2)}
