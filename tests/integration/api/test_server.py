"""The server itself, as `python -m api` runs it: over real sockets, with real signals."""

import json
import os
import resource
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from api.app import THREADS
from api.server import MOST_CONNECTIONS, connections_of
from api.unserved import HEAD_SECONDS
from common.credentials import make_secret, read_secret
from common.db import Database
from common.db.tables import Role
from common.errors import Unavailable
from common.store import keys
from signalbox import Client
from signalbox.ports import LOOPBACK, free_port
from tests.integration.api.conftest import APPROVAL
from tests.integration.engine.documents import ON_SQLITE
from tests.support.engine import Engine
from tests.support.forked import forked_api
from tests.support.processes import Child, Processes
from tests.support.waiting import wait_until

ROOT = str(Path(__file__).parents[3])


@dataclass
class Server:
    """One running server, and an admin's key to it."""

    child: Child
    port: int
    key: str

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def client(self) -> httpx2.Client:
        return httpx2.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=20,
            trust_env=False,
            verify=False,
        )


def start_server(processes: Processes, env: Mapping[str, str], key: str) -> Server:
    """Start the server at a port of its own, and wait until it answers."""
    port = free_port()
    at = {"PYTHONPATH": ROOT, "SIGNALBOX_PORT": str(port), "SIGNALBOX_LOG_FORMAT": "json"}
    child = forked_api(processes, env={**at, **env})
    server = Server(child, port, key)
    with server.client() as client:
        child.wait_until_ready(lambda: answers(client), what="the server to answer", seconds=60)
    return server


def issue_key(engine: Engine, secret: str) -> str:
    with engine.database.transaction() as tx:
        return keys.issue_key(
            tx, engine.tenant_id, name="me", role=Role.ADMIN, secret=read_secret(secret)
        ).key


@pytest.fixture
def serve(processes: Processes, engine: Engine, database_url: str) -> Callable[[], Server]:
    """Start the server on the test's database."""
    secret = make_secret()
    key = issue_key(engine, secret)
    env = {"DATABASE_URL": database_url, "REDIS_URL": "memory://localhost", "SIGNALBOX_SECRET": secret}
    return lambda: start_server(processes, env, key)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite_file: Path) -> Iterator[Server]:
    """One server for tests that only speak to it, and leave nothing in its database.

    It stands on SQLite alone: these tests are about sockets, and what they ask of a database is `/health` and a list.
    """
    folder = tmp_path_factory.mktemp("shared")
    secret = make_secret()
    url = f"sqlite:///{shutil.copyfile(migrated_sqlite_file, folder / 'signalbox.db')}"
    database = Database.open(url)
    key = issue_key(Engine.on(database), secret)
    database.dispose()
    env = {"DATABASE_URL": url, "REDIS_URL": "memory://localhost", "SIGNALBOX_SECRET": secret}
    with Processes(folder) as running:
        yield start_server(running, env, key)


def answers(client: httpx2.Client) -> bool:
    try:
        return client.get("/health/live").status_code == 200
    except httpx2.TransportError:
        return False


def log_lines(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.child.log_path.read_text("utf-8").splitlines()]


def test_it_serves_and_says_what_it_stands_on(serve: Callable[[], Server]) -> None:
    server = serve()
    with server.client() as client:
        assert client.get("/health/ready").json() == {
            "status": "ready",
            "database": "up",
            "schema": "up",
            "broker": "off",
        }
        assert client.post("/api/v1/definitions", json={"document": APPROVAL}).status_code == 201
        assert client.post("/api/v1/instances", json={"definitionKey": "approval"}).status_code == 201
    lines = log_lines(server)
    assert [line["event"] for line in lines] == ["api.starting"], "no access log and no greeting"
    assert server.key not in json.dumps(lines)


def test_it_listens_on_the_loopback_alone(shared: Server) -> None:
    listening = Path("/proc/net/tcp").read_text("utf-8") + Path("/proc/net/tcp6").read_text("utf-8")
    places = {line.split()[1] for line in listening.splitlines() if line.split()[3] == "0A"}

    assert f"0100007F:{shared.port:04X}" in places
    assert f"00000000:{shared.port:04X}" not in places


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_of_five_megabytes_is_refused_and_its_sender_learns_it(
    shared: Server, is_chunked: bool
) -> None:
    told = len(log_lines(shared))
    body = b'"' + b"x" * 5_000_000 + b'"'

    def pieces() -> Iterator[bytes]:
        yield from (body[start : start + 65_536] for start in range(0, len(body), 65_536))

    with shared.client() as client:
        for _ in range(2):  # the connection is as good as before
            answer = client.post(
                "/api/v1/instances",
                content=pieces() if is_chunked else body,
                headers={"Content-Type": "application/json"},
            )
            assert answer.status_code == 413
            assert answer.json()["limit"] == "max_body_bytes"

    refused = [line for line in log_lines(shared)[told:] if line["event"] == "request.refused"]
    assert [line["status"] for line in refused] == [413, 413]


