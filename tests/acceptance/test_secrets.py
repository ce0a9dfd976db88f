"""A secret is nowhere: not in the database's files, the broker, the logs, the history or any answer, whoever let it out.

Real processes throughout. Each search is also made for a text that is there, so that one which looks in the wrong place fails.
"""

import json
import subprocess
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import quote

import pytest
import redis
from sqlalchemy import inspect

from common.credentials import make_secret, read_secret
from common.db.tables import Role
from common.store import keys
from signalbox.client import Client
from signalbox.ports import free_port
from tests.support.cluster import Cluster
from tests.support.http_server import ok, serving
from tests.support.postgres import PostgresServer
from tests.support.processes import BIN, Processes
from tests.support.waiting import wait_until

VALUE = 'sk_live/"4711"+q\\0815~end'
"""With what JSON escapes and URLs quote; in visible ASCII, because it is sent in a header."""
IN_PATH = "path-of-a-secret-0815"
PLACED = "a-text-that-is-stored"
NEEDLES = {
    form.encode()
    for form in (
        VALUE, json.dumps(VALUE)[1:-1], json.dumps(json.dumps(VALUE))[1:-1], quote(VALUE, safe=""), quote(VALUE),
        b64encode(VALUE.encode()).decode(), b64encode(f"user:{VALUE}".encode()).decode(), repr(VALUE)[1:-1],
        "sk_live", IN_PATH, b64encode(b"user:sk_live").decode(),
    )
}  # fmt: skip


def leak(kind: str, then: str, **more: Any) -> dict[str, Any]:
    """A state in which a task lets the secret out, and whose answer, whatever it is, goes into the context."""
    keep = {
        "target": then,
        "actions": [{"type": "assign", "path": kind.replace(".", "_"), "value": "${event}"}],
    }
    invoke = {"src": kind, "id": kind.replace(".", "-"), "input": {"key": "${secret.CARRIER_KEY}"}, **more}
    return {"invoke": {**invoke, "onDone": keep, "onError": keep}}


SENT = {
    "method": "POST",
    "url": "${input.url}/${secret.CARRIER_PATH}",
    "query": {"key": "${secret.CARRIER_KEY}"},
    "auth": {"basic": {"username": "user", "password": "${secret.CARRIER_KEY}"}},
    "headers": {"X-Trace": "trace ${secret.CARRIER_KEY}"},
    "json": {"deep": ["${secret.CARRIER_KEY}", "Bearer ${secret.CARRIER_KEY}"]},
}
DOCUMENT: dict[str, Any] = {
    "id": "leaky",
    "initial": "echo",
    "context": {},
    "states": {
        "echo": leak("HTTP", "refused", input=SENT),
        "refused": {**leak("HTTP", "raise", input={**SENT, "expect": ["299"]}, id="again")},
        "raise": leak("leak.raise", "permanent"),
        "permanent": leak("leak.permanent", "going_on"),
        "going_on": leak("leak.continue", "light"),
        "light": leak("leak.light", "isolated"),
        "isolated": leak("leak.isolated", "poll"),
        "poll": leak(
            "POLL",
            "map",
            input={
                "task": {"type": "leak.light", "input": {"key": "${secret.CARRIER_KEY}"}},
                "until": "output.plain != 'x'",
                "interval": "1s",
            },
        ),
        "map": leak(
            "MAP",
            "done",
            input={
                "items": ["a", "b"],
                "task": {"type": "leak.light", "input": {"key": "${secret.CARRIER_KEY}", "item": "${item}"}},
            },
        ),
        "done": {"type": "final"},
    },
}


@dataclass
class Broker:
    """Whatever anybody says to a broker, and what it holds."""

    url: str
    heard: list[bytes] = field(default_factory=list)
    _ended: Event = field(default_factory=Event)

    @contextmanager
    def listening(self) -> Iterator["Broker"]:
        # However long nobody says anything: workers take their time to start on a busy machine.
        with redis.Redis.from_url(self.url, socket_timeout=None) as client, client.monitor() as monitor:
            thread = Thread(target=self._listen, args=(monitor,), daemon=True)
            thread.start()
            try:
                yield self
            finally:
                self._ended.set()
                with redis.Redis.from_url(self.url) as last:
                    last.ping()  # so that it hears something, and ends
                thread.join(10)

    def _listen(self, monitor: Any) -> None:
        while not self._ended.is_set():
            self.heard.append(str(monitor.next_command()).encode())

    def everything(self) -> bytes:
        """All that was said, and a dump of every key."""
        with redis.Redis.from_url(self.url) as client:
            dumped = [key + (client.dump(key) or b"") for key in client.scan_iter()]
        return b"\n".join([*self.heard, *dumped])


def echo(connection: Any, request: bytes) -> None:
    """Give the whole request back, as JSON and as it came: head, credentials and body."""
    head, _, body = request.partition(b"\r\n\r\n")
    told = {
        "head": head.decode("latin-1"),
        "lines": head.decode("latin-1").splitlines(),
        "body": json.loads(body),
    }
    connection.sendall(ok(json.dumps(told).encode(), "Content-Type: application/json"))


