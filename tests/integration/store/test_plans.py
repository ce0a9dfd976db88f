"""`python -m benchmarks.plans` and `plans_sqlite` in small: they fill, call and explain the hot statements, and know a bad plan."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from benchmarks import plans, plans_sqlite
from common.db import LONGEST_TRANSACTION, Database, tables
from common.db.rows import Writes
from tests.support.postgres import PostgresServer

ROWS = 20_000
"""So many that reading a table whole is never the cheaper way to a few of its rows."""


@pytest.fixture
def empty_url(postgres: PostgresServer) -> Iterator[str]:
    name = postgres.create_database()
    yield postgres.url(name)
    postgres.drop_database(name)


@contextmanager
def opened(url: str, *, longest_transaction: timedelta | None = None) -> Iterator[Database]:
    database = Database.open(url, longest_transaction=longest_transaction)
    try:
        yield database
    finally:
        database.dispose()


def test_no_hot_statement_reads_far_more_than_it_finds(empty_url: str) -> None:
    report = plans.examine(empty_url, ROWS)

    assert report["problems"] == [], "\n\n".join(report["problems"])
    statements = report["statements"]
    assert set(statements) == {*plans.HOT, *plans.CALLED}
    assert "ix_tasks_due" in statements["claims.claim_due"]["indexes"]
    assert statements["claims.claim_due"]["found"] == plans.READY // 2
    assert "ix_timers_due" in statements["timers.lock_due"]["indexes"]

    with opened(empty_url) as database:
        told = plans.explain(
            database,
            {
                "whole": lambda tx: tx.exec_driver_sql(
                    "SELECT count(body)\n FROM inbox WHERE strpos(body, 'nothing') > 0"
                ),
                "an index": lambda tx: tx.exec_driver_sql(
                    f"SELECT count(*) FROM (SELECT id FROM tasks ORDER BY id LIMIT {ROWS // 2}) AS half"
                ),
                "a row": lambda tx: tx.exec_driver_sql("SELECT id FROM tasks ORDER BY id LIMIT 1"),
            },
        )
    [whole], [index], [row] = told.values()
    assert whole.reads_whole
    assert (index.reads_whole, index.reads_in_vain, index.rows_read) == (False, True, ROWS // 2), index
    assert (row.reads_whole, row.reads_in_vain, row.found, row.rows_read) == (False, False, 1, 1), row
    assert plans_of_a_write(empty_url) == (7, 5), "PostgreSQL tries five plans of their own, then keeps one"


def plans_of_a_write(url: str) -> tuple[int, int]:
    """How often the plan that is kept was used for a step's write of one row, and how often one was made for it."""
    with opened(url, longest_transaction=LONGEST_TRANSACTION) as database, database.transaction() as tx:
        ids = [row[0] for row in tx.exec_driver_sql("SELECT id FROM tasks LIMIT 12")]
        for one in ids:
            writes = Writes(tx)
            writes.update(tables.tasks, [{"id": one, "name": "again"}], match=(("id", "id"),))
            writes.run()
        [plans_made] = tx.exec_driver_sql(
            "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE 'WITH w0%%'"
        ).all()
        return plans_made[0], plans_made[1]


def test_no_hot_statement_leads_sqlite_through_the_rows_of_others(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/signalbox.db"
    report = plans_sqlite.examine(url, ROWS)

    assert report["problems"] == [], "\n\n".join(report["problems"])
    assert set(report["statements"]) >= set(plans.HOT) - set(plans_sqlite.ONLY_POSTGRESQL)

    with opened(url) as database:
        told = plans_sqlite.count_steps(
            database,
            {
                # As flags were said once: the index of instances that wait for a place knows them bare.
                "whole": lambda tx: tx.exec_driver_sql(
                    "SELECT count(*) FROM instances WHERE queued = 1 AND status = 'pending'"
                ),
                "an index": lambda tx: tx.exec_driver_sql(
                    "SELECT count(*) FROM instances WHERE queued AND status = 'pending'"
                ),
            },
        )
    [whole], [index] = told.values()
    assert whole.is_too_long, whole
    assert not index.is_too_long, index
    assert "ix_instances_queued" in index.plan