def test_a_sender_who_stalls_holds_one_thread_and_not_the_server(shared: Server) -> None:
    with socket.create_connection((LOOPBACK, shared.port)) as stalled, shared.client() as client:
        head = "POST /api/v1/instances HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n"
        stalled.sendall(head.encode())

        assert client.get("/health/live").status_code == 200
        stalled.settimeout(20)
        assert stalled.recv(12) == b"HTTP/1.1 401"


def test_half_heads_keep_nobody_waiting_are_served_when_whole_and_closed_when_not(shared: Server) -> None:
    begun = time.monotonic()
    half, whole = b"GET /api/v1/definitions HTTP/1.1\r\nHost: x\r\n", request(shared, "GET", "/health/live")
    with ExitStack() as slow, shared.client() as client:
        connections = [
            slow.enter_context(socket.create_connection((LOOPBACK, shared.port), timeout=20))
            for _ in range(80)
        ]
        for number, connection in enumerate(connections):
            connection.sendall(half if number % 2 else whole + half)
        for _ in range(20):
            assert client.get("/api/v1/definitions").status_code == 200
        for connection in connections[::2]:
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")

        connections[0].sendall(b"Authorization: Bearer " + shared.key.encode() + b"\r\n\r\n")
        connections[1].sendall(b"\r\n")
        assert connections[0].recv(65_536).startswith(b"HTTP/1.1 200")
        assert connections[1].recv(65_536).startswith(b"HTTP/1.1 401")
        assert time.monotonic() - begun < HEAD_SECONDS, "nobody waited for the others"

        assert [connection.recv(1) for connection in connections[2:]] == [b""] * 78
        assert client.get("/api/v1/definitions").status_code == 200


def test_who_does_not_close_after_the_last_answer_keeps_nobody_waiting(shared: Server) -> None:
    last = request(shared, "GET", "/health/live", "Connection: close")
    with ExitStack() as open_still, shared.client() as client:
        for _ in range(20):
            connection = open_still.enter_context(
                socket.create_connection((LOOPBACK, shared.port), timeout=20)
            )
            connection.sendall(last)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        began = time.monotonic()

        assert client.get("/api/v1/definitions").status_code == 200
        assert time.monotonic() - began < 2


@pytest.mark.parametrize("fill", [0, 60])
def test_a_head_in_pieces_is_served_as_soon_as_it_is_there(shared: Server, fill: int) -> None:
    sent = request(shared, "GET", "/api/v1/definitions", *[f"X-{one}: {'x' * 400}" for one in range(fill)])
    with socket.create_connection((LOOPBACK, shared.port), timeout=20) as connection:
        for piece in (sent[:10], sent[10:-30], sent[-30:-2], sent[-2:]):
            time.sleep(0.02)
            connection.sendall(piece)
        began = time.monotonic()

        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - began < 2


def test_who_asks_how_it_is_finds_a_thread_when_all_are_taken(shared: Server) -> None:
    head = request(shared, "POST", "/api/v1/instances", "Content-Type: application/json", "Content-Length: 9")
    with ExitStack() as waiting, shared.client() as client:
        for _ in range(THREADS + 8):
            connection = waiting.enter_context(socket.create_connection((LOOPBACK, shared.port), timeout=20))
            connection.sendall(head)
        for _ in range(10):
            assert client.get("/health/live", timeout=5).status_code == 200
        with pytest.raises(httpx2.ReadTimeout):
            client.get("/api/v1/definitions", timeout=1)

    with shared.client() as client:
        assert client.get("/api/v1/definitions").status_code == 200


