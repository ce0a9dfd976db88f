"""About what this machine allows: the rows of a 3-step workflow, its commits and its wake-ups, by a program that decides nothing.

    python -m benchmarks.floor                 beside the engine itself, in turn; 3 rounds of 2,000 workflows each
    python -m benchmarks.floor -n 500 --rounds 1 --json

One workflow is run by the engine and its rows are recorded. Then two processes, on the same PostgreSQL with fsync and the same Valkey, write these rows again
and again under new ids, with as many transactions and calls as the engine's way has, and nothing in between: no chart, no guard, no hash, no policy, no lease that
is looked after. A stepper locks what has come, up to a hundred at once, reads its inbox and writes the next rows in one statement; a runner answers three calls.

* light: three calls while the instances are locked, then one commit.
* ordinary: the commit of each task comes before its call, and that of its end after it, with the next task: four commits.
* starts are the engine's own statement, which commits by itself.

What lies between is what the engine decides and looks after. It is an estimate and no proof: one process steps, it does not write while it steps, and its rows come as JSON. With two steppers,
or rows written more cheaply, the same work would be done somewhat faster.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import psycopg
from psycopg.types.string import TextLoader

from benchmarks.stacks import application_database, await_ended, begin, quantiles, start, tell, write_report
from common.commands.definitions import apply_definition
from common.config import Limits
from common.db import Database
from common.ids import DefinitionId, InstanceId, TenantId, new_id
from common.queues.calls import channel, client_of, connect, subscribe
from common.store import keys, starts
from common.store.starts import NewStart
from signalbox.bench import STARTERS, TENANT, Mode, Options, bench_stack
from signalbox.bench import measure as measure_engine
from signalbox.machine import describe_machine

Way = Literal["light", "ordinary"]
WAYS: tuple[Way, ...] = ("light", "ordinary")
BATCH = 100
TASKS = 3
ALONE_SHARE = 10
"""One at a time takes long: it is measured with this fraction of the workflows."""
WARM_UP = 50
SECONDS = 120.0
STEP, RUN, RAN, ENDED = "floor.step", "floor.run", "floor.ran", "floor.ended"
TABLES = ("tasks", "attempts", "history")
GENERATED = {"tx"}
"""Columns that the database fills."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.floor", description=__doc__.splitlines()[0])
    parser.add_argument("-n", "--workflows", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    begin()
    write_report(measure(asked.workflows, asked.rounds), as_json=asked.json)


def measure(workflows: int, rounds: int) -> dict[str, Any]:
    """Medians of engine and floor for both ways, each on servers of its own, in turn."""
    found: dict[tuple[Way, str], list[Mapping[str, float]]] = {}
    for number, way in itertools.product(range(rounds), WAYS):
        found.setdefault((way, "engine"), []).append(_engine(workflows, way))
        found.setdefault((way, "floor"), []).append(measure_floor(workflows, way))
        tell(f"round {number + 1} of {rounds}, {way}: measured")
    rows = [
        {"what": f"{way}, {which}", **{name: round(median(one[name] for one in each), 1) for name in each[0]}}
        for (way, which), each in found.items()
    ]
    return {
        "machine": describe_machine(),
        "workflows": workflows,
        "rounds": rounds,
        "a second, and ms": rows,
    }


def _engine(workflows: int, way: Way) -> dict[str, float]:
    modes: tuple[Mode, ...] = ("latency", "live", "backlog")
    asked = Options(workflows, TASKS, modes, "postgres", is_light=way == "light")
    report: Any = measure_engine(asked, lambda _line: None)
    told = {one["mode"]: one for one in report["measurements"]}
    return {
        "one at a time, p50": told["latency"]["callerLatencyMs"]["p50"],
        "live": told["live"]["workflowsPerSecond"],
        "backlog": told["backlog"]["workflowsPerSecond"],
    }


def measure_floor(workflows: int, way: Way) -> dict[str, float]:
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="signalbox-floor-")))
        options = Options(instances=0, steps=TASKS, modes=(), where="postgres", is_light=way == "light")
        stack = ending.enter_context(bench_stack(options, folder, lambda _line: None))
        database = application_database(stack, ending)
        with database.transaction() as tx:
            tenant_id = keys.ensure_tenant(tx, TENANT)
            apply_definition(tx, tenant_id, options.chart, actor="bench", limits=Limits())
        first = start(database, tenant_id, str(options.chart["id"]))
        await_ended(stack, database, tenant_id, [first])
        recorded = Recorded.read(database, first)
        stack.stop_workers()
        assert stack.redis_url is not None
        return Floor(database, stack.database_url, stack.redis_url, tenant_id, recorded, way).measure(
            workflows
        )


