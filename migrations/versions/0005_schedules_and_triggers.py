"""Schedules and triggers: what starts instances by itself, at an instant or when an event is published.

Only columns and tables are added. Instances tell which schedule started them and for which instant, uniquely, so that
none is started twice for one.
"""

from __future__ import annotations

from alembic import op

from migrations.statements import run_beside

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_beside(__file__, op.get_bind())
