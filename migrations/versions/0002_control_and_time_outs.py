"""Children, control commands and time-outs: columns and words that older code neither writes nor minds.

Only columns are added and lists of allowed words made longer; SQLite cannot alter a CHECK, there two tables are made anew.
"""

from __future__ import annotations

from alembic import op

from migrations.statements import run_beside

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_beside(__file__, op.get_bind())
