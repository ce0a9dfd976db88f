"""Which statements a database is asked, for tests that hold what something costs."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import event

from common.db import Sessions


@contextmanager
def statements(database: Sessions) -> Iterator[list[str]]:
    """Every statement that SQLAlchemy executes meanwhile; BEGIN and COMMIT are not told."""
    seen: list[str] = []

    def note(*execution: object) -> None:
        seen.append(str(execution[2]))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
