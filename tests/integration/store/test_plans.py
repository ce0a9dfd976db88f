"""`python -m benchmarks.plans` in small: it fills, calls and explains the hot statements, and knows a bad plan."""

from collections.abc import Iterator

import pytest

from benchmarks import plans
from common.db import Database
from tests.support.postgres import PostgresServer

ROWS = 20_000
"""So many that reading a table whole is never the cheaper way to a few of its rows."""


@pytest.fixture
def empty_url(postgres: PostgresServer) -> Iterator[str]:
    name = postgres.create_database()
    yield postgres.url(name)
    postgres.drop_database(name)


def test_no_hot_statement_reads_a_big_table_whole(empty_url: str) -> None:
    report = plans.examine(empty_url, ROWS)

    assert report["read whole"] == [], "\n\n".join(report["read whole"])
    assert set(report["statements"]) == set(plans.HOT)
    assert "ix_tasks_due" in report["statements"]["tasks.claim_due"]
    assert "ix_timers_due" in report["statements"]["timers.lock_due"]

    database = Database.open(empty_url)
    try:
        told = plans.explain(
            database,
            {"whole": lambda tx: tx.exec_driver_sql("SELECT count(body)\n FROM inbox WHERE type = 'X'")},
        )
    finally:
        database.dispose()
    assert [plans.reads_whole(plan) for plan in told["whole"]] == [True]
