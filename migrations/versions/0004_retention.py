"""Retention and erasure: what is left of deleted instances, and the only two ways in which history may shrink.

The database lets bodies of history be taken away (never changed), and rows of instances deleted that have a tombstone.
Both are of no use to older code, which goes on writing rows that mean the same as before.
"""

from __future__ import annotations

from alembic import op

from migrations.statements import run_beside

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_beside(__file__, op.get_bind())
