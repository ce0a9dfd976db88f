"""How PostgreSQL finds the rows of the hot statements when very many lie around that are not theirs.

    python -m benchmarks.plans                        1,000,000 instances; exits 1 when a big table is read whole
    python -m benchmarks.plans --rows 100000 --json

A real PostgreSQL is filled in SQL: of each of instances, tasks, inbox and timers so many rows, all ended, parked or not
due but for a few. Then the statements that find rows are called as the engine calls them, and explained with their very parameters; those that
workers keep prepared also as `EXPLAIN (GENERIC_PLAN)`. Nothing is timed, so a busy machine changes nothing. Only sequential scans
are told of: that an index is read whole, as `tasks.next_due_at` does, is not seen here.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event

from common.clock import read_now
from common.commands.definitions import apply_definition
from common.commands.start import Start, start_instance
from common.config import Limits
from common.db import Database
from common.db.migrate import upgrade
from common.ids import LeaseToken, WorkerId, new_token
from common.store import inbox, instances, joins, keys, places, tasks, timers
from signalbox.bench import TENANT, await_database, steps_chart
from signalbox.folder import DataFolder
from signalbox.machine import describe_machine
from signalbox.supervisor import Supervisor
from signalbox.throwaway_postgres import throwaway_postgres

READY = 20
"""Rows of each table that a hot statement shall find."""
AT_ONCE = 100_000
BIG_TABLES = ("instances", "tasks", "inbox", "timers")

Hot = Callable[[Connection], object]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plans", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="of each big table")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    report = measure(asked.rows)
    if asked.json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        for name, found in report["statements"].items():
            sys.stdout.write(f"{name:>34}  {', '.join(found)}\n")
        for found in report["read whole"]:
            sys.stdout.write(f"\n{found}\n")
    sys.exit(1 if report["read whole"] else 0)


def measure(rows: int) -> dict[str, Any]:
    """The indexes that every hot statement uses, and the plans in which a big table is read whole."""
    with ExitStack() as ending:
        folder = DataFolder.at(
            Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="signalbox-plans-")))
        )
        folder.create()
        server = ending.enter_context(throwaway_postgres())
        supervisor = Supervisor(
            folder.logs, folder.path, lambda notice: _tell(f"{notice.part}: {notice.text}")
        )
        ending.callback(supervisor.stop)
        supervisor.start(server.part)
        await_database(server.url, supervisor)
        return {"machine": describe_machine(), "rows of each table": rows, **examine(server.url, rows)}


def examine(url: str, rows: int) -> dict[str, Any]:
    """Bring the empty database at `url` to the newest schema, fill it, and explain."""
    statements: dict[str, set[str]] = {}
    bad: list[str] = []
    database = Database.open(url, name="signalbox-plans")
    try:
        upgrade(database)
        fill(database, rows)
        for name, plans in explain(database, HOT).items():
            statements.setdefault(name, set()).update(
                found for plan in plans for found in re.findall(r"\b(?:using|on) ((?:ix|pk|uq)_\w+)", plan)
            )
            bad += [f"{name}:\n{plan}" for plan in plans if reads_whole(plan)]
    finally:
        database.dispose()
    return {"statements": {name: sorted(found) for name, found in statements.items()}, "read whole": bad}


def reads_whole(plan: str) -> bool:
    return any(re.search(rf"Seq Scan on {table}\b", plan) for table in BIG_TABLES)


def fill(database: Database, rows: int) -> None:
    """`rows` instances that wait, each with a task, a parked inbox row and a fired timer; of each table `READY` are ready."""
    with database.transaction() as tx:
        tenant = keys.ensure_tenant(tx, TENANT)
        chart = {**steps_chart(1), "id": "plans"}
        apply_definition(tx, tenant, chart, actor="bench", limits=Limits(), allow_unknown_types=True)
        start_instance(tx, tenant, Start(definition_key="plans"), actor="bench", limits=Limits())
        tx.exec_driver_sql("CREATE TEMPORARY TABLE first ON COMMIT DROP AS SELECT * FROM instances")
        for start in range(1, rows + 1, AT_ONCE):
            last = min(start + AT_ONCE - 1, rows)
            tx.exec_driver_sql(
                "INSERT INTO instances (id, tenant_id, definition_id, definition_key, definition_version, status,"
                " head_hash, created_at) SELECT gen_random_uuid(), tenant_id, definition_id, definition_key, 1,"
                f" 'waiting', head_hash, created_at FROM first, generate_series({start}, {last})"
            )
            _tell(f"{last:,} instances")
        numbered = "(SELECT *, row_number() OVER (ORDER BY id) AS n FROM instances) AS i"
        is_ready = f"n <= {READY}"
        tx.exec_driver_sql(
            "INSERT INTO tasks (id, tenant_id, instance_id, key, type, name, status, run_at, max_attempts,"
            " completion_event, failure_event, input, created_at, finished_at) SELECT gen_random_uuid(), tenant_id, id,"
            f" 'k', 'work', 'work', CASE WHEN {is_ready} THEN 'pending' ELSE 'succeeded' END, created_at, 1, 'A', 'B',"
            f" 'null', created_at, CASE WHEN {is_ready} THEN NULL ELSE created_at END FROM {numbered}"
        )
        _tell("tasks")
        tx.exec_driver_sql(
            "INSERT INTO timers (id, tenant_id, instance_id, key, due_at, status, body, created_at, finished_at)"
            f" SELECT gen_random_uuid(), tenant_id, id, 'k', created_at + CASE WHEN {is_ready} THEN interval '0'"
            " ELSE interval '30 days' END, CASE WHEN mod(n, 2) = 1 THEN 'armed' ELSE 'fired' END, '{}', created_at,"
            f" CASE WHEN mod(n, 2) = 1 THEN NULL ELSE created_at END FROM {numbered}"
        )
        _tell("timers, half of them armed")
        tx.exec_driver_sql(
            "INSERT INTO inbox (tenant_id, instance_id, lane, type, body, source, accepted_at, parked)"
            " SELECT tenant_id, id, 1, 'event', '{\"type\":\"X\"}', 'bench', created_at,"
            f" NOT ({is_ready}) FROM {numbered}"
        )
        _tell("inbox")
        tx.exec_driver_sql("ANALYZE")


def explain(database: Database, hot: Mapping[str, Hot]) -> dict[str, list[str]]:
    """What PostgreSQL says of every statement that the calls of `hot` execute; each call is undone."""
    found: dict[str, list[str]] = {}
    for name, call in hot.items():
        plans: list[str] = found.setdefault(name, [])

        def ask(
            _c: Any, cursor: Any, statement: str, parameters: Any, _x: Any, _m: bool, into: list[str] = plans
        ) -> None:
            if statement.startswith(("SELECT", "WITH", "UPDATE", "DELETE")) and " FROM " in statement.replace(
                "\n", " "
            ):
                with type(cursor)(
                    cursor.connection
                ) as other:  # of its kind: they name parameters in different ways
                    other.execute(f"EXPLAIN {statement}", parameters)
                    into.append("\n".join(row[0] for row in other.fetchall()))
                    if "$1" in statement:
                        other.execute(f"EXPLAIN (GENERIC_PLAN) {statement}")
                        into.append("\n".join(row[0] for row in other.fetchall()))

        with database.transaction() as tx:
            event.listen(database.engine, "before_cursor_execute", ask)
            try:
                call(tx)
            finally:
                event.remove(database.engine, "before_cursor_execute", ask)
            tx.rollback()
        if not plans:
            raise RuntimeError(f"{name}: expected statements to explain, found none")
    return found


def _claim(tx: Connection) -> None:
    claimed = tasks.claim_due(
        tx,
        worker=WorkerId(new_token()),
        token=LeaseToken(new_token()),
        types=["work"],
        functions=[],
        limit=READY // 2,
        lease=timedelta(seconds=8),
    )
    if not claimed:
        raise RuntimeError("expected tasks to claim, found none: the database was not filled as it should be")


def _ready(tx: Connection) -> list[str]:
    return sorted({str(row.instance_id) for row in inbox.page_ready(tx).rows})


HOT: Mapping[str, Hot] = {
    "inbox.page_ready": inbox.page_ready,
    "inbox.has_ready": inbox.has_ready,
    "inbox.read_ready": lambda tx: inbox.read_ready(tx, _ready(tx)),
    "inbox.read_answers": lambda tx: inbox.read_answers(tx, _ready(tx)),
    "instances.lock_ready": lambda tx: instances.lock_ready(tx, _ready(tx)),
    "tasks.claim_due": _claim,
    "tasks.next_due_at": lambda tx: tasks.next_due_at(
        tx, types=["work"], since=read_now(tx), now=read_now(tx)
    ),
    "tasks.lock_open": lambda tx: tasks.lock_open(tx, _ready(tx)),
    "tasks.read_answering": lambda tx: tasks.read_answering(tx, _ready(tx)),
    "tasks.lock_expired": lambda tx: tasks.lock_expired(tx, now=read_now(tx)),
    "tasks.next_expiry_at": tasks.next_expiry_at,
    "tasks.lock_unstarted": lambda tx: tasks.lock_unstarted(tx, now=read_now(tx)),
    "tasks.lock_unfinished": lambda tx: tasks.lock_unfinished(tx, now=read_now(tx), maps=False),
    "tasks.next_overdue_at": tasks.next_overdue_at,
    "timers.lock_due": lambda tx: timers.lock_due(tx, now=read_now(tx)),
    "timers.next_due_at": timers.next_due_at,
    "joins.lock_startable": lambda tx: joins.lock_startable(tx, limit=READY, now=read_now(tx)),
    "joins.next_start_at": joins.next_start_at,
    "places.find_wanted": lambda tx: places.find_wanted(tx, after=None, limit=READY),
}


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    main()
