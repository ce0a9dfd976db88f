"""The first schema: tenants, definitions, instances, inbox, history, tasks, timers, incidents, workers.

The statements stand beside this file, one file a dialect, a blank line between statements: what a database gets is
what can be read there, whatever common/db/tables.py says later.
"""

from __future__ import annotations

from alembic import op

from migrations.statements import run_beside

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_beside(__file__, op.get_bind())