# -- what is written ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recorded:
    """The rows of one ended workflow by table, and the ids in them that are another's with each workflow, the instance's first."""

    instance: dict[str, Any]
    rows: Mapping[str, Sequence[dict[str, Any]]]
    ids: Sequence[str]

    @classmethod
    def read(cls, database: Database, instance_id: InstanceId) -> Recorded:
        """From the database, as PostgreSQL writes them in JSON."""
        of = {
            "tasks": "SELECT to_jsonb(t) FROM tasks t WHERE instance_id = %s ORDER BY created_at, key",
            "attempts": "SELECT to_jsonb(a) FROM attempts a JOIN tasks t ON t.id = a.task_id"
            " WHERE t.instance_id = %s ORDER BY t.created_at, t.key",
            "history": "SELECT to_jsonb(h) FROM history h WHERE instance_id = %s ORDER BY sequence",
        }
        with database.reading() as tx:
            [instance] = tx.exec_driver_sql(
                "SELECT to_jsonb(i) FROM instances i WHERE id = %s", (instance_id,)
            ).scalars()
            rows = {
                table: list(tx.exec_driver_sql(query, (instance_id,)).scalars())
                for table, query in of.items()
            }
        tokens = [row["token"] for row in rows["attempts"]]
        return cls(instance, rows, [instance_id, *(row["id"] for row in rows["tasks"]), *tokens])

    def phases(self, way: Way) -> list[Phase]:
        """What each commit writes, in order."""
        if way == "light":
            return [Phase(self.instance, self.rows, ends=[], has_call=False)]
        rows, steps = self.rows, self.rows["history"]
        found = []
        for number in range(TASKS + 1):
            begun = slice(number, number + 1)
            is_last = number == TASKS
            made = {
                "tasks": [_running(row) for row in rows["tasks"][begun]],
                "attempts": [row | {"ended_at": None, "outcome": None} for row in rows["attempts"][begun]],
                "history": steps[number:] if is_last else steps[begun],
            }
            ends = (
                []
                if number == 0
                else [rows["tasks"][number - 1] | {"attempts": rows["attempts"][number - 1]}]
            )
            instance = (
                self.instance if is_last else self.instance | {"status": "running", "finished_at": None}
            )
            found.append(Phase(instance, made, ends=ends, has_call=not is_last))
        return found


def _running(task: dict[str, Any]) -> dict[str, Any]:
    return {**task, "status": "running", "output": None, "finished_at": None}


@dataclass(frozen=True)
class Phase:
    """What one commit writes of a workflow: its instance anew, new rows by table, tasks that end; and whether a handler is called then."""

    instance: dict[str, Any]
    made: Mapping[str, Sequence[dict[str, Any]]]
    ends: Sequence[dict[str, Any]]
    has_call: bool

    def text(self) -> str:
        """As JSON, under the recorded ids."""
        return json.dumps({"instances": [self.instance], "ends": self.ends, **self.made})


