"""How many steps SQLite's machine takes in the hot statements when very many rows lie around that are not theirs.

    python -m benchmarks.plans_sqlite                 1,000,000 instances; exits 1 when a statement takes far too many
    python -m benchmarks.plans_sqlite --rows 100000 --json

SQLite tells no rows that it has read, but its progress handler counts instructions: a look at one
row costs some ten, whatever the plan says. The file is filled as `benchmarks.plans` fills PostgreSQL, but that what has ended is the oldest,
as it is where work goes on: an index that knows nothing of ended rows leads through all of them. No statistics are gathered,
as nobody gathers any of an embedded file.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import event

from benchmarks.plans import HOT, READY, Hot, start_first
from benchmarks.stacks import begin, tell
from common.db import Database
from common.db.migrate import upgrade
from common.store import claims

MOST_STEPS = 1_000
"""Of the machine, for each of `READY` rows that a statement may find: a claim, the dearest, takes 300."""
COUNTED_BY = 10
ONLY_POSTGRESQL = ("ready.lock_and_read", "ready.lock_and_read, of answers")
_UUID = (
    "lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-' || hex(randomblob(2)) || '-' || hex(randomblob(2))"
    " || '-' || hex(randomblob(6)))"
)
_LATER = "strftime('%Y-%m-%d %H:%M:%f000', created_at, '+30 days')"


@dataclass(frozen=True)
class Counted:
    """One statement as it was executed: how many steps of the machine that took, and its plan, one line each part."""

    statement: str
    steps: int
    plan: str

    @property
    def is_too_long(self) -> bool:
        return self.steps > MOST_STEPS * READY

    def __str__(self) -> str:
        return f"{self.steps:,} steps\n{self.statement}\n{self.plan}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.plans_sqlite", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="of each big table")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    begin()
    with tempfile.TemporaryDirectory(prefix="signalbox-plans-") as folder:
        report = examine(f"sqlite:///{folder}/signalbox.db", asked.rows)
    if asked.json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        for name, found in report["statements"].items():
            sys.stdout.write(f"{name:>26} {found['steps']:>9,}\n")
        for problem in report["problems"]:
            sys.stdout.write(f"\n{problem}\n")
    sys.exit(1 if report["problems"] else 0)


def examine(url: str, rows: int) -> dict[str, Any]:
    """Bring the empty file at `url` to the newest schema, fill it, and count."""
    database = Database.open(url)
    try:
        upgrade(database)
        fill(database, rows)
        hot = {name: call for name, call in HOT.items() if name not in ONLY_POSTGRESQL}
        hot["claims.is_due"] = lambda tx: claims.is_due(tx, types=["work"], functions=[])
        counted = count_steps(database, hot)
    finally:
        database.dispose()
    return {
        "statements": {
            name: {"steps": sum(one.steps for one in statements)} for name, statements in counted.items()
        },
        "problems": [
            f"{name}:\n{one}" for name, statements in counted.items() for one in statements if one.is_too_long
        ],
    }


def fill(database: Database, rows: int) -> None:
    """`rows` instances that wait, each with a task, an inbox row and a timer; `READY` rows and timers are ready, a third of the tasks is due."""
    with database.transaction() as tx:
        start_first(tx)
        tx.exec_driver_sql("CREATE TEMPORARY TABLE first AS SELECT * FROM instances")
        tx.exec_driver_sql(
            "INSERT INTO instances (id, tenant_id, definition_id, definition_key, definition_version, status, head_hash, created_at)"
            f" WITH RECURSIVE series (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM series WHERE n < {rows})"
            f" SELECT {_UUID}, tenant_id, definition_id, definition_key, 1, 'waiting', head_hash, created_at FROM series, first"
        )
        tell(f"{rows:,} instances")
        numbered = "(SELECT *, row_number() OVER (ORDER BY id) AS n FROM instances) AS i"
        is_ready = f"n > {rows - READY}"
        has_ended = f"n * 3 <= {rows}"
        tx.exec_driver_sql(
            "INSERT INTO tasks (id, tenant_id, instance_id, key, type, name, status, run_at, max_attempts, completion_event,"
            f" failure_event, input, created_at, finished_at) SELECT id, tenant_id, id, 'k', 'work', 'work', CASE WHEN {has_ended}"
            f" THEN 'succeeded' ELSE 'pending' END, CASE WHEN mod(n, 2) = 1 THEN {_LATER} ELSE created_at END, 1, 'A', 'B',"
            f" 'null', created_at, CASE WHEN {has_ended} THEN created_at END FROM {numbered}"
        )
        tx.exec_driver_sql(
            "INSERT INTO timers (id, tenant_id, instance_id, key, due_at, status, body, created_at, finished_at)"
            f" SELECT id, tenant_id, id, 'k', CASE WHEN {is_ready} THEN created_at ELSE {_LATER} END,"
            f" CASE WHEN {has_ended} THEN 'fired' ELSE 'armed' END, '{{}}', created_at,"
            f" CASE WHEN {has_ended} THEN created_at END FROM {numbered}"
        )
        tx.exec_driver_sql(
            "INSERT INTO inbox (tenant_id, instance_id, lane, type, body, source, accepted_at, parked)"
            f" SELECT tenant_id, id, 1, 'event', '{{\"type\":\"X\"}}', 'bench', created_at, NOT ({is_ready}) FROM {numbered}"
        )
        tell("tasks, timers and inbox")


def count_steps(database: Database, hot: Mapping[str, Hot]) -> dict[str, list[Counted]]:
    """How many steps each statement takes that the calls of `hot` execute; each call is undone."""
    return {name: _counted(database, call) for name, call in hot.items()}


def _counted(database: Database, call: Hot) -> list[Counted]:
    begun: list[tuple[str, Any, int]] = []
    ticks = 0

    def tick() -> int:
        nonlocal ticks
        ticks += 1
        return 0

    def ask(_c: Any, _cursor: Any, statement: str, parameters: Any, _x: Any, is_many: bool) -> None:
        begun.append((statement, parameters[0] if is_many else parameters, ticks))

    with database.engine.connect() as tx, tx.begin() as transaction:
        driver: sqlite3.Connection = tx.connection.driver_connection  # type: ignore[assignment]
        event.listen(database.engine, "before_cursor_execute", ask)
        driver.set_progress_handler(tick, COUNTED_BY)
        try:
            call(tx)
        finally:
            driver.set_progress_handler(None, 0)
            event.remove(database.engine, "before_cursor_execute", ask)
        ends = [*(ticks_then for _, _, ticks_then in begun[1:]), ticks]
        found = [
            Counted(statement, (end - began) * COUNTED_BY, _plan(driver, statement, parameters))
            for (statement, parameters, began), end in zip(begun, ends, strict=True)
        ]
        transaction.rollback()
    return found


def _plan(driver: sqlite3.Connection, statement: str, parameters: Any) -> str:
    return "\n".join(row[3] for row in driver.execute(f"EXPLAIN QUERY PLAN {statement}", parameters))


if __name__ == "__main__":
    main()
