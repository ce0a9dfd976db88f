"""What a login needs for the wall of row-level security, and what serves without it: on a server of its own, where no role is yet."""

import os
import re
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from flask import Flask
from sqlalchemy import make_url
from structlog.testing import capture_logs
from typer.testing import CliRunner

from api import health
from api.app import create_app, services_of
from common.commands.doctor import examine
from common.config import Settings
from common.credentials import make_secret, read_secret
from common.db import Database
from common.db.migrate import upgrade
from common.db.row_security import ROLE, why_unrestricted
from common.db.tables import Role
from common.store import keys
from signalbox.cli.app import app as cli
from tests.integration.api.conftest import APPROVAL
from tests.support.engine import Engine
from tests.support.postgres import PostgresServer, own_postgres_server

SECRET = make_secret()


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server on which the API's role has never been made."""
    with own_postgres_server(fsync=False) as server:
        yield server


def administer(server: PostgresServer, *statements: str, database: str = "postgres") -> None:
    url = make_url(server.url(database)).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as session:
        for statement in statements:
            session.execute(statement)  # type: ignore[arg-type]


def owned_by(server: PostgresServer, login: str, options: str = "") -> str:
    """The URL of an empty database that a login which is no superuser owns."""
    name = f"of_{login}"
    administer(server, f"CREATE ROLE {login} LOGIN {options}", f"CREATE DATABASE {name} OWNER {login}")
    return as_login(server, name, login)


def as_login(server: PostgresServer, database: str, login: str) -> str:
    return make_url(server.url(database)).set(username=login).render_as_string(hide_password=False)


@contextmanager
def opened(url: str) -> Iterator[Database]:
    database = Database.open(url)
    try:
        yield database
    finally:
        database.dispose()


def reason(url: str) -> str | None:
    with opened(url) as database, database.reading() as tx:
        return why_unrestricted(tx)


@contextmanager
def serving(url: str) -> Iterator[Flask]:
    app = create_app(Settings(database_url=url, secret=SECRET, redis_url="", doorbells=False))
    try:
        yield app
    finally:
        services_of(app).close()


def serve(url: str) -> list[str]:
    """Apply, start and read over the API, as two tenants, each of which sees its own; the reasons of which the log warned."""
    with opened(url) as database, database.transaction() as tx:
        raw = read_secret(SECRET)
        issued = [
            keys.issue_key(tx, keys.ensure_tenant(tx, tenant), name=tenant, role=Role.ADMIN, secret=raw).key
            for tenant in ("one", "two")
        ]
    with capture_logs() as logged, serving(url) as app:
        for key in issued:
            client, headers = app.test_client(), {"Authorization": f"Bearer {key}"}
            document = {"document": APPROVAL}
            assert client.post("/api/v1/definitions", json=document, headers=headers).status_code in (
                200,
                201,
            )
            asked = {"definitionKey": "approval"}
            assert client.post("/api/v1/instances", json=asked, headers=headers).status_code == 201
            assert client.get("/metrics", headers=headers).status_code == 200
        for key in issued:
            found = app.test_client().get("/api/v1/instances", headers={"Authorization": f"Bearer {key}"})
            assert len((found.json or {})["items"]) >= 1
    return [str(line["reason"]) for line in logged if line["event"] == "api.unrestricted"]


def cure(reason: str) -> str:
    """The SQL that a reason tells an administrator to run."""
    found = re.search(r"`(CREATE ROLE [^`]*)`", reason)
    assert found, reason
    return found[1]


