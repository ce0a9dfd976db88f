"""Requests without a transaction: what one statement does on PostgreSQL is answered as a transaction would answer it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, ProgrammingError

from api.app import create_app, services_of
from api.operations import Answer
from api.transactions import Transactions
from common.config import Settings
from common.db import ARRIVALS, ORCHESTRATOR_QUEUE, Bells, Database, Sessions
from common.db.now import read_now
from common.db.prepared import Prepared
from common.db.tables import DefinitionStatus
from common.ids import new_id
from common.lifecycle import InstanceStatus
from common.store import definitions
from tests.conftest import POSTGRESQL
from tests.integration.api.conftest import APPROVAL, Api, problem_of
from tests.support.executed import statements
from tests.support.postgres import read_only


@pytest.fixture
def served(api: Api) -> Sessions:
    """The database as the API has it open for callers of the tenant."""
    return services_of(api.app).tenants.of(api.engine.tenant_id)


@contextmanager
def rung(database: Sessions) -> Iterator[list[Bells]]:
    heard: list[Bells] = []
    database.listeners.append(heard.append)
    yield heard
    database.listeners.remove(heard.append)


@contextmanager
def transactions(database: Sessions) -> Iterator[list[object]]:
    """The connections on which a transaction began."""
    begun: list[object] = []
    note = begun.append  # each mention of it is another object
    event.listen(database.engine, "begin", note)
    try:
        yield begun
    finally:
        event.remove(database.engine, "begin", note)


def without_times(instance: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in instance.items() if name not in ("id", "createdAt")}


def test_starts_and_events_and_reads_need_no_transaction_on_postgresql(api: Api, served: Sessions) -> None:
    instance_id = api.start()

    with statements(served) as seen, transactions(served) as begun:
        assert api.post("/instances", {"definitionKey": "approval"}).status_code == 201
        assert api.post(f"/instances/{instance_id}/events", {"type": "LOOKED"}).status_code == 202
        assert api.get(f"/instances/{instance_id}").status_code == 200

    # A look at the instance and a write for the event; on SQLite: 4 for the start, 4 for the event and the answer to it, 2 to read.
    assert len(seen) == (10 if served.is_sqlite else 4), seen
    assert bool(begun) == served.is_sqlite


def test_a_start_is_answered_alike_the_first_time_and_when_it_is_remembered(api: Api) -> None:
    api.apply()
    asked = {"definitionKey": "approval", "input": {"b": 1, "a": "ü"}, "labels": {"team": "x"}, "priority": 3}

    first, second = (api.post("/instances", asked) for _ in range(2))

    assert (first.status_code, second.status_code) == (201, 201)
    assert without_times(first.json or {}) == without_times(second.json or {})
    for answer in (first, second):
        read = api.get(f"/instances/{(answer.json or {})['id']}")
        assert read.json == answer.json, "and as whoever reads it before its first step sees it"
        assert answer.headers["Location"].endswith(f"/instances/{(answer.json or {})['id']}")


def test_what_was_accepted_rings_after_its_commit_and_what_was_refused_rings_nobody(
    api: Api, served: Sessions
) -> None:
    instance_id = api.start()
    with rung(served) as heard:
        started = api.post("/instances", {"definitionKey": "approval"}).json or {}
        api.post(f"/instances/{instance_id}/events", {"type": "LOOKED"})
        api.post(f"/instances/{new_id()}/events", {"type": "LOOKED"})
        api.post(f"/instances/{instance_id}/events", {"type": "done.state.x"})

    arrived = {ARRIVALS: [api.engine.tenant_id]}
    assert heard == [
        {ORCHESTRATOR_QUEUE: [started["id"]], **arrived},
        {ORCHESTRATOR_QUEUE: [instance_id], **arrived},
    ]
    assert api.engine.execute("SELECT count(*) FROM inbox") == [(2,)]


def test_a_business_key_that_is_held_answers_with_its_holder(api: Api) -> None:
    api.start()
    asked = {"definitionKey": "approval", "businessKey": "order-1"}
    first = api.post("/instances", asked)

    again = api.post("/instances", asked)
    refused = api.post("/instances", asked | {"onConflict": "reject"})

    assert (first.status_code, again.status_code) == (201, 200)
    assert (again.json or {})["id"] == (first.json or {})["id"]
    problem_of(refused, 409, "instance.business_key_held")
    assert api.engine.execute("SELECT count(*) FROM inbox") == [(1,)]


def test_a_version_that_another_process_has_deactivated_is_refused_at_once(api: Api) -> None:
    api.start()
    with api.engine.database.transaction() as tx:
        definitions.set_status(tx, api.engine.tenant_id, "approval", 1, DefinitionStatus.INACTIVE)

    answer = api.post("/instances", {"definitionKey": "approval"})

    problem_of(answer, 409, "definition.not_active")


def test_an_event_for_a_finished_instance_is_refused(api: Api) -> None:
    instance_id = api.start()
    api.post(f"/instances/{instance_id}/events", {"type": "APPROVED"})
    api.engine.settle()
    assert api.engine.status(instance_id) is InstanceStatus.COMPLETED

    answer = api.post(f"/instances/{instance_id}/events", {"type": "LOOKED"})

    problem_of(answer, 409, "instance.finished")
    assert api.engine.execute("SELECT count(*) FROM inbox") == [(0,)]


def test_the_schema_of_an_event_is_asked_also_where_it_has_not_been_read_yet(api: Api) -> None:
    schema = {"type": "object", "required": ["by"]}
    instance_id = api.start({**APPROVAL, "id": "strict", "events": {"APPROVED": schema}})

    refused = [api.post(f"/instances/{instance_id}/events", {"type": "APPROVED"}) for _ in range(2)]
    accepted = api.post(f"/instances/{instance_id}/events", {"type": "APPROVED", "by": "ada"})

    for answer in refused:
        problem_of(answer, 422, "event.invalid")
    assert accepted.status_code == 202


def test_an_instance_of_another_tenant_is_not_there(api: Api) -> None:
    instance_id = api.start()

    problem_of(api.get(f"/instances/{instance_id}", key=api.other_key), 404, "instance.not_found")
    answer = api.post(f"/instances/{instance_id}/events", {"type": "LOOKED"}, key=api.other_key)
    problem_of(answer, 404, "instance.not_found")
    problem_of(
        api.post("/instances", {"definitionKey": "approval"}, key=api.other_key), 404, "definition.not_found"
    )


# -- the connection -----------------------------------------------------------------------------------------------

ONE = Prepared(text("SELECT 1"))
NOBODY = Prepared(
    text(
        "INSERT INTO inbox (tenant_id, instance_id, lane, type, body, source, accepted_at)"
        " VALUES (CAST(:tenant_id AS uuid), CAST(:id AS uuid), 1, 'event', '{}', 'test', clock_timestamp()) RETURNING id"
    )
)
NOWHERE = Prepared(text("SELECT nothing FROM nowhere"))
LOSE = Prepared(text("SELECT pg_terminate_backend(pg_backend_pid())"))


ON_POSTGRESQL = pytest.mark.parametrize("database_url", [POSTGRESQL], indirect=True)


@ON_POSTGRESQL
def test_a_connection_that_was_lost_is_told_as_trouble_and_not_used_again(database: Database) -> None:
    with pytest.raises(OperationalError), database.each_alone() as tx:
        LOSE.rows(tx)

    with database.each_alone() as tx:
        assert [tuple(row) for row in ONE.rows(tx)] == [(1,)]
    with database.transaction() as tx:
        assert read_now(tx).tzinfo is not None


@ON_POSTGRESQL
def test_what_the_database_refuses_leaves_the_connection_as_it_was(database: Database) -> None:
    with pytest.raises(IntegrityError), database.each_alone() as tx:
        NOBODY.rows(tx, {"tenant_id": new_id(), "id": new_id()})
    with pytest.raises(ProgrammingError), database.each_alone() as tx:
        NOWHERE.rows(tx)

    with database.engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        assert driver.autocommit is False, "whoever takes it next begins a transaction"


@ON_POSTGRESQL
def test_what_was_deleted_between_look_and_write_is_told_by_a_transaction(api: Api, served: Sessions) -> None:
    def put(tx: Connection) -> Answer | None:
        NOBODY.rows(tx, {"tenant_id": api.engine.tenant_id, "id": new_id()})
        raise AssertionError("there is no such instance")

    services = services_of(api.app)
    transactions = Transactions(services.tenants, services.waiter, services.sealing_keys)
    told = transactions.read(api.engine.tenant_id, lambda _tx: Answer({"told": True}), put)

    assert told.payload == b'{"told":true}'


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_database_that_takes_no_writes_is_told_and_passes_by_itself(api: Api, database_url: str) -> None:
    api.apply()
    services_of(api.app).tenants.dispose()  # what a failover does to sessions
    with read_only(database_url):
        ready = api.app.test_client().get("/health/ready")
        assert (ready.status_code, (ready.json or {})["database"]) == (503, "read-only")
        for headers in ({}, {"Idempotency-Key": "once"}):
            answer = api.post("/instances", {"definitionKey": "approval"}, headers=headers)
            problem_of(answer, 503, "unavailable")
            assert answer.headers["Retry-After"] == "1"
        assert api.get("/instances").status_code == 200, "what only reads is answered"

    for headers in ({}, {"Idempotency-Key": "once"}):
        api.post(
            "/instances", {"definitionKey": "approval"}, headers=headers
        )  # may meet what is left of the pool
        answer = api.post("/instances", {"definitionKey": "approval"}, headers=headers)
        assert answer.status_code in (200, 201), answer.text


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_who_waits_for_a_table_that_somebody_has_locked_is_told_so(
    api: Api, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each caller keeps a thread for as long as the lock is held, and nobody says why."""
    api.apply()
    monkeypatch.setattr("api.app.LONGEST_WAIT", timedelta(milliseconds=300))
    settings = Settings(
        database_url=database.engine.url.render_as_string(hide_password=False),
        secret=api.secret,
        redis_url="",
        doorbells=False,
    )
    patient = replace(api, app=create_app(settings))
    with database.transaction() as tx:
        tx.exec_driver_sql(
            "SET LOCAL idle_in_transaction_session_timeout = 0"
        )  # a slow machine takes its time
        tx.exec_driver_sql("LOCK TABLE instances IN ACCESS EXCLUSIVE MODE")
        for headers in ({}, {"Idempotency-Key": "once"}):
            answer = patient.post("/instances", {"definitionKey": "approval"}, headers=headers)
            problem_of(answer, 503, "unavailable")

    assert patient.post("/instances", {"definitionKey": "approval"}).status_code == 201


def test_no_error_of_the_database_shows_what_was_written(database: Database) -> None:
    with pytest.raises(DBAPIError) as refused, database.transaction() as tx:
        tx.execute(text("INSERT INTO nowhere VALUES (:card)"), {"card": "4111 1111"})

    assert "nowhere" in str(refused.value)
    assert "4111" not in str(refused.value)
