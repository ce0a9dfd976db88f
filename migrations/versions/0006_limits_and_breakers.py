"""Limits and circuit breakers: what runs at once, how often it starts, and whether a target may be called at all.

Only columns, tables and indexes are added. Who holds a place is not counted in a row but told by the rows that run, so
that nothing which dies can keep one.
"""

from __future__ import annotations

from alembic import op

from migrations.statements import run_beside

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_beside(__file__, op.get_bind())
