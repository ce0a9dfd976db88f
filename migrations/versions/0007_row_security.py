"""Row-level security: tables whose rows belong to a tenant may have policies; the first lets everybody pass.

What binds the API's role is made with each upgrade (`common.db.row_security`), because it depends on a role of the server. SQLite has
no such wall. Nothing that the code of before does is refused.
"""

from __future__ import annotations

from alembic import op

from migrations.statements import run_beside

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        run_beside(__file__, op.get_bind())
