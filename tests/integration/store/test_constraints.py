"""What the database itself refuses, whatever Python believes: statuses, leases, twins, tenants."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from common.db import Database
from common.ids import new_id
from tests.integration.engine.documents import COUNTER, after, one_task
from tests.support.engine import Engine


@pytest.fixture
def filled(engine: Engine) -> Engine:
    """One row in every table that the engine writes."""
    engine.handler("work", lambda _input: None)
    engine.start(one_task(idempotencyKey="once"), business_key="order-1")
    engine.start(after("1h"))
    engine.start(COUNTER)
    engine.advance()
    engine.claim()
    failing = engine.start({"id": "bad", "initial": "a", "states": {"a": {"entry": [BROKEN]}}})
    engine.advance()
    engine.send(failing, "X")
    return engine


BROKEN = {"type": "assign", "path": "x", "value": "${1 / 0}"}

REFUSED = {
    "an unknown status of an instance": "UPDATE instances SET status = 'asleep'",
    "a final status without its time": "UPDATE instances SET status = 'completed'",
    "a finish time without a final status": "UPDATE instances SET finished_at = created_at",
    "an unknown status of a task": "UPDATE tasks SET status = 'asleep'",
    "an ended task without its time": "UPDATE tasks SET status = 'succeeded', lease_owner = NULL, lease_token = NULL, lease_expires_at = NULL",
    "an ended task that is still leased": "UPDATE tasks SET status = 'succeeded', finished_at = created_at",
    "a pending task that is leased": "UPDATE tasks SET status = 'pending'",
    "a lease without an expiry": "UPDATE tasks SET lease_expires_at = NULL",
    "a lease without an owner": "UPDATE tasks SET lease_owner = NULL",
    "an expiry without a token": "UPDATE tasks SET lease_token = NULL",
    "an attempt that ended somehow": "UPDATE attempts SET outcome = 'shrugged', ended_at = started_at",
    "an outcome without an end": "UPDATE attempts SET outcome = 'succeeded'",
    "an end without an outcome": "UPDATE attempts SET ended_at = started_at",
    "an unknown status of a timer": "UPDATE timers SET status = 'asleep'",
    "a fired timer without its time": "UPDATE timers SET status = 'fired'",
    "an armed timer that is over": "UPDATE timers SET finished_at = created_at",
    "an unknown lane": "UPDATE inbox SET lane = 2",
    "an unknown type of row": "UPDATE inbox SET type = 'rumour'",
    "a resolved incident without its time": "UPDATE incidents SET status = 'resolved'",
    "an open incident that is resolved": "UPDATE incidents SET resolved_at = opened_at",
    "a second active version": "INSERT INTO definitions (id, tenant_id, key, version, status, document, checksum, created_by, created_at) "
    "SELECT {id}, tenant_id, key, version + 1, 'active', document, checksum, created_by, created_at FROM definitions WHERE key = 'counter'",
    "the same version twice": "INSERT INTO definitions (id, tenant_id, key, version, status, document, checksum, created_by, created_at) "
    "SELECT {id}, tenant_id, key, version, 'draft', document, checksum, created_by, created_at FROM definitions WHERE key = 'counter'",
    "two live instances of one business key": "INSERT INTO instances (id, tenant_id, definition_id, definition_key, definition_version, business_key, status, head_hash, created_at) "
    "SELECT {id}, tenant_id, definition_id, definition_key, definition_version, business_key, 'pending', head_hash, created_at FROM instances WHERE business_key = 'order-1'",
    "two tasks for one obligation": "INSERT INTO tasks (id, tenant_id, instance_id, key, type, name, status, run_at, max_attempts, completion_event, failure_event, input, created_at) "
    "SELECT {id}, tenant_id, instance_id, key, type, name, 'pending', run_at, 1, 'A', 'B', 'null', created_at FROM tasks",
    "two tasks for one idempotency key": "INSERT INTO tasks (id, tenant_id, instance_id, key, type, name, status, run_at, max_attempts, completion_event, failure_event, input, created_at, idempotency_key) "
    "SELECT {id}, tenant_id, instance_id, 'other', type, name, 'pending', run_at, 1, 'A', 'B', 'null', created_at, 'once' FROM tasks",
    "two timers for one obligation": "INSERT INTO timers (id, tenant_id, instance_id, key, due_at, status, body, created_at) "
    "SELECT {id}, tenant_id, instance_id, key, due_at, 'armed', body, created_at FROM timers",
    "the same attempt twice": "INSERT INTO attempts (task_id, token, tenant_id, attempt, worker_id, started_at) "
    "SELECT task_id, token, tenant_id, 9, worker_id, started_at FROM attempts",
    "a row for an instance that does not exist": "UPDATE inbox SET instance_id = {id}",
    "an instance with rows is deleted": "DELETE FROM instances",
    "a task with attempts is deleted": "DELETE FROM tasks",
    "a definition with instances is deleted": "DELETE FROM definitions WHERE key = 'counter'",
    "a row whose history is half erased": "INSERT INTO history (instance_id, sequence, tenant_id, at, actor, input, changes, salt, digest, previous_hash, hash) "
    "SELECT instance_id, sequence + 10, tenant_id, at, actor, NULL, changes, salt, digest, previous_hash, hash FROM history",
    "a history that begins at nought": "INSERT INTO history (instance_id, sequence, tenant_id, at, actor, input, changes, salt, digest, previous_hash, hash) "
    "SELECT instance_id, 0, tenant_id, at, actor, input, changes, salt, digest, previous_hash, hash FROM history",
}  # fmt: skip


def test_what_must_not_be_is_refused(filled: Engine) -> None:
    """One test for all, because the database is the same and each refusal leaves it as it was."""
    taken = []
    for what, statement in REFUSED.items():
        id_ = f"'{new_id()}'" if filled.database.is_sqlite else f"'{new_id()}'::uuid"
        try:
            with filled.database.transaction() as tx:
                changed = tx.exec_driver_sql(statement.format(id=id_)).rowcount
        except IntegrityError:
            continue
        taken.append(f"{what} ({changed} rows)")

    assert taken == []


def test_every_case_has_rows_that_it_could_change(filled: Engine) -> None:
    """A refusal proves nothing where there is nothing to refuse."""
    tables = ("instances", "tasks", "attempts", "timers", "inbox", "incidents", "definitions", "history")
    assert {
        table: filled.execute(f"SELECT count(*) > 0 FROM {table}")[0][0] for table in tables
    } == dict.fromkeys(tables, True)


@pytest.mark.parametrize(
    ("table", "reference"),
    [
        ("instances", "definition_id"),
        ("inbox", "instance_id"),
        ("history", "instance_id"),
        ("tasks", "instance_id"),
        ("timers", "instance_id"),
        ("incidents", "instance_id"),
        ("attempts", "task_id"),
    ],
)
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_row_of_one_tenant_cannot_point_at_another_s(
    filled: Engine, database: Database, table: str, reference: str
) -> None:
    other = Engine.on(database, tenant="other")
    with database.transaction() as tx:
        tx.exec_driver_sql("ALTER TABLE history DISABLE TRIGGER USER")
    with pytest.raises(IntegrityError, match="fk_"), database.transaction() as tx:
        tx.execute(text(f"UPDATE {table} SET tenant_id = :other"), {"other": other.tenant_id})
