"""A circuit breaker among real processes: one tries for all, also when the process that tries is killed, and then all go on."""

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.cluster import Cluster
from tests.support.http_server import Server, ok, serving
from tests.support.processes import Processes
from tests.support.waiting import wait_until

ORDERS = 40
COOL_DOWN = 1.0


CALLING = {
    "id": "calling",
    "initial": "calling",
    "states": {
        "calling": {
            "invoke": {
                "src": "HTTP",
                "input": {"method": "POST", "url": "${input.url}"},
                "retry": {"maxAttempts": 3, "interval": "100ms"},
                "onDone": "called",
            }
        },
        "called": {"type": "final"},
    },
}


class Service:
    """Refuses every call, or keeps them waiting for its answer and counts them, or answers."""

    def __init__(self) -> None:
        self.does = "refuse"
        self.kept = 0
        self.may_answer = threading.Event()
        self._turn = threading.Lock()

    def __call__(self, connection: socket.socket, _request: bytes) -> None:
        match self.does:
            case "refuse":
                connection.sendall(ok(status="503 Service Unavailable"))
            case "keep":
                with self._turn:
                    self.kept += 1
                assert self.may_answer.wait(60)
                connection.sendall(ok(b"{}"))
            case _:
                connection.sendall(ok(b"{}"))


@pytest.fixture(params=["sqlite", "postgresql"])
def cluster(request: pytest.FixtureRequest, processes: Processes) -> Iterator[Cluster]:
    url = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    settings = {
        "SIGNALBOX_LEASE_SECONDS": "2",
        "SIGNALBOX_BEAT_SECONDS": "0.5",
        "SIGNALBOX_LOOK_SECONDS": "0.25",
        "SIGNALBOX_HTTP_ALLOW": "127.0.0.0/8",
        "SIGNALBOX_BREAKER_COOL_DOWN_SECONDS": str(COOL_DOWN),
        "SIGNALBOX_SLOTS": "8",
    }
    with Cluster(processes, url, settings=settings, forks=True) as cluster:
        yield cluster


def test_one_process_tries_for_all_is_killed_and_all_go_on_when_the_target_answers(cluster: Cluster) -> None:
    service = Service()
    with serving(service) as server:
        _, *runners = cluster.workers(orchestrators=1, task_runners=2)
        orders(cluster, server)
        wait_until(lambda: state(cluster) != "closed", what="the breaker to open", seconds=30)
        # Calls that began before it opened are no tries: they must have ended before calls are kept and counted.
        wait_until(lambda: waiting(cluster) == ORDERS, what="all to wait for the breaker", seconds=30)

        service.does = "keep"
        wait_until(lambda: len(probe(cluster)) == 1 and service.kept == 1, what="one to try", seconds=30)
        ((token, pid),) = probe(cluster)
        (victim,) = [runner for runner in runners if runner.pid == pid]
        victim.kill()
        wait_until(lambda: service.kept == 2, what="another process to try", seconds=30)
        ((another, by),) = probe(cluster)
        assert another != token
        assert by != pid
        assert waiting(cluster) == ORDERS - 1, "all but the one that tries"
        assert service.kept == 2, "nobody else does"

        service.does = "answer"
        service.may_answer.set()
        cluster.wait_for_all("completed", ORDERS, seconds=60)
    assert state(cluster) == "closed"
    assert cluster.attempts("lost") == 1
    assert cluster.count("SELECT max(attempt) FROM tasks") <= 3


def orders(cluster: Cluster, server: Server) -> None:
    cluster.engine.apply(CALLING)
    for number in range(ORDERS):
        cluster.engine.start("calling", input={"url": server.url(f"/{number}")})


def state(cluster: Cluster) -> str:
    rows = cluster.query("SELECT state FROM breakers")
    return str(rows[0][0]) if rows else "closed"


def probe(cluster: Cluster) -> list[tuple[str, int]]:
    """The token of the attempt that tries, and its process."""
    found = cluster.query(
        "SELECT t.lease_token, w.pid FROM breakers b JOIN tasks t ON t.id = b.probe_task_id AND t.lease_token = b.probe_token "
        "JOIN workers w ON w.id = t.lease_owner"
    )
    return [(str(token), int(pid)) for token, pid in found]


def waiting(cluster: Cluster) -> int:
    """Tasks that wait for the breaker, or for their next attempt."""
    return cluster.count("SELECT count(*) FROM tasks WHERE status = 'pending'")
