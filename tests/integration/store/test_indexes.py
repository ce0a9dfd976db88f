"""The hot statements find their rows by the partial indexes that were made for them, however much lies around."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event

from common.db import LONGEST_TRANSACTION, Database
from common.db.now import read_now
from common.ids import TenantId, new_token
from common.store import claims, deadlines, inbox, limits, places, timers
from common.store.coming import read_coming
from common.store.places import Place
from tests.conftest import migrate
from tests.integration.engine.documents import one_task
from tests.support.engine import Engine
from tests.support.postgres import PostgresServer

NOISE = 20_000


def noisy(url: str) -> None:
    """20,000 ended tasks and fired timers, as many parked inbox rows, and a few of each that are ready."""
    database = Database.open(url)
    engine = Engine.on(database)
    engine.start(one_task())
    engine.advance()
    with database.transaction() as tx:
        tx.exec_driver_sql(
            "INSERT INTO tasks (id, tenant_id, instance_id, key, type, name, status, run_at, max_attempts,"
            " completion_event, failure_event, input, created_at, finished_at)"
            " SELECT gen_random_uuid(), tenant_id, instance_id, 'k' || n, type, name,"
            " CASE WHEN mod(n, 1000) = 0 THEN 'pending' ELSE 'succeeded' END, run_at, 1, 'A', 'B', 'null', created_at,"
            " CASE WHEN mod(n, 1000) = 0 THEN NULL ELSE created_at END"
            f" FROM tasks, generate_series(1, {NOISE}) AS n"
        )
        tx.exec_driver_sql(
            "INSERT INTO timers (id, tenant_id, instance_id, key, due_at, status, body, created_at, finished_at)"
            " SELECT gen_random_uuid(), tenant_id, id, 'k' || n, created_at,"
            " CASE WHEN mod(n, 1000) = 0 THEN 'armed' ELSE 'fired' END, '{}', created_at,"
            f" CASE WHEN mod(n, 1000) = 0 THEN NULL ELSE created_at END FROM instances, generate_series(1, {NOISE}) AS n"
        )
        tx.exec_driver_sql(
            "INSERT INTO inbox (tenant_id, instance_id, lane, type, body, source, accepted_at, parked)"
            " SELECT tenant_id, id, 1, 'event', '{\"type\":\"X\"}', 'test', created_at, mod(n, 1000) <> 0"
            f" FROM instances, generate_series(1, {NOISE}) AS n"
        )
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in ("tasks", "timers", "inbox"):
            connection.exec_driver_sql(f"ANALYZE {table}")
    database.dispose()


@pytest.fixture(scope="module")
def noise(postgres: PostgresServer) -> Iterator[Database]:
    """The noisy database; every test leaves it as it was."""
    name = postgres.create_database()
    migrate(postgres.url(name))
    noisy(postgres.url(name))
    database = Database.open(postgres.url(name), longest_transaction=LONGEST_TRANSACTION)  # as workers do
    yield database
    database.dispose()
    postgres.drop_database(name)


def plan_of(database: Database, work: Any) -> str:
    """What EXPLAIN says of the statements that `work(tx)` executes, with the very parameters."""
    plans: list[str] = []

    def explain(_c: Any, cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        if statement.startswith(("SELECT", "WITH", "UPDATE")) and " FROM " in statement.replace("\n", " "):
            with type(cursor)(
                cursor.connection
            ) as other:  # of its kind: they name parameters in different ways
                other.execute(f"EXPLAIN {statement}", parameters)
                plans.append("\n".join(row[0] for row in other.fetchall()))
                if "$1" in statement:  # the plan that may be kept
                    other.execute(f"EXPLAIN (GENERIC_PLAN) {statement}")
                    plans.append("\n".join(row[0] for row in other.fetchall()))

    with database.transaction() as tx:
        event.listen(database.engine, "before_cursor_execute", explain)
        try:
            work(tx)
        finally:
            event.remove(database.engine, "before_cursor_execute", explain)
        tx.rollback()
    assert plans, "nothing was explained"
    return "\n\n".join(plans)


def claim(tx: Connection) -> None:
    due = claims.claim_due(
        tx,
        worker=new_token(),
        token=new_token(),
        types=["work"],
        functions=[],
        limit=10,
        lease=timedelta(seconds=8),
    )  # type: ignore[arg-type]
    assert len(due.claims) == 10


def anything_due(tx: Connection) -> None:
    assert claims.is_due(tx, types=["work"], functions=[]) == (True, False)


def page(tx: Connection) -> None:
    assert len(inbox.page_ready(tx).rows) == NOISE // 1_000


def tenant(tx: Connection) -> TenantId:
    return TenantId(str(tx.exec_driver_sql("SELECT id FROM tenants").scalar_one()))


def read_ready(tx: Connection) -> None:
    """In a backlog of 20,000 rows of 200 instances."""
    tx.exec_driver_sql(
        "INSERT INTO instances (id, tenant_id, definition_id, definition_key, definition_version, status, head_hash,"
        " created_at) SELECT gen_random_uuid(), tenant_id, definition_id, definition_key, 1, 'waiting', head_hash,"
        " created_at FROM instances, generate_series(1, 200)"
    )
    tx.exec_driver_sql(
        "INSERT INTO inbox (tenant_id, instance_id, lane, type, body, source, accepted_at)"
        " SELECT tenant_id, id, 1, 'event', '{}', 'test', created_at FROM instances, generate_series(1, 100)"
        " WHERE status = 'waiting'"
    )
    tx.exec_driver_sql("ANALYZE inbox")
    ids = sorted({row.instance_id for row in inbox.page_ready(tx, {tenant(tx): NOISE}).rows})
    assert len(inbox.read_ready(tx, ids)) > 1_000


def due_timers(tx: Connection) -> None:
    assert len(timers.lock_due(tx, now=read_now(tx))) == NOISE // 1_000


def next_timer(tx: Connection) -> None:
    assert read_coming(tx).timer_at is not None


def expired(tx: Connection) -> None:
    assert deadlines.lock_expired(tx, now=read_now(tx)) == []


def next_expiry(tx: Connection) -> None:
    assert read_coming(tx).lease_at is None


PLACE_KEYS = 50


def _queue_up(tx: Connection) -> list[Place]:
    """20,000 instances of which nobody may run, and 2,000 that wait for places of 50 keys; the keys."""
    columns = (
        "INSERT INTO instances (id, tenant_id, definition_id, definition_key, definition_version, status, head_hash,"
        " created_at, concurrency_key, queued)"
    )
    made = "gen_random_uuid(), tenant_id, definition_id, definition_key, 1"
    tx.exec_driver_sql(
        f"{columns} SELECT {made}, 'waiting', head_hash, created_at, NULL, false"
        f" FROM instances, generate_series(1, {NOISE})"
    )
    tx.exec_driver_sql(
        f"{columns} SELECT {made}, 'pending', head_hash, created_at, 'k' || mod(n, {PLACE_KEYS}), mod(n, 40) <> 0"
        f" FROM (SELECT * FROM instances LIMIT 1) AS one, generate_series(1, {NOISE // 10}) AS n"
    )
    tx.exec_driver_sql(
        "INSERT INTO inbox (tenant_id, instance_id, lane, type, body, source, accepted_at, parked)"
        " SELECT tenant_id, id, 1, 'start', '{}', 'test', created_at, true FROM instances WHERE queued"
    )
    tx.exec_driver_sql("ANALYZE instances")
    tx.exec_driver_sql("ANALYZE inbox")
    found = places.find_wanted(tx, after=None, limit=2 * PLACE_KEYS)
    assert len(found) == PLACE_KEYS
    return found


def next_for_a_place(tx: Connection) -> None:
    place = _queue_up(tx)[1]
    assert len(places.lock_next(tx, place, 3)) == 3
    assert places.find_newest_version(tx, place) is not None
    assert places.count_wanted(tx, place) > 3


def taken_places(tx: Connection) -> None:
    place = _queue_up(tx)[0]
    assert places.count_taken(tx, place) > 0
    assert len(places.find_superseded(tx, place, keeping=3, limit=10)) == 10


def unused_limits(tx: Connection) -> None:
    """2,000 limits, of which few have an open task, and 20 ended ones each."""
    tx.exec_driver_sql(
        "INSERT INTO limits (tenant_id, key, source, max_running, created_at, updated_at, updated_by)"
        " SELECT tenant_id, 'key:' || n, 'definition', 1, created_at, created_at, 'test'"
        " FROM instances, generate_series(1, 2000) AS n"
    )
    tx.exec_driver_sql(
        "UPDATE tasks SET limit_key = 'key:' || (1 + mod(substr(key, 2)::int, 2000)) WHERE starts_with(key, 'k')"
    )
    tx.exec_driver_sql("ANALYZE limits")
    tx.exec_driver_sql("ANALYZE tasks")
    found, after = limits.find_unused(tx, after=None)
    assert 100 < len(found) <= limits.SWEPT
    assert after is not None
    assert limits.delete_unused(tx, found) == len(found)


@pytest.mark.parametrize(
    ("work", "index"),
    [
        (unused_limits, "ix_tasks_limited"),
        (next_for_a_place, "ix_instances_queued"),
        (taken_places, "ix_instances_concurrency"),
        (page, "ix_inbox_ready"),
        (claim, "ix_tasks_due"),
        (anything_due, "ix_tasks_due"),
        (due_timers, "ix_timers_due"),
        (next_timer, "ix_timers_due"),
        (expired, "ix_tasks_lease"),
        (next_expiry, "ix_tasks_lease"),
        (read_ready, "ix_inbox_instance"),
    ],
    ids=lambda value: value.__name__ if callable(value) else str(value),
)
def test_hot_statements_use_their_partial_index(noise: Database, work: Any, index: str) -> None:
    plan = plan_of(noise, work)

    assert index in plan, plan
    assert "pk_inbox" not in plan, "it would read a flood of one tenant's to find the rows of another"
    for table in ("tasks", "timers", "inbox", "instances"):
        assert f"Seq Scan on {table}" not in plan, plan
