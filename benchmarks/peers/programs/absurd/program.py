"""Absurd's Python SDK: callers spawn tasks, worker processes poll for them. The schema comes with `absurdctl`."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
from absurd_sdk import Absurd
from absurdctl import BUNDLED_SCHEMA_SQL
from driver import (
    DATABASE_URL,
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
from workflow import register

COUNT = "SELECT count(*) FROM absurd.t_default WHERE state = 'completed' AND task_name = 'three-steps'"
LOOK_SECONDS = 0.003
PATIENCE_SECONDS = 300


def main() -> None:
    connection = psycopg.connect(DATABASE_URL, autocommit=True)
    connection.execute(BUNDLED_SCHEMA_SQL)
    for queue in ("default", "items"):
        Absurd(connection, queue_name=queue).create_queue()
    script = str(Path(__file__).with_name("worker.py"))
    concurrency = str(SETTINGS["concurrency"])
    commands = [[sys.executable, script, "default", concurrency]] * SETTINGS["processes"]
    workers = Workers([*commands, [sys.executable, script, "items", concurrency]])
    mine = threading.local()

    def app() -> Absurd:
        if not hasattr(mine, "app"):
            mine.app = Absurd(DATABASE_URL)
            register(mine.app, Absurd(mine.app._conn, queue_name="items"))
        return mine.app

    def start(name: str = "three-steps", params: Any = None) -> str:
        return app().spawn(name, params)["task_id"]

    def run(name: str = "three-steps", params: Any = None) -> None:
        """The SDK's own wait begins with 50 ms and doubles: we look sooner, which favours Absurd."""
        task_id = start(name, params)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (found := app().fetch_task_result(task_id)) is None or found.state != "completed":
            if found is not None and found.state in ("failed", "cancelled"):
                raise RuntimeError(f"{name} is {found.state}: {found}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} did not end within {PATIENCE_SECONDS} s")
            time.sleep(LOOK_SECONDS)

    def count() -> int:
        row = connection.execute(COUNT).fetchone()
        return row[0] if row else 0

    def live(n: int) -> dict[str, Any]:
        before = count()
        return timed(lambda: (start_many(start, n), await_count(lambda: count() - before, n)))

    def backlog(n: int) -> dict[str, Any]:
        workers.stop()
        before = count()
        start_many(start, n)
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
                "fan_out": lambda n: timed(lambda: run("fan-out", n)),
            }
        )
    finally:
        workers.stop()


if __name__ == "__main__":
    main()
