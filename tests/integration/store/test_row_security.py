"""The second wall: PostgreSQL itself keeps callers of the API to their tenants, also where a statement has forgotten to."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError, StatementError

from common.db import LONGEST_WAIT, ORCHESTRATOR_QUEUE, Bells, Database, Sessions, note_bell
from common.db.prepared import Prepared
from common.db.row_security import POLICY, RIGHTS, ROLE, WALLED, why_unrestricted
from common.db.tenants import KEPT_OF_NO_TENANT, Tenants
from common.ids import TenantId, new_id
from tests.integration.engine.documents import COUNTER
from tests.support.engine import Engine

INSUFFICIENT_PRIVILEGE = "42501"


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    database = Database.open(postgres_url)
    yield database
    database.dispose()


@pytest.fixture
def mine(database: Database) -> TenantId:
    return fill(Engine.on(database, "mine"))


@pytest.fixture
def theirs(database: Database) -> TenantId:
    return fill(Engine.on(database, "theirs"))


def fill(engine: Engine) -> TenantId:
    """An instance that waits, with a history, and a configuration value."""
    engine.start(COUNTER)
    engine.advance()
    engine.execute(
        "INSERT INTO configs (id, tenant_id, scope, module, key, value, updated_at, updated_by)"
        f" VALUES ('{new_id()}', '{engine.tenant_id}', 'module', 'm', 'k', '1', now(), 'test')"
    )
    return engine.tenant_id


@pytest.fixture
def tenants(postgres_url: str) -> Iterator[Tenants]:
    """As the API opens it, but for one connection."""
    tenants = Tenants.open(postgres_url, pool_size=1, name="signalbox-test", longest_wait=LONGEST_WAIT)
    assert tenants.are_restricted()
    yield tenants
    tenants.dispose()


OWNERS = "SELECT DISTINCT tenant_id FROM instances UNION SELECT DISTINCT tenant_id FROM configs"
"""Whose rows a statement finds that says nothing of tenants."""


def owners(tx: Connection) -> list[str]:
    return list(tx.exec_driver_sql(OWNERS).scalars())


# -- what stands in the catalogue ----------------------------------------------------------------------------------


def test_each_table_whose_rows_belong_to_a_tenant_has_its_policies(database: Database) -> None:
    """A migration that adds such a table gives it row security and the policy `everybody`, as 0007 does; the other one is made by itself."""
    with database.reading() as tx:
        tables = tx.exec_driver_sql(
            "SELECT relname, relrowsecurity, relforcerowsecurity FROM pg_class AS c"
            " WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace AND (relname = 'tenants'"
            " OR EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = 'tenant_id'))"
        ).all()
        policies = tx.exec_driver_sql(
            "SELECT tablename, policyname, permissive, roles::text[], cmd, qual, with_check FROM pg_policies"
        ).all()

    assert {name for name, _, _ in tables} == set(WALLED)
    assert [row for row in tables if not row[1] or row[2]] == []
    said = "({} = (NULLIF(current_setting('signalbox.tenant'::text, true), ''::text))::uuid)"
    assert sorted(tuple(row) for row in policies) == sorted(
        policy
        for name, column in WALLED.items()
        for policy in (
            (name, "everybody", "PERMISSIVE", ["public"], "ALL", "true", None),
            (name, POLICY, "RESTRICTIVE", [ROLE], "ALL", said.format(column), None),
        )
    )


def test_the_role_may_do_what_the_api_needs_and_cannot_log_in(database: Database) -> None:
    with database.reading() as tx:
        rights = tx.execute(
            text(
                "SELECT table_name, privilege_type FROM information_schema.role_table_grants WHERE grantee = :role"
            ),
            {"role": ROLE},
        ).all()
        role = tx.execute(
            text(
                "SELECT rolcanlogin, rolsuper, rolbypassrls, rolcreaterole FROM pg_roles WHERE rolname = :role"
            ),
            {"role": ROLE},
        ).one()

    assert sorted(tuple(row) for row in rights) == sorted(
        (name, verb) for name, verbs in RIGHTS.items() for verb in verbs
    )
    assert tuple(role) == (False, False, False, False)


# -- what a session of a tenant finds and writes --------------------------------------------------------------------


def test_a_statement_that_names_no_tenant_finds_the_rows_of_its_own(
    tenants: Tenants, mine: TenantId, theirs: TenantId
) -> None:
    with tenants.of(mine).reading() as tx:
        assert owners(tx) == [mine]
        for name, column in WALLED.items():
            if RIGHTS[name]:
                found = set(tx.exec_driver_sql(f"SELECT {column} FROM {name}").scalars())
                assert found <= {mine}, name
    with tenants.database.reading() as tx:
        assert sorted(owners(tx)) == sorted([mine, theirs]), "the login itself sees all"


def test_what_names_another_tenant_finds_nothing(tenants: Tenants, mine: TenantId, theirs: TenantId) -> None:
    with tenants.of(mine).reading() as tx:
        asked = {"tenant": theirs}
        found = tx.execute(
            text("SELECT count(*) FROM instances WHERE tenant_id = :tenant"), asked
        ).scalar_one()
    assert found == 0


def test_a_write_that_names_no_tenant_changes_the_rows_of_its_own(
    tenants: Tenants, database: Database, mine: TenantId, theirs: TenantId
) -> None:
    with tenants.of(mine).transaction() as tx:
        assert tx.exec_driver_sql("UPDATE configs SET value = '2'").rowcount == 1
        assert tx.exec_driver_sql("DELETE FROM configs").rowcount == 1

    with database.reading() as tx:
        left = tx.exec_driver_sql("SELECT tenant_id, value FROM configs").all()
    assert [tuple(row) for row in left] == [(theirs, "1")]


INSERT = (
    "INSERT INTO configs (id, tenant_id, scope, module, key, value, updated_at, updated_by)"
    " VALUES (gen_random_uuid(), '{}', 'module', 'm', 'new', '1', now(), 'test')"
)


@pytest.mark.parametrize("statement", [INSERT, "UPDATE configs SET tenant_id = '{}'"])
def test_a_row_for_another_tenant_is_refused(
    tenants: Tenants, database: Database, mine: TenantId, theirs: TenantId, statement: str
) -> None:
    with (
        pytest.raises(ProgrammingError, match="row-level security") as refused,
        tenants.of(mine).transaction() as tx,
    ):
        tx.exec_driver_sql(statement.format(theirs))

    assert getattr(refused.value.orig, "sqlstate", None) == INSUFFICIENT_PRIVILEGE
    with database.reading() as tx:
        assert tx.exec_driver_sql("SELECT count(*) FROM configs").scalar_one() == 2
    with tenants.of(mine).transaction() as tx:
        tx.exec_driver_sql(INSERT.format(mine))


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT hash FROM api_keys",
        "UPDATE history SET actor = 'me'",
        "DELETE FROM tombstones",
        "TRUNCATE configs",
    ],
)
def test_what_the_api_never_does_for_callers_is_refused(
    tenants: Tenants, mine: TenantId, statement: str
) -> None:
    with pytest.raises(ProgrammingError, match="permission denied"), tenants.of(mine).transaction() as tx:
        tx.exec_driver_sql(statement)


def test_a_session_that_was_told_no_tenant_finds_and_writes_nothing(
    postgres_url: str, mine: TenantId, theirs: TenantId
) -> None:
    url = make_url(postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, options=f"-c role={ROLE}", autocommit=True) as session:
        for told in (None, ""):  # a setting that was taken back is an empty text for ever
            if told is not None:
                session.execute("SELECT set_config('signalbox.tenant', %s, false)", (told,))
            for name, verbs in RIGHTS.items():
                if name in WALLED and verbs:
                    found = session.execute(f"SELECT count(*) FROM {name}").fetchone()  # type: ignore[arg-type]
                    assert found == (0,), name
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(INSERT.format(mine))  # type: ignore[arg-type]


# -- whose a connection is ------------------------------------------------------------------------------------------

Way = Callable[[Sessions], AbstractContextManager[Connection]]
WAYS: list[Way] = [Sessions.transaction, Sessions.reading, Sessions.looking, Sessions.each_alone]


def test_tenants_that_share_a_connection_never_see_each_other(
    tenants: Tenants, mine: TenantId, theirs: TenantId
) -> None:
    sessions = set()
    for turn in range(3):
        for way in WAYS:
            for tenant_id in (mine, theirs, theirs, mine)[: 2 + turn]:
                with way(tenants.of(tenant_id)) as tx:
                    assert owners(tx) == [tenant_id]
                    sessions.add(tx.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())
    assert tenants.of(mine).run(owners) == [mine]
    assert len(sessions) == 1, "one connection for all of them"


PREPARED = Prepared(text(OWNERS))


def test_a_plan_that_is_kept_is_for_whoever_asks(tenants: Tenants, mine: TenantId, theirs: TenantId) -> None:
    for _ in range(8):  # the plan for any parameters comes after five of their own
        for tenant_id in (mine, theirs):
            with tenants.of(tenant_id).looking() as tx:
                assert [row[0] for row in PREPARED.rows(tx)] == [tenant_id]


def raise_over(found: list[str]) -> None:
    raise LookupError(found)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_errors_and_rollbacks_change_nothing_of_it(
    tenants: Tenants, mine: TenantId, theirs: TenantId, way: Way
) -> None:
    for tenant_id in (mine, theirs, mine):
        with pytest.raises(DBAPIError), way(tenants.of(tenant_id)) as tx:
            tx.exec_driver_sql("SELECT 1 / 0")
        with pytest.raises(LookupError), way(tenants.of(tenant_id)) as tx:
            raise_over(owners(tx))
        with way(tenants.of(tenant_id)) as tx:
            assert owners(tx) == [tenant_id]


def last_statement(database: Database, pid: int) -> str:
    with database.reading() as tx:
        asked = text("SELECT query FROM pg_stat_activity WHERE pid = :pid")
        return str(tx.execute(asked, {"pid": pid}).scalar_one())


def test_a_session_is_told_its_tenant_only_when_another_one_comes(
    tenants: Tenants, database: Database, mine: TenantId, theirs: TenantId
) -> None:
    asked = "SELECT pg_backend_pid()"
    with tenants.of(mine).looking() as tx:
        pid = tx.exec_driver_sql(asked).scalar_one()

    with tenants.of(mine).looking():
        assert "set_config" not in last_statement(database, pid)
    with tenants.of(theirs).looking():
        assert "set_config" in last_statement(database, pid)


def end_session(database: Database, tenants: Tenants, tenant_id: TenantId) -> None:
    """End the one session that rests in the pool, and wait until it has gone."""
    with tenants.of(tenant_id).looking() as tx:
        pid = tx.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    with database.transaction() as tx:
        ended = text("SELECT pg_terminate_backend(:pid, 10000)")
        assert tx.execute(ended, {"pid": pid}).scalar_one()


def test_a_session_that_died_in_the_pool_is_followed_by_one_that_is_told(
    tenants: Tenants, database: Database, mine: TenantId, theirs: TenantId
) -> None:
    end_session(database, tenants, mine)
    with tenants.of(theirs).reading() as tx:  # it cannot be told, and another one is opened
        assert owners(tx) == [theirs]

    end_session(database, tenants, theirs)
    with suppress(DBAPIError), tenants.of(theirs).reading() as tx:  # nothing had to be told: it notices here
        owners(tx)
    with tenants.of(mine).reading() as tx:
        assert owners(tx) == [mine]


def test_nobody_gets_a_session_without_a_tenant(tenants: Tenants, mine: TenantId) -> None:
    restricted = tenants.of(mine)
    with pytest.raises(RuntimeError, match=r"expected the tenant of this work, found none: ask Tenants\.of"):
        restricted.engine.connect()

    with restricted.reading() as tx:
        assert owners(tx) == [mine]


def break_off(tx: Connection) -> None:
    tx.invalidate()
    owners(tx)


def test_work_whose_connection_broke_does_not_go_on_with_somebody_else_s(
    tenants: Tenants, mine: TenantId
) -> None:
    with pytest.raises(StatementError, match="found none"), tenants.of(mine).looking() as tx:
        break_off(tx)


def test_the_bells_of_either_pool_are_heard(tenants: Tenants, mine: TenantId) -> None:
    heard: list[Bells] = []
    tenants.database.listeners.append(heard.append)

    for sessions in (tenants.of(mine), tenants.database):
        with sessions.transaction() as tx:
            note_bell(tx, ORCHESTRATOR_QUEUE, "one")

    assert heard == [{ORCHESTRATOR_QUEUE: ["one"]}] * 2


def test_few_connections_are_of_no_tenant(tenants: Tenants) -> None:
    pool: Any = tenants.database.engine.pool
    assert pool.size() == KEPT_OF_NO_TENANT


def test_sqlite_has_the_first_wall_alone(sqlite_url: str) -> None:
    tenants = Tenants.open(sqlite_url, pool_size=4, name="signalbox-test", longest_wait=LONGEST_WAIT)
    try:
        assert not tenants.are_restricted()
        assert tenants.of(TenantId(new_id())) is tenants.database
        with tenants.database.reading() as tx:
            assert why_unrestricted(tx) is None
    finally:
        tenants.dispose()


class SilentServer:
    """It takes connections, says nothing for as long as it takes all to ask, and ends them."""

    def __init__(self, listener: socket.socket) -> None:
        self.port: int = listener.getsockname()[1]
        self._listener = listener
        self._taken = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def connections_of(self, work: Callable[[], None]) -> int:
        before = self._taken
        work()
        return self._taken - before

    def _serve(self) -> None:
        with suppress(OSError):  # the test is over
            while True:
                connection, _ = self._listener.accept()
                self._taken += 1
                time.sleep(0.5)
                connection.close()


@pytest.fixture
def silent_server() -> Iterator[SilentServer]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield SilentServer(listener)


def test_a_database_that_answers_nothing_is_waited_for_once_by_all_who_ask(
    silent_server: SilentServer,
) -> None:
    """At the beginning of a process: else its threads waited one after the other, five seconds each."""
    url = f"postgresql://nobody@127.0.0.1:{silent_server.port}/nothing"
    tenants = Tenants.open(url, pool_size=4, name="signalbox-test", longest_wait=LONGEST_WAIT)
    lone = silent_server.connections_of(lambda: ask([tenants]))

    assert silent_server.connections_of(lambda: ask([tenants] * 6)) == lone
    assert silent_server.connections_of(lambda: ask([tenants])) == lone, "who asks later asks anew"
    tenants.dispose()


def ask(tenants: Sequence[Tenants]) -> None:
    """Each at once, and each is told that the database is away."""

    def one(asked: Tenants) -> None:
        with pytest.raises(OperationalError):
            asked.of(TenantId(new_id()))

    with ThreadPoolExecutor(len(tenants)) as pool:
        list(pool.map(one, tenants))
