"""How PostgreSQL finds the rows of the hot statements when very many lie around that are not theirs.

    python -m benchmarks.plans                        1,000,000 instances; exits 1 when a statement reads far more than it finds
    python -m benchmarks.plans --rows 100000 --json

A real PostgreSQL is filled in SQL: of each of instances, tasks, inbox and timers so many rows. Tasks are ended, due or delayed,
a third each; the rest is ended, parked or not due but for a few. Then the statements that find rows are called as the engine
calls them, and executed under `EXPLAIN (ANALYZE, BUFFERS)` with their very parameters; of those that workers keep prepared the
plan for any parameters is looked at too. Told are plans in which a big table is read whole, and statements that read
many more rows or pages than they find. Nothing is timed, so a busy machine changes nothing.

What the API's callers ask is explained as the API asks it: in sessions that row-level security restricts to a tenant.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event

from benchmarks.stacks import begin, tell
from common.commands.definitions import apply_definition
from common.commands.send import send_event
from common.commands.start import Start, start_instance
from common.config import Limits
from common.db import LONGEST_WAIT, Database, Sessions
from common.db.migrate import upgrade
from common.db.now import read_now
from common.db.rows import update_rows
from common.db.tables import instances as instances_table
from common.db.tenants import Tenants
from common.ids import InstanceId, LeaseToken, TaskId, TenantId, WorkerId, new_token
from common.lifecycle import InstanceStatus
from common.store import (
    accepting,
    claims,
    deadlines,
    inbox,
    instances,
    joins,
    keys,
    leased,
    listing,
    overview,
    places,
    results,
    tasks,
    timers,
)
from common.store.coming import read_coming
from common.store.coming_tasks import read_coming_tasks
from common.store.listing import IncidentFilter, InstanceFilter, TaskFilter
from common.store.ready import lock_and_read
from signalbox.bench import TENANT, postgres_server, steps_chart
from signalbox.folder import DataFolder
from signalbox.machine import describe_machine

READY = 20
"""Rows of each table that a hot statement shall find."""
AT_ONCE = 100_000
BIG_TABLES = ("instances", "tasks", "inbox", "timers")
MOST_ROWS = 50
MOST_PAGES = 40
"""What a statement may read for each row that it finds, or of `READY` rows where it finds less: indexes have levels, what is
looked up in a second table or locked is read again, and where few are ready each may be compared with each."""

Hot = Callable[[Connection], object]
Called = Callable[[Connection, TenantId, InstanceId], object]
"""What a caller asks, of his tenant and of an instance amid all of its."""


@dataclass(frozen=True)
class Explained:
    """One statement as it was executed: the plan, and what it came to. `generic`: its plan for any parameters, if it is kept."""

    plan: str
    generic: str
    found: int
    rows_read: int
    pages_read: int

    @property
    def reads_whole(self) -> bool:
        return any(re.search(rf"Seq Scan on {table}\b", self.plan + self.generic) for table in BIG_TABLES)

    @property
    def reads_in_vain(self) -> bool:
        wanted = max(self.found, READY)
        return self.rows_read > MOST_ROWS * wanted or self.pages_read > MOST_PAGES * wanted

    @property
    def indexes(self) -> set[str]:
        return set(re.findall(r"\b(?:using|on) ((?:ix|pk|uq)_\w+)", self.plan + self.generic))

    def __str__(self) -> str:
        read = f"{self.found:,} rows found, {self.rows_read:,} rows and {self.pages_read:,} pages read"
        return "\n".join(part for part in (read, self.plan, self.generic) if part)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plans", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="of each big table")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    begin()
    report = measure(asked.rows)
    if asked.json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        for name, found in report["statements"].items():
            figures = f"{found['found']:>7,} {found['rows read']:>9,} {found['pages read']:>10,}"
            sys.stdout.write(f"{name:>26} {figures}  {', '.join(found['indexes'])}\n")
        for problem in report["problems"]:
            sys.stdout.write(f"\n{problem}\n")
    sys.exit(1 if report["problems"] else 0)


def measure(rows: int) -> dict[str, Any]:
    """What every hot statement reads and finds, and the plans of those that read too much."""
    with ExitStack() as ending:
        folder = DataFolder.at(
            Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="signalbox-plans-")))
        )
        folder.create()
        url = ending.enter_context(postgres_server(folder, tell))
        return {"machine": describe_machine(), "rows of each table": rows, **examine(url, rows)}


def examine(url: str, rows: int) -> dict[str, Any]:
    """Bring the empty database at `url` to the newest schema, fill it, and explain."""
    database = Database.open(url, name="signalbox-plans")
    try:
        upgrade(database)
        fill(database, rows)
        explained = explain(database, HOT) | explain_called(url)
    finally:
        database.dispose()
    return {
        "statements": {
            name: {
                "found": sum(one.found for one in statements),
                "rows read": sum(one.rows_read for one in statements),
                "pages read": sum(one.pages_read for one in statements),
                "indexes": sorted(set().union(*(one.indexes for one in statements))),
            }
            for name, statements in explained.items()
        },
        "problems": [
            f"{name}:\n{one}"
            for name, statements in explained.items()
            for one in statements
            if one.reads_whole or one.reads_in_vain
        ],
    }


def fill(database: Database, rows: int) -> None:
    """`rows` instances that wait, each with a task, an inbox row and a timer: see the module. `READY` rows and timers are ready."""
    with database.transaction() as tx:
        start_first(tx)
        tx.exec_driver_sql("CREATE TEMPORARY TABLE first ON COMMIT DROP AS SELECT * FROM instances")
        for start in range(1, rows + 1, AT_ONCE):
            last = min(start + AT_ONCE - 1, rows)
            tx.exec_driver_sql(
                "INSERT INTO instances (id, tenant_id, definition_id, definition_key, definition_version, status,"
                " head_hash, created_at) SELECT gen_random_uuid(), tenant_id, definition_id, definition_key, 1,"
                f" 'waiting', head_hash, created_at FROM first, generate_series({start}, {last})"
            )
            tell(f"{last:,} instances")
        numbered = "(SELECT *, row_number() OVER (ORDER BY id) AS n FROM instances) AS i"
        is_ready = f"n <= {READY}"
        tx.exec_driver_sql(
            "INSERT INTO tasks (id, tenant_id, instance_id, key, type, name, status, run_at, max_attempts,"
            " completion_event, failure_event, input, created_at, finished_at) SELECT gen_random_uuid(), tenant_id, id,"
            " 'k', 'work', 'work', CASE WHEN mod(n, 3) = 0 THEN 'succeeded' ELSE 'pending' END,"
            " created_at + n * interval '1 us' + CASE WHEN mod(n, 3) = 1 THEN interval '30 days' ELSE interval '0' END,"
            " 1, 'A', 'B',"
            f" 'null', created_at, CASE WHEN mod(n, 3) = 0 THEN created_at ELSE NULL END FROM {numbered}"
        )
        tell("tasks, a third of them due")
        tx.exec_driver_sql(
            "INSERT INTO timers (id, tenant_id, instance_id, key, due_at, status, body, created_at, finished_at)"
            f" SELECT gen_random_uuid(), tenant_id, id, 'k', created_at + CASE WHEN {is_ready} THEN interval '0'"
            " ELSE interval '30 days' END, CASE WHEN mod(n, 2) = 1 THEN 'armed' ELSE 'fired' END, '{}', created_at,"
            f" CASE WHEN mod(n, 2) = 1 THEN NULL ELSE created_at END FROM {numbered}"
        )
        tell("timers, half of them armed")
        tx.exec_driver_sql(
            "INSERT INTO inbox (tenant_id, instance_id, lane, type, body, source, accepted_at, parked)"
            " SELECT tenant_id, id, 1, 'event', '{\"type\":\"X\"}', 'bench', created_at,"
            f" NOT ({is_ready}) FROM {numbered}"
        )
        tell("inbox")
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")


def start_first(tx: Connection) -> None:
    """Start the instance of which the others are copies."""
    tenant = keys.ensure_tenant(tx, TENANT)
    chart = {**steps_chart(1), "id": "plans"}
    apply_definition(tx, tenant, chart, actor="bench", limits=Limits(), allow_unknown_types=True)
    start_instance(tx, tenant, Start(definition_key="plans"), actor="bench", limits=Limits())


def explain_called(url: str) -> dict[str, list[Explained]]:
    """What PostgreSQL does in what callers ask, in sessions as the API has them for its callers."""
    tenants = Tenants.open(url, pool_size=1, name="signalbox-plans", longest_wait=LONGEST_WAIT)
    try:
        if not tenants.are_restricted():
            raise RuntimeError(
                "expected a login that may take the API's role, found one that may not: see the warning"
            )
        with tenants.database.reading() as tx:
            tenant = keys.find_tenant(tx, TENANT)
            if tenant is None:
                raise RuntimeError(f'expected the tenant "{TENANT}", found none: the database was not filled')
            middle = tx.exec_driver_sql(
                "SELECT id FROM instances ORDER BY id OFFSET (SELECT count(*) / 2 FROM instances) LIMIT 1"
            ).scalar_one()
        asked = {name: _asking(call, tenant, middle) for name, call in CALLED.items()}
        return explain(tenants.of(tenant), asked)
    finally:
        tenants.dispose()


def _asking(call: Called, tenant: TenantId, instance_id: InstanceId) -> Hot:
    return lambda tx: call(tx, tenant, instance_id)


def explain(database: Sessions, hot: Mapping[str, Hot]) -> dict[str, list[Explained]]:
    """What PostgreSQL does in every statement that the calls of `hot` execute; each call is undone."""
    found: dict[str, list[Explained]] = {}
    for name, call in hot.items():
        into = found.setdefault(name, [])

        def ask(
            _c: Any,
            cursor: Any,
            statement: str,
            parameters: Any,
            _x: Any,
            _m: bool,
            into: list[Explained] = into,
        ) -> None:
            if statement.startswith(("SELECT", "WITH", "UPDATE", "DELETE")) and " FROM " in statement.replace(
                "\n", " "
            ):
                into.append(_explained(cursor, statement, parameters))

        with database.transaction() as tx:
            event.listen(database.engine, "before_cursor_execute", ask)
            try:
                call(tx)
            finally:
                event.remove(database.engine, "before_cursor_execute", ask)
            tx.rollback()
        if not into:
            raise RuntimeError(f"{name}: expected statements to explain, found none")
    return found


def _explained(cursor: Any, statement: str, parameters: Any) -> Explained:
    """Execute a statement for its plan, and undo it."""
    with type(cursor)(cursor.connection) as other:  # of its kind: they name parameters in different ways

        def asked(options: str, *values: Any) -> list[Any]:
            other.execute(f"EXPLAIN ({options}) {statement}", *values)
            return [row[0] for row in other.fetchall()]

        other.execute("SAVEPOINT explained")
        plan = asked("COSTS OFF", parameters)
        generic = asked("COSTS OFF, GENERIC_PLAN") if "$1" in statement else []
        [[executed]] = asked("ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON", parameters)
        other.execute("ROLLBACK TO SAVEPOINT explained")
    top = executed["Plan"]
    return Explained(
        "\n".join(plan),
        "\n".join(generic),
        round(top["Actual Rows"]),
        _rows_read(top),
        top["Shared Hit Blocks"] + top["Shared Read Blocks"],
    )


def _rows_read(node: Mapping[str, Any]) -> int:
    """Rows of big tables that a node of a plan and those below it looked at, kept or not."""
    mine = 0.0
    if node.get("Relation Name") in BIG_TABLES and node["Node Type"] != "ModifyTable":
        removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        mine = (node["Actual Rows"] + removed) * node["Actual Loops"]
    return round(mine) + sum(_rows_read(below) for below in node.get("Plans", []))


def _claim(tx: Connection) -> None:
    claimed = claims.claim_due(
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


def _end(tx: Connection) -> object:
    now = read_now(tx)
    ends = [
        leased.KnownEnd(
            TaskId(new_token()),
            new_token(),
            TenantId(new_token()),
            InstanceId(new_token()),
            "null",
            now,
            "{}",
        )
        for _ in range(READY)
    ]
    return leased.end_known(tx, ends)


def _strike(tx: Connection) -> object:
    rows = [{"id": one, "strikes": 0} for one in _ready(tx)]
    return update_rows(tx, instances_table, rows, match=(("id", "id"),))


HOT: Mapping[str, Hot] = {
    "ready.lock_and_read": lambda tx: lock_and_read(tx, portion=3),
    "ready.lock_and_read, of answers": lambda tx: lock_and_read(
        tx, portion=3, also=[InstanceId(new_token())]
    ),
    "leased.read_handed": lambda tx: leased.read_handed(tx, WorkerId(new_token()), [TaskId(new_token())]),
    "leased.read_unknown": lambda tx: leased.read_unknown(tx, WorkerId(new_token()), []),
    "leased.end_known": _end,
    "rows.update_rows": _strike,
    "inbox.page_ready": inbox.page_ready,
    "inbox.has_ready": inbox.has_ready,
    "inbox.read_ready": lambda tx: inbox.read_ready(tx, _ready(tx)),
    "inbox.read_answers": lambda tx: inbox.read_answers(tx, _ready(tx)),
    "instances.lock_ready": lambda tx: instances.lock_ready(tx, _ready(tx)),
    "claims.claim_due": _claim,
    "coming_tasks.read_coming_tasks": lambda tx: read_coming_tasks(
        tx,
        worker=WorkerId(new_token()),
        types=["work"],
        functions=[],
        since=read_now(tx) - timedelta(seconds=1),
    ),
    "tasks.lock_open": lambda tx: tasks.lock_open(tx, _ready(tx)),
    "tasks.read_answering": lambda tx: tasks.read_answering(tx, _ready(tx)),
    "deadlines.lock_expired": lambda tx: deadlines.lock_expired(tx, now=read_now(tx)),
    "deadlines.lock_unstarted": lambda tx: deadlines.lock_unstarted(tx, now=read_now(tx)),
    "deadlines.lock_unfinished": lambda tx: deadlines.lock_unfinished(tx, now=read_now(tx), maps=False),
    "timers.lock_due": lambda tx: timers.lock_due(tx, now=read_now(tx)),
    "joins.lock_startable": lambda tx: joins.lock_startable(tx, limit=READY, now=read_now(tx)),
    "coming.read_coming": read_coming,
    "places.find_wanted": lambda tx: places.find_wanted(tx, after=None, limit=READY),
}

PAGE = 50

CALLED: Mapping[str, Called] = {
    "read_instance": listing.read_instance,
    "read_standing": accepting.read_standing,
    "read_settling": overview.read_settling,
    "count_inbox": overview.count_inbox,
    "list_instances": lambda tx, tenant_id, instance_id: listing.list_instances(
        tx, tenant_id, InstanceFilter(), before=instance_id, limit=PAGE
    ),
    "list_instances, of a status": lambda tx, tenant_id, instance_id: listing.list_instances(
        tx,
        tenant_id,
        InstanceFilter(statuses=[InstanceStatus.WAITING], definition_key="plans"),
        before=instance_id,
        limit=PAGE,
    ),
    "list_instances, of a parent": lambda tx, tenant_id, instance_id: listing.list_instances(
        tx, tenant_id, InstanceFilter(parent_id=instance_id), before=None, limit=PAGE
    ),
    "page_ids": lambda tx, tenant_id, instance_id: listing.page_ids(
        tx, tenant_id, InstanceFilter(), after=instance_id, limit=PAGE
    ),
    "list_tasks": lambda tx, tenant_id, instance_id: listing.list_tasks(
        tx, tenant_id, TaskFilter(), before=instance_id, limit=PAGE
    ),
    "list_tasks, of an instance": lambda tx, tenant_id, instance_id: listing.list_tasks(
        tx, tenant_id, TaskFilter(instance_id=instance_id), before=None, limit=PAGE
    ),
    "list_results": lambda tx, tenant_id, instance_id: results.list_results(
        tx, tenant_id, instance_id, before=None, limit=PAGE
    ),
    "list_history": lambda tx, tenant_id, instance_id: listing.list_history(
        tx, tenant_id, instance_id, since=1, limit=PAGE
    ),
    "list_incidents, of a definition": lambda tx, tenant_id, _: listing.list_incidents(
        tx, tenant_id, IncidentFilter(definition_key="plans"), before=None, limit=PAGE
    ),
    "start_instance": lambda tx, tenant_id, _: start_instance(
        tx,
        tenant_id,
        Start(definition_key="plans", business_key="a key of its own"),
        actor="bench",
        limits=Limits(),
    ),
    "send_event": lambda tx, tenant_id, instance_id: send_event(
        tx, tenant_id, instance_id, {"type": "GO"}, actor="bench", limits=Limits()
    ),
}
"""What the API asks for callers, where it is bound to find rows among many."""


if __name__ == "__main__":
    main()
