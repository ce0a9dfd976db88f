"""The database: engine, tables, types, migrations. Queries live in `common.store`."""

from common.db.engine import (
    ARRIVALS,
    LONGEST_TRANSACTION,
    LONGEST_WAIT,
    ORCHESTRATOR_QUEUE,
    RESERVE_QUEUE,
    TASK_RUNNER_QUEUE,
    Bells,
    Database,
    Sessions,
    note_bell,
    sqlstate,
    teach_clock,
)
from common.db.trouble import is_away, is_full, is_incomplete, is_trouble, reason

__all__ = [
    "ARRIVALS",
    "LONGEST_TRANSACTION",
    "LONGEST_WAIT",
    "ORCHESTRATOR_QUEUE",
    "RESERVE_QUEUE",
    "TASK_RUNNER_QUEUE",
    "Bells",
    "Database",
    "Sessions",
    "is_away",
    "is_full",
    "is_incomplete",
    "is_trouble",
    "note_bell",
    "reason",
    "sqlstate",
    "teach_clock",
]