def test_it_ends_when_told_and_answers_those_who_wait(serve: Callable[[], Server]) -> None:
    server = serve()
    answered: list[tuple[int, float]] = []
    with server.client() as client:
        client.post("/api/v1/definitions", json={"document": APPROVAL})

        def wait() -> None:
            start = {"definitionKey": "approval"}
            with server.client() as waiting:
                answer = waiting.post("/api/v1/instances", json=start, headers={"Prefer": "wait=60"})
                answered.append((answer.status_code, time.monotonic()))

        thread = threading.Thread(target=wait)
        thread.start()
        wait_until(lambda: client.get("/api/v1/instances").json()["items"], what="the start to be accepted")

    told = time.monotonic()
    server.child.terminate(seconds=30)
    thread.join(10)

    ((status, at),) = answered
    assert status == 202
    assert at - told < 5, "long before the 60 s that it had asked for"
    assert server.child.exit_code == 0


@ON_SQLITE
def test_while_it_ends_it_refuses_newcomers_and_answers_whom_it_knows(serve: Callable[[], Server]) -> None:
    """A connection that is completed only to be reset leaves its caller not knowing what became of the request."""
    server = serve()

    def is_refused() -> bool:
        try:
            socket.create_connection((LOOPBACK, server.port), timeout=1).close()
        except ConnectionRefusedError:
            return True
        return False

    with server.client() as client:
        assert answers(client)
        server.child.popen.send_signal(signal.SIGTERM)
        wait_until(is_refused, what="newcomers to be refused")

        last = client.get("/health/live")

    assert (last.status_code, last.headers["Connection"]) == (200, "close")
    assert server.child.wait(seconds=30) == 0


@ON_SQLITE
def test_its_worker_comes_back_when_it_is_killed(serve: Callable[[], Server]) -> None:
    server = serve()
    (worker,) = Path(f"/proc/{server.child.pid}/task/{server.child.pid}/children").read_text("utf-8").split()
    with server.client() as client:
        os.kill(int(worker), signal.SIGKILL)

        wait_until(lambda: answers(client), what="the server to answer again", seconds=60)