def statement(recorded: Recorded) -> str:
    """Writes a batch of what phases write, from a list of their texts, and deletes the rows of the inbox that were consumed."""
    settable = [name for name in recorded.instance if name not in {"id", "tenant_id"}]
    parts = [
        "one AS MATERIALIZED (SELECT value AS w FROM jsonb_array_elements(%s::jsonb))",
        "gone AS (DELETE FROM inbox WHERE id = ANY(%s))",
        f"stepped AS (UPDATE instances SET {', '.join(f'{name} = r.{name}' for name in settable)}"
        " FROM one, jsonb_populate_recordset(NULL::instances, w -> 'instances') r WHERE instances.id = r.id)",
        "ended AS (UPDATE tasks SET status = r.status, output = r.output, finished_at = r.finished_at"
        " FROM one, jsonb_populate_recordset(NULL::tasks, w -> 'ends') r WHERE tasks.id = r.id)",
        "attempted AS (UPDATE attempts SET outcome = r.outcome, ended_at = r.ended_at FROM one, jsonb_array_elements(w -> 'ends') e,"
        " jsonb_populate_record(NULL::attempts, e -> 'attempts') r WHERE attempts.task_id = r.task_id AND attempts.token = r.token)",
    ]
    for table in TABLES:
        columns = ", ".join(name for name in recorded.rows[table][0] if name not in GENERATED)
        parts.append(
            f"new_{table} AS (INSERT INTO {table} ({columns}) SELECT {columns}"
            f" FROM one, jsonb_populate_recordset(NULL::{table}, w -> '{table}'))"
        )
    return f"WITH {', '.join(parts)} SELECT 1"


READY = "SELECT id, instance_id FROM inbox WHERE NOT parked ORDER BY tenant_id, id LIMIT %s"
LOCKED = (
    "SELECT i.*, x.id, x.body FROM instances i LEFT JOIN inbox x ON x.instance_id = i.id"
    " WHERE i.id = ANY(%s) FOR NO KEY UPDATE OF i SKIP LOCKED"
)

# -- who writes it ---------------------------------------------------------------------------------------------------


def stepper(database_url: str, redis_url: str, recorded: Recorded, way: Way, count: int) -> None:
    """Write `count` workflows to their ends, as they come; a process of its own."""
    hearing, saying = _ear(redis_url, STEP), _mouth(redis_url)
    answers = _ear(redis_url, RAN)
    texts = [phase.text() for phase in recorded.phases(way)]
    has_call = [phase.has_call for phase in recorded.phases(way)]
    write = statement(recorded)
    with psycopg.connect(database_url.replace("+psycopg", ""), prepare_threshold=0) as db:
        db.adapters.register_loader("uuid", TextLoader)
        _say(saying, ENDED, b"ready")
        left = count
        while left:
            ready = db.execute(READY, (BATCH,)).fetchall()
            if not ready:
                db.commit()
                _hear(hearing)
                continue
            new = {row[1]: [new_id() for _ in recorded.ids[1:]] for row in ready}
            gone = [row[0] for row in ready]
            for text, is_followed in zip(texts, has_call, strict=True):
                db.execute(LOCKED, (list(new),)).fetchall()
                for _ in range(TASKS if way == "light" else 0):
                    _say(saying, RUN, b" ".join(one.encode() for one in new))
                    _hear(answers)
                batch = ",".join(_renamed(text, recorded.ids, [one, *others]) for one, others in new.items())
                db.execute(write, (f"[{batch}]", gone))
                db.commit()
                gone = []
                if is_followed:
                    _say(saying, RUN, b" ".join(one.encode() for one in new))
                    _hear(answers)
            for one in new:
                _say(saying, ENDED, one.encode())
            left -= len(ready)


def _renamed(text: str, ids: Sequence[str], new: Sequence[str]) -> str:
    for old, other in zip(ids, new, strict=True):
        text = text.replace(old, other)
    return text


def runner(redis_url: str) -> None:
    """Answer each call; a process of its own, ended from outside."""
    hearing, saying = _ear(redis_url, RUN), _mouth(redis_url)
    _say(saying, ENDED, b"ready")
    while True:
        for said in _hear(hearing):
            _say(saying, RAN, said)


def _ear(redis_url: str, name: str) -> Any:
    connection = _mouth(redis_url)
    subscribe(connection, [channel(name)])
    return connection


