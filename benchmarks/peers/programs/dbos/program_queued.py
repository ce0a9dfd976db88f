"""DBOS by its queue: a client enqueues, worker processes run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import psycopg
from dbos import DBOSClient
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

PATIENCE_SECONDS = 60
COUNT = "SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS' AND name = 'three_steps'"
REGISTERED = "SELECT count(*) FROM dbos.queues WHERE name = 'peers'"


def main() -> None:
    worker = [sys.executable, str(Path(__file__).with_name("worker.py"))]
    workers = Workers([worker] * SETTINGS["processes"])
    Workers.start(first := Workers([worker]))  # creates the schema alone
    connection = psycopg.connect(DATABASE_URL, autocommit=True)

    def ask(query: str) -> int:
        try:
            row = connection.execute(query).fetchone()
        except psycopg.errors.UndefinedTable:
            return 0
        return row[0] if row else 0

    try:
        await_count(lambda: ask(REGISTERED), 1, pause=0.2, seconds=PATIENCE_SECONDS)
        first.stop()
        workers.start()
        client = DBOSClient(system_database_url=DATABASE_URL, system_database_pool_size=8)

        def start() -> Any:
            return client.enqueue({"queue_name": "peers", "workflow_name": "three_steps"})

        def run() -> None:
            start().get_result(polling_interval_sec=0.005)

        def live(n: int) -> dict[str, Any]:
            before = ask(COUNT)
            return timed(lambda: (start_many(start, n), await_count(lambda: ask(COUNT) - before, n)))

        def backlog(n: int) -> dict[str, Any]:
            workers.stop()
            before = ask(COUNT)
            start_many(start, n)
            return backlog_seconds(workers.start, lambda: ask(COUNT) - before, n)

        def fan_out(n: int) -> dict[str, Any]:
            options = {"queue_name": "peers", "workflow_name": "fan_out"}
            return timed(lambda: client.enqueue(options, n).get_result(polling_interval_sec=0.005))

        for _ in range(WARM_UP):
            run()
        serve(
            {
                "live": live,
                "backlog": backlog,
                "latencies": lambda n: one_at_a_time(run, n),
                "fan_out": fan_out,
            }
        )
    finally:
        first.stop()
        workers.stop()


if __name__ == "__main__":
    main()
