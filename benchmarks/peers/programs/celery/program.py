"""Celery for the comparison: one worker with processes or threads, results in Valkey."""

from __future__ import annotations

import os
import sys
from typing import Any

from driver import SETTINGS, WARM_UP, Workers, backlog_seconds, one_at_a_time, serve, start_many, timed
from workflow import app, fan_out, three_steps

PATIENCE_SECONDS = 300


def main() -> None:
    pool = [f"--pool={SETTINGS['pool']}", f"--concurrency={SETTINGS['concurrency']}"]
    alone = [
        "--without-mingle",
        "--without-gossip",
        "--without-heartbeat",
        f"--prefetch-multiplier={SETTINGS['prefetch']}",
    ]
    # In a folder of its own, so that nothing of ours is imported by accident.
    workers = Workers(
        [[sys.executable, "-m", "celery", "-A", "workflow", "worker", "-l", "WARNING", *pool, *alone]]
    )
    os.environ["C_FORCE_ROOT"] = "1"
    workers.start()
    try:
        for _ in range(WARM_UP):
            three_steps().get(timeout=60)
        serve(
            {
                "live": lambda n: timed(lambda: _await(start_many(three_steps, n))),
                "backlog": lambda n: _backlog(workers, n),
                "latencies": lambda n: one_at_a_time(
                    lambda: three_steps().get(timeout=60, interval=0.002), n
                ),
                "fan_out": lambda n: timed(lambda: fan_out(n).get(timeout=PATIENCE_SECONDS, interval=0.002)),
            }
        )
    finally:
        workers.stop()


def _await(results: list[Any]) -> None:
    for result in results:
        result.get(timeout=PATIENCE_SECONDS)


def _backlog(workers: Workers, n: int) -> dict[str, Any]:
    workers.stop()
    results = start_many(three_steps, n)
    keys = [app.backend.get_key_for_task(result.id) for result in results]

    def count() -> int:
        return sum(value is not None for value in app.backend.client.mget(keys))

    return backlog_seconds(workers.start, count, n)


if __name__ == "__main__":
    main()
