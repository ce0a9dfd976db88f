"""What a request costs the API's process, and how many workflows a second start over HTTP and run to their end.

    python -m benchmarks.http --postgres            a real PostgreSQL with fsync, and Valkey
    python -m benchmarks.http                       the embedded database
    python -m benchmarks.http --postgres -n 2000 --connections 8 --rounds 3 --json

Requests go through gunicorn from kept-alive connections, over raw sockets, because a client library costs more than our server does. Each phase is run without the
workers, so that the API has the machine for itself, and then with them: `start` starts workflows of three no-op steps,
`event` sends to instances that wait for it, `read` reads one, `history` what has happened to it, `list` the last twenty. Told are requests a second, the caller's p50 and p99, and the CPU
time of the API's process for each request (user and system, of the process that serves), the median of the rounds.
CPU time bears a loaded machine; the rates do not.

With the workers, workflows are also measured to their end. `start, to the end` starts them as fast as the connections do:
its rate is from the first start to the last end, its p50 and p99 are from a workflow's start to its end, by the rows of
the database. `start, waited for` asks with `Prefer: wait`, so that a connection starts the next one when it knows that
the one before has completed, and what it tells is what the caller sees; once with one connection, so one at a time.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import psutil

from api.app import THREADS
from benchmarks.stacks import application_database, await_ended
from common.lifecycle import InstanceStatus
from common.observability import configure_logging
from common.store import keys
from common.store.listing import InstanceRecord
from signalbox.bench import TENANT, Options, bench_stack, steps_chart
from signalbox.machine import describe_machine
from signalbox.measure import Run, latency, live_figures
from signalbox.stack import Stack

CHART = steps_chart(3)
WAITING = {
    "id": "bench-waiting",
    "initial": "waiting",
    "states": {"waiting": {"on": {"PING": {"actions": []}, "END": "ended"}}, "ended": {"type": "final"}},
}
TARGETS = 50
"""Instances among which the events are dealt out."""
TIMEOUT_SECONDS = 30.0
WAIT_SECONDS = 20
Phase = Callable[[int], bytes]
"""The bytes of the nth request."""
Accept = Callable[[int, bytes], bool]
"""Whether a status and a body are what was asked for."""


@dataclass(frozen=True)
class Measured:
    """One phase of one round."""

    per_second: float
    p50: float
    p99: float
    cpu_ms: float


class Connection:
    """One kept-alive connection, which knows as much of HTTP as our answers need."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), TIMEOUT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """The status and the body of the answer."""
        self._socket.sendall(request)
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            self._receive()
        head, body = self._buffer[:end], self._buffer[end + 4 :]
        length = next(
            int(line.partition(b":")[2])
            for line in head.split(b"\r\n")
            if line[:15].lower() == b"content-length:"
        )
        self._buffer = body
        while len(self._buffer) < length:
            self._receive()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return int(head[9:12]), body

    def _receive(self) -> None:
        piece = self._socket.recv(65_536)
        if not piece:
            raise ConnectionError("the API closed the connection in the middle of an answer")
        self._buffer += piece

    def close(self) -> None:
        self._socket.close()


@dataclass(frozen=True)
class Caller:
    """Who asks one API, and whose CPU time is counted."""

    stack: Stack
    connections: int

    def request(self, method: str, path: str, body: Any = None) -> bytes:
        at = urlsplit(self.stack.url)
        head = f"{method} /api/v1{path} HTTP/1.1\r\nHost: {at.netloc}\r\nAuthorization: Bearer {self.stack.key}\r\n"
        if body is None:
            return f"{head}\r\n".encode()
        text = json.dumps(body).encode()
        return f"{head}Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text

    @contextmanager
    def connected(self, count: int) -> Iterator[list[Connection]]:
        at = urlsplit(self.stack.url)
        made = [Connection(str(at.hostname), int(at.port or 80)) for _ in range(count)]
        try:
            yield made
        finally:
            for one in made:
                one.close()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        with self.connected(1) as (connection,):
            status, answer = connection.ask(self.request(method, path, body))
        if status >= 300:
            raise ValueError(f"{method} {path}: {status} {answer.decode()}")
        return json.loads(answer)

    def measure(self, phase: Phase, count: int, accept: Accept | None = None) -> tuple[Measured, list[bytes]]:
        """Send `count` requests, dealt out among the connections, each waiting for its answer before the next.

        The answers come back, too. Raises `ValueError` for one that is refused, or that `accept` does not take.
        """
        took: list[float] = []
        answers: list[bytes] = []
        failures: list[str] = []
        numbers = iter(range(count))
        turn = threading.Lock()

        def work(connection: Connection) -> None:
            mine: list[float] = []
            while True:
                with turn:
                    number = next(numbers, None)
                if number is None:
                    break
                request = phase(number)
                began = time.perf_counter()
                status, answer = connection.ask(request)
                mine.append((time.perf_counter() - began) * 1_000)
                if status >= 300 or (accept is not None and not accept(status, answer)):
                    failures.append(f"{status} {answer.decode()}")
                    break
                answers.append(answer)
            took.extend(mine)

        with self.connected(self.connections) as connections:
            threads = [threading.Thread(target=work, args=(one,)) for one in connections]
            cpu, began = self.cpu_seconds(), time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            seconds, cpu = time.perf_counter() - began, self.cpu_seconds() - cpu
        if failures or len(took) != count:
            raise ValueError(f"{count - len(took)} requests were not answered; {failures[:1]}")
        found = latency(took)
        return Measured(count / seconds, found.p50, found.p99, cpu * 1_000 / count), answers

    def cpu_seconds(self) -> float:
        """What the processes that serve have used; their master only watches."""
        pid = self.stack.supervisor.pid("api")
        if pid is None:
            raise ValueError("the API is not running")
        times = [child.cpu_times() for child in psutil.Process(pid).children()]
        return sum(one.user + one.system for one in times)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http", description=__doc__.splitlines()[0])
    parser.add_argument("-n", "--requests", type=int, default=1_500, help="of each phase and round")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--postgres", action="store_true", help="a real PostgreSQL from the wheel, fsync on")
    parser.add_argument("--embedded", action="store_true", help="SQLite, which is the default")
    parser.add_argument(
        "--without-workers", action="store_true", help="leave out the phases beside the workers"
    )
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    configure_logging("bench", level="WARNING")
    report = measure(
        asked.requests,
        asked.connections,
        asked.rounds,
        is_postgres=asked.postgres,
        has_workers=not asked.without_workers,
    )
    if asked.json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
        return
    sys.stdout.write(
        f"{json.dumps(report['machine'])}, {report['database']}, {asked.connections} connections\n"
    )
    sys.stdout.write(f"{'':>28}{'a second':>10}{'p50 ms':>10}{'p99 ms':>10}{'CPU ms':>10}\n")
    for name, one in report["phases"].items():
        sys.stdout.write(
            f"{name:>28}{one['perSecond']:>10.0f}{one['p50Ms']:>10.2f}{one['p99Ms']:>10.2f}{one['cpuMs']:>10.3f}\n"
        )


def measure(
    requests: int, connections: int, rounds: int, *, is_postgres: bool, has_workers: bool
) -> dict[str, Any]:
    options = Options(
        instances=requests,
        steps=3,
        modes=(),
        where="postgres" if is_postgres else "embedded",
        over_http=True,
    )
    with ExitStack() as ending:
        folder = ending.enter_context(tempfile.TemporaryDirectory(prefix="signalbox-http-"))
        stack = ending.enter_context(bench_stack(options, Path(folder), _tell))
        caller = Caller(stack, connections)
        for document in (CHART, WAITING):
            caller.ask("POST", "/definitions", {"document": document})
        targets = [
            caller.ask("POST", "/instances", {"definitionKey": WAITING["id"]})["id"] for _ in range(TARGETS)
        ]
        phases = _phases(caller, targets)
        stack.stop_workers()
        found = {name: _rounds(caller, phase, requests, rounds) for name, phase in phases.items()}
        if has_workers:
            for ready in stack.start_workers():
                _tell(f"{ready.name}: {ready.detail}")
            for name, phase in phases.items():
                found[f"{name}, workers run"] = _rounds(caller, phase, requests, rounds)
            found |= _to_the_end(caller, phases["start"], requests, rounds, ending)
        return {
            "machine": describe_machine(),
            "database": "PostgreSQL, fsync on" if is_postgres else "SQLite",
            "requests": requests,
            "connections": connections,
            "rounds": rounds,
            "phases": {name: _median(ones) for name, ones in found.items()},
        }


def _phases(caller: Caller, targets: Sequence[str]) -> dict[str, Phase]:
    start = caller.request("POST", "/instances", {"definitionKey": CHART["id"], "input": {"number": 1}})
    event = {"type": "PING", "by": "bench"}
    events = [caller.request("POST", f"/instances/{one}/events", event) for one in targets]
    reads = [caller.request("GET", f"/instances/{one}") for one in targets]
    histories = [caller.request("GET", f"/instances/{one}/history?limit=20") for one in targets]
    listing = caller.request("GET", "/instances?limit=20")

    def keyed(number: int) -> bytes:
        return start.replace(b"\r\n\r\n", b"\r\nIdempotency-Key: %d-%d\r\n\r\n" % (time.time_ns(), number), 1)

    return {
        "start": lambda _number: start,
        "start with a key": keyed,
        "event": lambda number: events[number % len(events)],
        "read": lambda number: reads[number % len(reads)],
        "history": lambda number: histories[number % len(histories)],
        "list": lambda _number: listing,
    }


def _rounds(caller: Caller, phase: Phase, requests: int, rounds: int) -> list[Measured]:
    caller.measure(phase, 4 * caller.connections)  # statements are prepared, a connection has been opened
    return [caller.measure(phase, requests)[0] for _ in range(rounds)]


def _to_the_end(
    caller: Caller, start: Phase, requests: int, rounds: int, ending: ExitStack
) -> dict[str, list[Measured]]:
    """Workflows from their start over HTTP until they have completed."""
    database = application_database(caller.stack, ending)
    with database.reading() as tx:
        tenant_id = keys.find_tenant(tx, TENANT)
    if tenant_id is None:
        raise ValueError(f'no tenant "{TENANT}"')

    def live() -> Measured:
        measured, answers = caller.measure(start, requests)
        ids = [json.loads(answer)["id"] for answer in answers]
        runs = [_run(one) for one in await_ended(caller.stack, database, tenant_id, ids)]
        figures = live_figures(runs)
        return replace(
            measured,
            per_second=figures.workflows_per_second,
            p50=figures.latency.p50,
            p99=figures.latency.p99,
        )

    def waiting(number: int) -> bytes:
        return start(number).replace(b"\r\n\r\n", b"\r\nPrefer: wait=%d\r\n\r\n" % WAIT_SECONDS, 1)

    live()  # what the phases before have started has ended, too
    found = {"start, to the end": [live() for _ in range(rounds)]}
    # One process lets half of its threads wait.
    for connections, count in (
        (min(caller.connections, THREADS // 2), requests),
        (1, max(requests // 10, 1)),
    ):
        waiters = replace(caller, connections=connections)
        found[f"start, waited for by {connections}"] = [
            waiters.measure(waiting, count, _has_completed)[0] for _ in range(rounds)
        ]
    return found


def _has_completed(_status: int, answer: bytes) -> bool:
    return bool(json.loads(answer)["status"] == InstanceStatus.COMPLETED)


def _run(record: InstanceRecord) -> Run:
    if record.status != InstanceStatus.COMPLETED or record.started_at is None or record.finished_at is None:
        raise ValueError(f'instance {record.id} is "{record.status}", expected "completed": {record.error}')
    return Run(record.created_at, record.started_at, record.finished_at, record.sequence)


def _median(ones: Sequence[Measured]) -> dict[str, float]:
    return {
        "perSecond": round(median(one.per_second for one in ones), 1),
        "p50Ms": round(median(one.p50 for one in ones), 2),
        "p99Ms": round(median(one.p99 for one in ones), 2),
        "cpuMs": round(median(one.cpu_ms for one in ones), 3),
    }


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    main()
