"""Prefect with background tasks: callers hand them to the server, task workers are told of them and run them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from driver import (
    SETTINGS,
    WARM_UP,
    Workers,
    await_count,
    backlog_seconds,
    one_at_a_time,
    serve,
    start_many,
    timed,
)
from server import running_server
from workflow_tasks import fan_out, three_steps

COUNT = "SELECT count(*) FROM task_run WHERE state_type = 'COMPLETED' AND task_key LIKE 'three_steps-%'"
PATIENCE_SECONDS = 300


def main() -> None:
    worker = [sys.executable, str(Path(__file__).with_name("worker.py")), "tasks"]
    workers = Workers([worker] * SETTINGS["processes"])
    with running_server() as connection:

        def count() -> int:
            row = connection.execute(COUNT).fetchone()
            return row[0] if row else 0

        def run(task: Any = three_steps, parameters: tuple[Any, ...] = ()) -> None:
            future = task.delay(*parameters)
            future.wait(timeout=PATIENCE_SECONDS)
            if not future.state.is_completed():
                raise RuntimeError(f"{task.name} is {future.state}")

        def live(n: int) -> dict[str, Any]:
            before = count()
            return timed(lambda: (start_many(three_steps.delay, n), await_count(lambda: count() - before, n)))

        def backlog(n: int) -> dict[str, Any]:
            workers.stop()
            before = count()
            start_many(three_steps.delay, n)
            return backlog_seconds(workers.start, lambda: count() - before, n)

        workers.start()
        try:
            for _ in range(WARM_UP):
                run()
            serve(
                {
                    "live": live,
                    "backlog": backlog,
                    "latencies": lambda n: one_at_a_time(run, n),
                    "fan_out": lambda n: timed(lambda: run(fan_out, (n,))),
                }
            )
        finally:
            workers.stop()


if __name__ == "__main__":
    main()
