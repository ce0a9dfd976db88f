"""Sessions of PostgreSQL that take no writes: of a standby, or begun while `default_transaction_read_only` was on.

Such a session may stay so for ever, long after a failover, or after somebody has set the server free. So whoever is refused by
one gives up all that rest in the pool, and the next ones are new.
"""

from __future__ import annotations

from sqlalchemy import Connection

READ_ONLY = "25006"


def leave_if_read_only(tx: Connection, error: BaseException) -> None:
    """Give up the session of `tx`, and those that rest beside it, where `error` of the driver says that it takes no writes."""
    if getattr(error, "sqlstate", None) == READ_ONLY:
        tx.invalidate(error)
        tx.engine.dispose()