@pytest.fixture(params=["sqlite", "postgresql"])
def files(request: pytest.FixtureRequest) -> tuple[str, Callable[[], list[Path]] | None]:
    """A database, and all the files in which it may keep anything; None for those of a server that is not ours."""
    if request.param == "sqlite":
        url: str = request.getfixturevalue("sqlite_url")
        path = Path(url.removeprefix("sqlite:///"))
        return url, lambda: sorted(path.parent.glob(f"{path.name}*"))
    server: PostgresServer = request.getfixturevalue("postgres")
    url = request.getfixturevalue("postgres_url")
    if server.own is None:
        return url, None
    data = server.own.data
    return url, lambda: [one for one in (*data.glob("base/*/*"), *data.glob("pg_wal/*")) if one.is_file()]


def found_in(raw: bytes) -> list[bytes]:
    return [needle for needle in NEEDLES if needle in raw]


def every_row(cluster: Cluster) -> bytes:
    """Every value of every row of every table, as text."""
    with cluster.database.reading() as tx:
        tables = inspect(tx).get_table_names()
        rows = [row for table in tables for row in tx.exec_driver_sql(f"SELECT * FROM {table}")]
    return "\n".join(str(value) for row in rows for value in row if not isinstance(value, bytes)).encode()


def answers(client: Client, instance_id: str) -> bytes:
    """What the API tells of an instance and of everything around it."""
    told = [
        client.instance(instance_id), list(client.history(instance_id)), client.explain(instance_id),
        client.verify(instance_id), list(client.instances()), list(client.incidents()), list(client.secrets()),
        client.definition("leaky"), client.stats(),
        *(client.task(task["id"]) for task in client.tasks(instance_id=instance_id)),
    ]  # fmt: skip
    return json.dumps(told, ensure_ascii=False).encode()


def test_a_secret_is_nowhere(
    files: tuple[str, Callable[[], list[Path]] | None], processes: Processes, valkey_url: str
) -> None:
    database_url, database_files = files
    secret, port = make_secret(), free_port()
    settings = {
        "SIGNALBOX_SECRET": secret,
        "SIGNALBOX_HANDLERS": "tests.support.secret_handlers",
        "SIGNALBOX_HTTP_ALLOW": "127.0.0.0/8",
        "SIGNALBOX_LOG_LEVEL": "DEBUG",
    }
    with (
        Broker(valkey_url).listening() as broker,
        Cluster(processes, database_url, valkey_url, settings, forks=True) as cluster,
        serving(echo) as server,
    ):
        cluster.workers()
        api = processes.api(port)
        with cluster.database.transaction() as tx:
            issued = keys.issue_key(
                tx, cluster.engine.tenant_id, name="admin", role=Role.ADMIN, secret=read_secret(secret)
            )
        url = f"http://127.0.0.1:{port}"
        with Client(url, issued.key) as client:
            api.wait_until_ready(client.is_ready, what="answer")
            set_by_command(processes, url, issued.key, "CARRIER_KEY", VALUE)
            set_by_command(processes, url, issued.key, "CARRIER_PATH", IN_PATH)
            client.apply(DOCUMENT)
            instance_id = client.start("leaky", input={"url": server.url("").rstrip("/"), "note": PLACED})[
                "id"
            ]
            wait_until(
                lambda: client.instance(instance_id)["status"] in ("completed", "failed"),
                what="the instance to end",
                seconds=120,
            )
            instance = client.instance(instance_id)
            told = answers(client, instance_id)

        assert instance["status"] == "completed", instance["error"]
        assert_it_was_used(instance["context"], server.requests)
        if not cluster.database.is_sqlite:
            with cluster.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as tx:
                tx.exec_driver_sql("CHECKPOINT")
        places = {
            "the API's answers": told,
            "the rows": every_row(cluster),
            "the broker": broker.everything(),
            "the logs": b"".join(path.read_bytes() for path in processes.folder.rglob("*.log")),
        }
        if database_files is not None:
            places["the database's files"] = b"".join(path.read_bytes() for path in database_files())
    for place, raw in places.items():
        there = instance_id if place in ("the broker", "the logs") else PLACED
        assert there.encode() in raw, f"{place}: the search does not see what is there"
        assert found_in(raw) == [], place
    assert b"[secret CARRIER_KEY]" in places["the logs"], "handlers did log it"
    cluster_log = places["the logs"].decode(errors="replace")
    assert "isolated and about to use [secret CARRIER_KEY]" in cluster_log


def set_by_command(processes: Processes, url: str, key: str, name: str, value: str) -> None:
    """`signalbox secrets set`, with the value on stdin."""
    done = subprocess.run(
        [str(BIN / "signalbox"), "secrets", "set", name, "--json"],
        input=value,
        text=True,
        capture_output=True,
        env={"PATH": str(BIN), "SIGNALBOX_URL": url, "SIGNALBOX_KEY": key, "HOME": str(processes.folder)},
        cwd=processes.folder,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"] == 1
    assert value not in done.stdout + done.stderr


def assert_it_was_used(context: dict[str, Any], requests: list[bytes]) -> None:
    """The counterpart: the server was sent the value, and each answer shows where it stood."""
    assert b"trace " + VALUE.encode() in requests[0]
    assert b64encode(f"user:{VALUE}".encode()) in requests[0]
    shown = "[secret CARRIER_KEY]"
    assert shown in json.dumps(context["HTTP"])
    for kind in (
        "leak_raise",
        "leak_permanent",
        "leak_continue",
        "leak_light",
        "leak_isolated",
        "POLL",
        "MAP",
    ):
        assert shown in json.dumps(context[kind]), kind
    assert context["leak_permanent"]["error"]["code"] == f"leak.{shown}"
    assert context["leak_continue"]["output"]["state"]["plain"] == shown