REFUSED = {
    "no secret": ({"SIGNALBOX_SECRET": ""}, "SIGNALBOX_SECRET is not set"),
    "half a secret": ({"SIGNALBOX_SECRET": "c2hvcnQ="}, "SIGNALBOX_SECRET holds 5 bytes"),
    "another database": ({"DATABASE_URL": "mysql://x/y"}, "DATABASE_URL"),
    "a port beyond all": (
        {"SIGNALBOX_PORT": "70000"},
        "SIGNALBOX_PORT: expected at most 65,535, found '70000'",
    ),
    "a limit of nothing": ({"SIGNALBOX_MAX_PAGE": "0"}, "SIGNALBOX_MAX_PAGE: expected at least 1, found '0'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_setting_is_said_in_one_line_before_anything_starts(
    processes: Processes, sqlite_url: str, name: str
) -> None:
    changes, said = REFUSED[name]
    env = {"PYTHONPATH": ROOT, "DATABASE_URL": sqlite_url, "SIGNALBOX_SECRET": make_secret(), **changes}

    child = forked_api(processes, env=env)

    assert child.wait(seconds=60) == 2
    (line,) = child.log_path.read_text("utf-8").splitlines()
    assert line.startswith("signalbox api: ")
    assert said in line


@pytest.mark.parametrize(
    ("host", "said"),
    [
        (LOOPBACK, "is taken; stop who listens there, or name another one by --port or SIGNALBOX_PORT"),
        (
            "192.0.2.1",
            "Cannot assign requested address; SIGNALBOX_HOST and SIGNALBOX_PORT, or --host and --port",
        ),
    ],
)
def test_a_port_that_cannot_be_had_is_said_in_one_line(
    processes: Processes, shared: Server, sqlite_url: str, host: str, said: str
) -> None:
    port = {"SIGNALBOX_HOST": host, "SIGNALBOX_PORT": str(shared.port)}
    env = {"PYTHONPATH": ROOT, "DATABASE_URL": sqlite_url, "SIGNALBOX_SECRET": make_secret(), **port}

    child = forked_api(processes, env=env)

    assert child.wait(seconds=60) == 2
    (line,) = child.log_path.read_text("utf-8").splitlines()
    assert line.startswith("signalbox api: ")
    assert said in line


def test_it_does_not_serve_a_schema_older_than_itself(processes: Processes, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/empty.db"
    Database.open(url).dispose()
    env = {"PYTHONPATH": ROOT, "DATABASE_URL": url, "SIGNALBOX_SECRET": make_secret()}

    child = forked_api(processes, env=env)

    assert child.wait(seconds=60) == 2
    assert "signalbox db upgrade" in child.log_tail()


def test_a_database_that_is_away_is_told_and_waited_for(
    processes: Processes, empty_postgres_url: str
) -> None:
    port, dead = free_port(), free_port()
    env = {
        "PYTHONPATH": ROOT,
        "DATABASE_URL": f"postgresql://postgres@{LOOPBACK}:{dead}/nothing",
        "SIGNALBOX_SECRET": make_secret(),
        "SIGNALBOX_PORT": str(port),
        "REDIS_URL": f"redis://{LOOPBACK}:{dead}",
    }
    child = forked_api(processes, env=env)
    with httpx2.Client(
        base_url=f"http://{LOOPBACK}:{port}", timeout=20, trust_env=False, verify=False
    ) as client:
        child.wait_until_ready(lambda: answers(client), what="the server to answer", seconds=60)
        ready = client.get("/health/ready")
        asked = client.get(
            "/api/v1/instances", headers={"Authorization": "Bearer sb_" + "a" * 12 + "_" + "a" * 52}
        )

    assert ready.status_code == 503
    assert ready.json() == {"status": "not ready", "database": "down", "schema": "down", "broker": "down"}
    assert (asked.status_code, asked.json()["code"]) == (503, "unavailable")
    assert str(dead) not in ready.text + asked.text, "addresses are for the log"


@pytest.mark.parametrize("by", ["gunicorn", "an interpreter of its own"])
def test_plain_gunicorn_and_an_interpreter_of_its_own_serve_it_too(
    processes: Processes, sqlite_url: str, by: str
) -> None:
    port = free_port()
    env = {
        "PYTHONPATH": ROOT,
        "DATABASE_URL": sqlite_url,
        "SIGNALBOX_SECRET": make_secret(),
        "SIGNALBOX_PORT": str(port),
        "REDIS_URL": "memory://localhost",
    }
    bind = f"{LOOPBACK}:{port}"
    command = (
        ("gunicorn", "--no-control-socket", "--worker-class", "gthread", "--threads", "8", "-b", bind, "api.wsgi:app")
        if by == "gunicorn"
        else (sys.executable, "-m", "api")
    )  # fmt: skip
    child = processes.start("api", *command, env=env)
    with httpx2.Client(base_url=f"http://{bind}", timeout=20, trust_env=False, verify=False) as client:
        child.wait_until_ready(lambda: answers(client), what="the server to answer", seconds=60)

        assert client.get("/health/ready").json()["status"] == "ready"
        assert client.get("/docs").status_code == 200


def request(server: Server, method: str, path: str, *more: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: test", f"Authorization: Bearer {server.key}", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def test_an_answer_goes_out_in_one_piece_and_the_connection_serves_on(shared: Server) -> None:
    with socket.create_connection((LOOPBACK, shared.port), timeout=20) as connection:
        for _ in range(20):
            connection.sendall(request(shared, "GET", "/api/v1/definitions"))
            piece = connection.recv(65_536)

            assert piece.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"\r\nConnection: keep-alive\r\n" in piece
            assert json.loads(piece.partition(b"\r\n\r\n")[2]) == {"items": [], "nextCursor": None}


def test_requests_sent_in_one_go_are_answered_in_order(shared: Server) -> None:
    paths = ["/health/live", "/api/v1/definitions", "/api/v1/nothing", "/health/live"]
    with socket.create_connection((LOOPBACK, shared.port), timeout=20) as connection:
        connection.sendall(b"".join(request(shared, "GET", path) for path in paths))
        seen = b""
        while seen.count(b"HTTP/1.1 ") < len(paths):
            seen += connection.recv(65_536)

    statuses = [part.split()[0] for part in seen.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"200", b"404", b"200"]


def test_a_body_that_nobody_reads_is_not_taken_for_the_next_request(shared: Server) -> None:
    unread = b'{"definitionKey": "nothing"}'
    with socket.create_connection((LOOPBACK, shared.port), timeout=20) as connection:
        connection.sendall(
            request(shared, "POST", "/api/v1/nowhere", f"Content-Length: {len(unread)}") + unread
        )
        first = connection.recv(65_536)
        connection.sendall(request(shared, "GET", "/health/live"))
        second = connection.recv(65_536)

    assert first.startswith(b"HTTP/1.1 404")
    assert second.startswith(b"HTTP/1.1 200")


def exchange(server: Server, sent: bytes) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Send bytes, and read until the server closes: status, headers and JSON of the only answer."""
    with socket.create_connection((LOOPBACK, server.port), timeout=20) as connection:
        connection.sendall(sent)
        seen = b""
        while piece := connection.recv(65_536):
            seen += piece
    head, _, body = seen.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), json.loads(body)


@pytest.mark.parametrize("name", ["SCRIPT_NAME", "PATH_INFO"])
def test_no_header_moves_what_is_served(shared: Server, name: str) -> None:
    told = len(log_lines(shared))
    with shared.client() as client:
        for value in ("/health", "/elsewhere"):
            answer = client.get("/health/live", headers={name: value})

            assert (answer.status_code, answer.json()) == (200, {"status": "alive"})
    assert log_lines(shared)[told:] == []


@pytest.mark.parametrize("sent", [b"", b'{"compensate"', b'{"compensate": false'])
def test_a_body_that_ends_early_does_nothing(serve: Callable[[], Server], sent: bytes) -> None:
    server = serve()
    with server.client() as client:
        client.post("/api/v1/definitions", json={"document": APPROVAL})
        instance = client.post("/api/v1/instances", json={"definitionKey": "approval"}).json()
        path = f"/api/v1/instances/{instance['id']}"
        more = ("Content-Type: application/json", "Content-Length: 21", "Prefer: wait=0")
        with socket.create_connection((LOOPBACK, server.port), timeout=20) as connection:
            connection.sendall(request(server, "POST", f"{path}/cancel", *more) + sent)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(65_536)

        assert answer.startswith(b"HTTP/1.1 400")
        assert b"expected the rest of the body" in answer
        assert client.get("/api/v1/stats").json()["inbox"]["waiting"] == 1, "its start"


UNREADABLE = {
    "a long request line": (b"GET /" + b"a" * 5_000 + b" HTTP/1.1\r\n\r\n", 414, "request.too_large"),
    "a large header field": (
        b"GET /health/live HTTP/1.1\r\nX: " + b"y" * 300_000 + b"\r\n\r\n",
        431,
        "request.too_large",
    ),
    "a large head without an end": (
        b"GET /health/live HTTP/1.1\r\n" + b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 1_100,
        431,
        "request.too_large",
    ),
    "the beginning of TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "request.malformed"),
    "many header fields": (
        b"GET /health/live HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        431,
        "request.too_large",
    ),
    "an unknown version": (b"GET / HTTP/9.9\r\n\r\n", 400, "request.malformed"),
    "a bad method": (b"g@t / HTTP/1.1\r\n\r\n", 400, "request.malformed"),
    "no request": (b"hello\r\n\r\n", 400, "request.malformed"),
    "a bad header": (
        b"GET /health/live HTTP/1.1\r\nAuthorization : Bearer hunter2\r\n\r\n",
        400,
        "request.malformed",
    ),
    "an expectation": (b"GET /health/live HTTP/1.1\r\nExpect: hunter2\r\n\r\n", 417, "request.malformed"),
    "another coding": (
        b"POST /health/live HTTP/1.1\r\nTransfer-Encoding: hunter2\r\n\r\n",
        400,
        "request.malformed",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_no_request_is_refused_with_a_problem(shared: Server, name: str) -> None:
    sent, status, code = UNREADABLE[name]
    told = len(log_lines(shared))

    began = time.monotonic()
    found, headers, problem = exchange(shared, sent)

    assert time.monotonic() - began < HEAD_SECONDS / 2, "nobody waits for what would not help it"
    assert (found, problem["status"], problem["code"]) == (status, status, code)
    assert headers["Content-Type"] == "application/problem+json"
    assert headers["Connection"] == "close"
    assert headers["X-Trace-Id"] == problem["traceId"]
    (line,) = log_lines(shared)[told:]
    assert (line["event"], line["code"], line["trace_id"]) == ("request.refused", code, problem["traceId"])
    assert "hunter2" not in json.dumps([problem, line])


MALFORMED = {
    "a size that is none": b"ZZ\r\n{}\r\n0\r\n\r\n",
    "a size below nothing": b"-5\r\n{}\r\n0\r\n\r\n",
    "no size": b"\r\n{}\r\n0\r\n\r\n",
    "a chunk longer than its size": b"2\r\n{}{}\r\n0\r\n\r\n",
    "a large extension": b"2;" + b"a" * 100_000 + b"\r\n{}\r\n0\r\n\r\n",
    "a large trailer": b"2\r\n{}\r\n0\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_body_of_malformed_chunks_is_refused_and_ends_its_connection(shared: Server, name: str) -> None:
    head = request(
        shared, "POST", "/api/v1/instances", "Content-Type: application/json", "Transfer-Encoding: chunked"
    )
    told = len(log_lines(shared))

    status, headers, problem = exchange(shared, head + MALFORMED[name])

    assert (status, problem["code"]) == (400, "request.malformed")
    assert headers["Content-Type"] == "application/problem+json"
    assert [line["event"] for line in log_lines(shared)[told:]] == ["request.refused"]


def test_who_takes_it_for_https_is_told_at_once(shared: Server) -> None:
    began = time.monotonic()
    with (
        Client(shared.url.replace("http:", "https:"), shared.key) as client,
        pytest.raises(Unavailable) as told,
    ):
        client.stats()

    assert "is it http:// and not https://" in str(told.value)
    assert time.monotonic() - began < HEAD_SECONDS


def test_an_idle_connection_is_asked_again_and_a_closed_one_disturbs_nobody(
    shared: Server,
) -> None:
    with socket.create_connection((LOOPBACK, shared.port), timeout=20) as idle:
        idle.sendall(request(shared, "GET", "/health/live"))
        assert idle.recv(65_536).startswith(b"HTTP/1.1 200")
        for _ in range(50):
            with socket.create_connection((LOOPBACK, shared.port), timeout=20) as leaving:
                leaving.sendall(request(shared, "GET", "/health/live"))
                assert leaving.recv(65_536).startswith(b"HTTP/1.1 200")

        idle.sendall(request(shared, "GET", "/health/live"))
        assert idle.recv(65_536).startswith(b"HTTP/1.1 200")


def test_newcomers_wait_where_no_descriptor_is_left_and_nobody_is_ended_for_them(
    serve: Callable[[], Server],
) -> None:
    server = serve()
    (worker,) = psutil.Process(server.child.pid).children()
    before = worker.rlimit(psutil.RLIMIT_NOFILE)
    with server.client() as client, ExitStack() as connections:
        assert client.get("/health/ready").status_code == 200
        worker.rlimit(psutil.RLIMIT_NOFILE, (worker.num_fds() + 5, before[1]))
        idle = [
            connections.enter_context(socket.create_connection((LOOPBACK, server.port))) for _ in range(20)
        ]
        server.child.wait_for_log("connections.waiting")

        assert client.get("/health/live").status_code == 200, "who was there is served on its connection"

        worker.rlimit(psutil.RLIMIT_NOFILE, before)
        for connection in idle:
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for connection in idle:
            connection.settimeout(20)
            assert connection.recv(12) == b"HTTP/1.1 200"
    assert psutil.Process(server.child.pid).children() == [worker]
    (line, *_) = [line for line in log_lines(server) if line["event"] == "connections.waiting"]
    assert line["error"] == "Too many open files"


@pytest.mark.parametrize(
    ("descriptors", "connections"),
    [(1, 1), (64, 16), (1_024, 824), (1_200, 1_000), (1_048_576, 1_000), (resource.RLIM_INFINITY, 1_000)],
)
def test_connections_leave_descriptors_for_everything_else(descriptors: int, connections: int) -> None:
    assert connections_of(descriptors) == connections


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Enough for a thousand connections at this end, and at that of a server that is started meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 4_096), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("many_descriptors")
def test_who_says_nothing_keeps_nobody_out(serve: Callable[[], Server]) -> None:
    server = serve()
    with ExitStack() as connections, server.client() as client:

        def connect() -> socket.socket:
            return connections.enter_context(socket.create_connection((LOOPBACK, server.port), timeout=20))

        assert client.get("/health/live").status_code == 200  # and goes on to be connected
        silent = [connect() for _ in range(MOST_CONNECTIONS + 50)]

        newcomer = connect()
        began = time.monotonic()
        newcomer.sendall(request(server, "GET", "/health/live"))
        assert newcomer.recv(12) == b"HTTP/1.1 200"
        assert time.monotonic() - began < HEAD_SECONDS, "silence would have been over after 30 s"

        assert silent[0].recv(1) == b"", "who has been silent for longest had to go"
        silent[-1].sendall(request(server, "GET", "/health/live"))
        assert silent[-1].recv(12) == b"HTTP/1.1 200", "who came last had not"
        assert client.get("/health/live").status_code == 200, "nor had who was answered before"