def test_a_login_that_may_make_no_role_serves_with_a_warning_that_tells_the_cure(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = owned_by(server, "plain", "NOCREATEROLE")
    with opened(url) as database:
        upgrade(database)

    [told] = serve(url)

    assert told.startswith(f'there is no role "{ROLE}": as an administrator run `CREATE ROLE')
    with opened(url) as database:
        assert examine(database)["delays"]["unrestricted"] == told
    monkeypatch.setenv("DATABASE_URL", url)
    shown = CliRunner().invoke(cli, ["doctor"])
    assert shown.exit_code == 0
    assert cure(told) in " ".join(shown.stdout.split())

    administer(server, *cure(told).rstrip(";").split("; "))
    assert f'the role "{ROLE}" lacks policies or rights' in (reason(url) or ""), (
        "until the owner upgrades again"
    )
    with opened(url) as database:
        upgrade(database)

    assert reason(url) is None
    assert serve(url) == []
    with serving(url) as app:
        assert services_of(app).tenants.are_restricted()


def test_a_restore_without_rights_is_told_to_callers_and_by_readiness_until_an_upgrade(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pg_restore --no-acl` under an API that runs; in the middle of any other restore it is the same."""
    monkeypatch.setattr(health, "KEPT_SECONDS", -1.0)
    url = owned_by(server, "maker", "CREATEROLE")
    with opened(url) as database:
        upgrade(database)
        with database.transaction() as tx:
            tenant = keys.ensure_tenant(tx, "one")
            key = keys.issue_key(tx, tenant, name="one", role=Role.ADMIN, secret=read_secret(SECRET)).key
    with serving(url) as app:
        client, headers = app.test_client(), {"Authorization": f"Bearer {key}"}
        assert client.get("/api/v1/instances", headers=headers).status_code == 200
        with opened(url) as database, database.transaction() as tx:
            tx.exec_driver_sql(f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {ROLE}")

        with capture_logs() as logged:
            refused = client.get("/api/v1/instances", headers=headers)
        assert (refused.status_code, (refused.json or {})["code"]) == (503, "unavailable")
        (line,) = [line for line in logged if line["event"] == "request.failed"]
        assert "permission denied" in line["reason"]
        assert "exc_info" not in line
        with capture_logs() as logged:
            ready = client.get("/health/ready")
        assert (ready.status_code, (ready.json or {})["schema"]) == (503, "incomplete")
        (line,) = [line for line in logged if line["event"] == "health.schema"]
        assert "SELECT on attempts, INSERT on attempts, UPDATE on attempts and " in line["reason"]
        assert "run `signalbox db upgrade`" in line["reason"]

        with opened(url) as database:
            upgrade(database)
        assert client.get("/health/ready").status_code == 200
        assert client.get("/api/v1/instances", headers=headers).status_code == 200


def test_a_login_that_may_make_roles_makes_this_one_and_takes_it(server: PostgresServer) -> None:
    url = owned_by(server, "maker", "CREATEROLE")
    with opened(url) as database:
        upgrade(database)

    assert reason(url) is None
    assert serve(url) == []


def test_a_login_that_may_not_take_the_role_serves_with_a_warning(server: PostgresServer) -> None:
    with opened(owned_by(server, "maker", "CREATEROLE")) as database:
        upgrade(database)
    url = owned_by(server, "other")
    with opened(url) as database:
        upgrade(database)  # the role is there, and not for it

    [told] = serve(url)

    assert told.startswith(f'other may not take the role "{ROLE}"')
    administer(server, cure(told).rstrip(";").split("; ")[1])
    assert serve(url) == [], "policies and rights were there"


def test_a_role_that_passes_policies_is_no_wall(server: PostgresServer) -> None:
    url = owned_by(server, "maker", "CREATEROLE")
    with opened(url) as database:
        upgrade(database)
    administer(server, f"ALTER ROLE {ROLE} BYPASSRLS")
    assert "passes every policy" in (reason(url) or "")

    administer(server, f"ALTER ROLE {ROLE} NOBYPASSRLS")
    administer(server, f"ALTER TABLE configs OWNER TO {ROLE}", database="of_maker")
    with capture_logs() as logged, serving(url) as app:
        assert not services_of(app).tenants.are_restricted()
    [told] = [str(line["reason"]) for line in logged]
    assert told.startswith(
        f'sessions of the role "{ROLE}" do not find these tables, or pass their policies: configs;'
    )


def test_a_login_that_owns_nothing_sees_and_starts_what_it_could_before(server: PostgresServer) -> None:
    """Somebody's report, and an application that starts workflows in its own transactions: nobody asked for a wall there."""
    url = owned_by(server, "maker", "CREATEROLE")
    with opened(url) as database:
        upgrade(database)
        for tenant in ("one", "two"):
            Engine.on(database, tenant).start(APPROVAL)
    administer(
        server,
        "CREATE ROLE reader LOGIN",
        "GRANT USAGE ON SCHEMA public TO reader",
        "GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO reader",
        database="of_maker",
    )

    with opened(as_login(server, "of_maker", "reader")) as database:
        with database.reading() as tx:
            assert tx.exec_driver_sql("SELECT count(DISTINCT tenant_id) FROM instances").scalar_one() == 2
        Engine.on(database, "one").start("approval")


def test_databases_of_one_server_are_upgraded_at_once(server: PostgresServer) -> None:
    """Roles are of the whole server: whoever comes second finds it, made or about to be."""
    administer(server, "CREATE ROLE maker LOGIN CREATEROLE")
    names = [f"db_{number}" for number in range(4)]
    for name in names:
        administer(server, f"CREATE DATABASE {name} OWNER maker")
    urls = [as_login(server, name, "maker") for name in names]
    upgrades = [
        subprocess.Popen(
            [sys.executable, "-m", "signalbox", "db", "upgrade"], env={**os.environ, "DATABASE_URL": url}
        )
        for url in urls
    ]

    assert [one.wait(60) for one in upgrades] == [0] * len(names)
    assert [reason(url) for url in urls] == [None] * len(names)


# -- a pooler between -----------------------------------------------------------------------------------------------

NEGOTIATIONS = (80877103, 80877104)  # for TLS and GSSAPI, which this one has not


class Pooler:
    """Hands sessions on to PostgreSQL, but for the `options` that they begin with, as poolers do that are told to ignore them."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._begin, args=(client,), daemon=True).start()

    def _begin(self, client: socket.socket) -> None:
        head = _exactly(client, 8)
        while struct.unpack("!II", head)[1] in NEGOTIATIONS:
            client.sendall(b"N")
            head = _exactly(client, 8)
        size, protocol = struct.unpack("!II", head)
        words = _exactly(client, size - 8).rstrip(b"\0").split(b"\0")
        pairs = [pair for pair in zip(words[::2], words[1::2], strict=True) if pair[0] != b"options"]
        body = b"".join(name + b"\0" + value + b"\0" for name, value in pairs) + b"\0"
        server = socket.create_connection(("127.0.0.1", self._to))
        server.sendall(struct.pack("!II", len(body) + 8, protocol) + body)
        threading.Thread(target=_pump, args=(server, client), daemon=True).start()
        _pump(client, server)


def _exactly(source: socket.socket, size: int) -> bytes:
    read = b""
    while len(read) < size:
        piece = source.recv(size - len(read))
        if not piece:
            raise ConnectionError("the client has gone")
        read += piece
    return read


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while piece := source.recv(65_536):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        target.close()


def test_behind_a_pooler_that_drops_the_role_the_api_serves_with_a_warning(postgres_url: str) -> None:
    parsed = make_url(postgres_url)
    pooler = Pooler(parsed.port or 5432)
    try:
        [told] = serve(parsed.set(port=pooler.port).render_as_string(hide_password=False))
    finally:
        pooler.close()

    assert f'expected a session of the role "{ROLE}", found one of "' in told
