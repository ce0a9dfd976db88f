"""The database: engine, tables, types, migrations. Queries live in `common.store`."""

from common.db.engine import ORCHESTRATOR_QUEUE, TASK_RUNNER_QUEUE, Bells, Database, note_bell, sqlstate

__all__ = ["ORCHESTRATOR_QUEUE", "TASK_RUNNER_QUEUE", "Bells", "Database", "note_bell", "sqlstate"]
