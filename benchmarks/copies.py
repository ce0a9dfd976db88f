"""Very many instances within minutes: one that was run for real, copied in SQL with all its rows.

Ids are made from the copy's number and the end of the old id: rows that belong together stay together, ids rise from
one copy to the next, as those of version 7 do, and all are older than whatever is started later. Hash chains are copied as they are, so
`verify` would refuse them; nothing that steps an instance looks at them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, Table

from benchmarks.stacks import tell
from common.db import Database
from common.db.tables import attempts, history, instances, tasks, timers
from common.ids import InstanceId

AT_ONCE = 20_000
TOLD_EVERY = 100_000
FLUSHED_SECONDS = 1.0
"""What the end of a session takes, amply."""
WHOLE = (instances, history, tasks, attempts, timers)
_BELONGS = {
    "instances": "id = '{first}'",
    "attempts": "task_id IN (SELECT id FROM tasks WHERE instance_id = '{first}')",
}

Changes = Mapping[str, Mapping[str, str]]
"""By table and column: SQL for a copy's value, where `o` is the row that is copied and `n` the copy's number."""


def copy_instance(
    database: Database,
    first: InstanceId,
    count: int,
    *,
    tables: Sequence[Table] = WHOLE,
    changes: Changes | None = None,
) -> None:
    """Copy `first` with its rows `count` times, numbers from 1, and leave fresh statistics."""
    began = time.monotonic()
    for start in range(1, count + 1, AT_ONCE):
        last = min(start + AT_ONCE - 1, count)
        with database.transaction() as tx:
            if (
                tx.dialect.name == "postgresql"
            ):  # asking for each row's foreign keys would take most of the time
                tx.exec_driver_sql("SET LOCAL session_replication_role = replica")
                tx.exec_driver_sql("SET LOCAL synchronous_commit = off")
            for table in tables:
                _copy(tx, table, first, start, last, (changes or {}).get(table.name, {}))
        if last % TOLD_EVERY == 0 and last < count:
            tell(f"{last:,} of {count:,} instances copied, {time.monotonic() - began:.0f} s")
    settle(database)
    tell(f"{count:,} instances copied in {time.monotonic() - began:.0f} s")


def settle(database: Database) -> None:
    """Vacuum and gather statistics, as would have happened long ago where rows come one by one. On SQLite nobody ever does."""
    if not database.is_sqlite:
        # Sessions tell what they have written when they end. Told after the vacuum, autovacuum would do all of it once more, a minute later.
        database.engine.dispose()
        time.sleep(FLUSHED_SECONDS)
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
            connection.exec_driver_sql("CHECKPOINT")


def copied_id(tx: Connection, column: str, number: str = "n") -> str:
    """SQL for the id that a copy has in the place of `column`."""
    if tx.dialect.name == "postgresql":
        high, low = f"lpad(to_hex({number} >> 16), 8, '0')", f"lpad(to_hex({number} & 65535), 4, '0')"
        return f"CAST({high} || '-' || {low} || substr(CAST({column} AS TEXT), 14) AS UUID)"
    return f"printf('%08x-%04x', {number} >> 16, {number} & 65535) || substr({column}, 14)"


def _copy(
    tx: Connection, table: Table, first: InstanceId, start: int, last: int, changed: Mapping[str, str]
) -> None:
    values = {column.name: f'o."{column.name}"' for column in table.columns}
    values |= {
        name: copied_id(tx, f"o.{name}") for name in ("id", "instance_id", "task_id") if name in values
    }
    if table is instances:
        values["snapshot"] = (
            f"replace(o.snapshot, '{first}', CAST({copied_id(tx, 'o.id')} AS VARCHAR(36)))"  # it names itself
        )
    values |= changed
    names = ", ".join(f'"{name}"' for name in values)
    belongs = _BELONGS.get(table.name, "instance_id = '{first}'").format(first=first)
    tx.exec_driver_sql(
        f"WITH RECURSIVE numbers(n) AS (SELECT {start} UNION ALL SELECT n + 1 FROM numbers WHERE n < {last})"
        f" INSERT INTO {table.name} ({names}) SELECT {', '.join(values.values())}"
        f" FROM (SELECT * FROM {table.name} WHERE {belongs}) AS o CROSS JOIN numbers"
    )
