"""Writing rows: one statement for one row, a pipelined executemany for more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Executable


def write_rows(tx: Connection, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> int:
    """Execute `statement` once for each row, all with the same members; return how many rows changed in all.

    A list of one would take the driver's executemany path, which costs twice as much for a single row.
    """
    if not rows:
        return 0
    return tx.execute(statement, dict(rows[0]) if len(rows) == 1 else [dict(row) for row in rows]).rowcount
