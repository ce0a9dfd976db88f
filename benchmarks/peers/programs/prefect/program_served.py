"""Prefect with deployments: callers ask the server for a run, a runner or a worker polls and starts a process for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from driver import (
    SETTINGS,
    Workers,
    await_count,
    backlog_seconds,
    one_at_a_time,
    serve,
    start_many,
    timed,
)
from environment import API  # noqa: F401 - before Prefect
from prefect.deployments import run_deployment
from server import PREFECT, running_server

COUNT = "SELECT count(*) FROM flow_run JOIN flow ON flow.id = flow_id WHERE state_type = 'COMPLETED' AND flow.name = 'three-steps'"
DEPLOYED = "SELECT count(*) FROM deployment"
LOOK_SECONDS = 0.05
PATIENCE_SECONDS = 300
FEW = 2
POOL = "peers"


def main() -> None:
    with running_server() as connection:

        def ask(query: str) -> int:
            row = connection.execute(query).fetchone()
            return row[0] if row else 0

        def start() -> Any:
            return run_deployment("three-steps/peers", timeout=0)

        def run(name: str = "three-steps", parameters: Any = None) -> None:
            ended = run_deployment(
                f"{name}/peers", parameters=parameters, timeout=PATIENCE_SECONDS, poll_interval=LOOK_SECONDS
            )
            if ended.state is None or not ended.state.is_completed():
                raise RuntimeError(f"{name} is {ended.state}")

        def live(n: int) -> dict[str, Any]:
            before = ask(COUNT)
            return timed(lambda: (start_many(start, n), await_count(lambda: ask(COUNT) - before, n)))

        def backlog(n: int) -> dict[str, Any]:
            workers.stop()
            before = ask(COUNT)
            start_many(start, n)
            return backlog_seconds(workers.start, lambda: ask(COUNT) - before, n)

        workers = _workers()
        workers.start()
        try:
            await_count(lambda: ask(DEPLOYED), 2, pause=0.1, seconds=PATIENCE_SECONDS)
            for _ in range(FEW):
                run()
            serve(
                {
                    "live": live,
                    "backlog": backlog,
                    "latencies": lambda n: one_at_a_time(run, n),
                    "fan_out": lambda n: timed(lambda: run("fan-out", {"n": n})),
                }
            )
        finally:
            workers.stop()


def _workers() -> Workers:
    """What polls for runs: a runner with the flows in its script, or a worker of a work pool of processes."""
    script = str(Path(__file__).with_name("worker.py"))
    if SETTINGS["by"] == "serve":
        return Workers([[sys.executable, script, "served"]])
    limit = ["--limit", str(SETTINGS["limit"])]
    for command in (
        [PREFECT, "work-pool", "create", POOL, "--type", "process"],
        [sys.executable, script, "deploy", POOL],
    ):
        subprocess.run(command, check=True, stdout=2)
    return Workers([[PREFECT, "worker", "start", "--pool", POOL, "--type", "process", *limit]])


if __name__ == "__main__":
    main()