def _mouth(redis_url: str) -> Any:
    client = client_of(redis_url, patience=SECONDS)
    assert client is not None
    return connect(client)


def _say(connection: Any, name: str, said: bytes) -> None:
    connection.send_command("PUBLISH", channel(name), said, check_health=False)
    connection.read_response()


def _hear(connection: Any) -> list[bytes]:
    """What has been said, at least one thing."""
    said = [connection.read_response()[2]]
    while connection.can_read(timeout=0):
        said.append(connection.read_response()[2])
    return said


# -- what is measured ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Floor:
    """The two processes on one database, and who starts for them."""

    database: Database
    database_url: str
    redis_url: str
    tenant_id: TenantId
    recorded: Recorded
    way: Way

    def measure(self, workflows: int) -> dict[str, float]:
        """Milliseconds of one at a time, and workflows a second, live and from a backlog."""
        saying = _mouth(self.redis_url)
        with self._processes(WARM_UP + max(workflows // ALONE_SHARE, 1)) as ended:
            took = [self._alone(saying, ended) for _ in range(WARM_UP + max(workflows // ALONE_SHARE, 1))]
        with self._processes(workflows) as ended:
            began = time.perf_counter()
            self._start_many(workflows, lambda mouth, one: _say(mouth, STEP, one.encode()))
            _await(ended, workflows)
            live = workflows / (time.perf_counter() - began)
        self._start_many(workflows, lambda _mouth, _one: None)
        with self._processes(workflows) as ended:
            began = time.perf_counter()
            _await(ended, workflows)
            backlog = workflows / (time.perf_counter() - began)
        return {
            "one at a time, p50": quantiles([1_000 * one for one in took[WARM_UP:]], 50)["p50"],
            "live": live,
            "backlog": backlog,
        }

    def _alone(self, saying: Any, ended: Any) -> float:
        began = time.perf_counter()
        one = self._start()
        _say(saying, STEP, one.encode())
        _hear(ended)
        with self.database.looking() as tx:
            status = tx.exec_driver_sql("SELECT status FROM instances WHERE id = %s", (one,)).scalar_one()
        assert status == "completed", f"{one} is {status}"
        return time.perf_counter() - began

    def _start_many(self, count: int, then: Callable[[Any, InstanceId], None]) -> None:
        def work(share: int) -> None:
            mouth = _mouth(self.redis_url)
            for _ in range(share):
                then(mouth, self._start())

        shares = [count // STARTERS + (number < count % STARTERS) for number in range(STARTERS)]
        with ThreadPoolExecutor(STARTERS) as pool:
            list(pool.map(work, shares))

    def _start(self) -> InstanceId:
        one = InstanceId(new_id())
        definition_id = DefinitionId(self.recorded.instance["definition_id"])
        new = NewStart(one, self.tenant_id, definition_id, None, "null", "{}", "bench", 0, {}, 0)
        with self.database.each_alone() as tx:
            starts.insert_started(tx, new)
        return one

    @contextmanager
    def _processes(self, count: int) -> Iterator[Any]:
        """A stepper for `count` workflows and a runner; what hears of their ends."""
        ended = _ear(self.redis_url, ENDED)
        spawning = multiprocessing.get_context("spawn")
        answering = spawning.Process(target=runner, args=(self.redis_url,), daemon=True)
        answering.start()
        ended.read_response()  # it hears: before, a stepper would call nobody, and wait
        stepping = spawning.Process(
            target=stepper,
            args=(self.database_url, self.redis_url, self.recorded, self.way, count),
            daemon=True,
        )
        stepping.start()
        try:
            ended.read_response()  # that it is ready, and nothing more
            yield ended
            stepping.join(SECONDS)
        finally:
            stepping.kill()
            answering.kill()
            ended.disconnect()


def _await(ended: Any, count: int) -> None:
    heard = 0
    while heard < count:
        heard += len(_hear(ended))


if __name__ == "__main__":
    main()
