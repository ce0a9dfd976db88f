"""People, items of a MAP, suggestions, secrets, configuration, metadata: what tasks of more kinds need to be kept.

Only columns and tables are added and lists of allowed words made longer; older code writes rows that mean the same as
before. The index of due tasks is made anew, because an item whose turn has not come is not due.
"""

from __future__ import annotations

from alembic import op

from migrations.statements import run_beside

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_beside(__file__, op.get_bind())
