"""Signalbox for the comparison: what `signalbox bench --postgres` brings up, in its default configuration."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from driver import SETTINGS, backlog_seconds, one_at_a_time, serve, start_many, timed
from sqlalchemy import func, select

from common.commands.definitions import apply_definition
from common.commands.start import Start, start_instance
from common.config import Settings, limits_of_process
from common.db import Database
from common.db.tables import instances
from common.observability import configure_logging
from common.queues import doorbell
from common.queues.changes import LOOK_SECONDS, Changes
from common.store import keys, listing
from signalbox.bench import TENANT, Bench, Options, bench_stack
from signalbox.cli.follow import ENDED

HERE = Path(__file__).parent
PATIENCE_SECONDS = 60.0
COMPLETED = select(func.count()).select_from(instances).where(instances.c.status == "completed")


def main() -> None:
    configure_logging("bench", level="WARNING")
    os.environ["SIGNALBOX_HANDLERS"] = SETTINGS["handlers"]
    charts = {name: json.loads((HERE / f"{name}.json").read_text()) for name in ("three_steps", "fan_out")}
    options = Options(instances=1, steps=3, modes=(), where="postgres", document=charts["three_steps"])
    with ExitStack() as ending:
        folder = ending.enter_context(tempfile.TemporaryDirectory(prefix="signalbox-peers-"))
        stack = ending.enter_context(bench_stack(options, Path(folder), _tell))
        database = Database.open(stack.database_url, name="signalbox-peers")
        ending.callback(database.dispose)
        settings = Settings.load(database_url=stack.database_url, redis_url=stack.redis_url)
        bells = doorbell.attach(database, settings)
        if bells is not None:
            ending.callback(bells.close)
        changes = Changes.open(settings.redis_url)
        ending.callback(changes.close)
        with database.transaction() as tx:
            tenant_id = keys.ensure_tenant(tx, TENANT)
            for chart in charts.values():
                apply_definition(tx, tenant_id, chart, actor="bench", limits=limits_of_process())

        def start(key: str = "three-steps", input: Any = None) -> str:
            request = Start(definition_key=key, input=input)
            return database.run(
                lambda tx: start_instance(tx, tenant_id, request, actor="bench", limits=limits_of_process())
            ).instance_id

        def run(key: str = "three-steps", input: Any = None) -> None:
            """Start one and wait until it has ended, as a caller would."""
            instance_id = start(key, input)
            deadline = time.monotonic() + PATIENCE_SECONDS
            with changes.subscribe(instance_id) as changed:
                while True:
                    changed.clear()
                    with database.looking() as tx:
                        record = listing.read_instance(tx, tenant_id, instance_id)
                    if record is not None and record.status in ENDED:
                        if record.status != "completed":
                            raise RuntimeError(f"{key} is {record.status}: {record.error}")
                        return
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"{key} did not end within {PATIENCE_SECONDS:g} s")
                    changed.wait(LOOK_SECONDS)

        def fan_out(n: int) -> dict[str, Any]:
            return timed(lambda: run("fan-out", {"items": list(range(n))}))

        fan_out(20)
        bench = Bench(stack, database, tenant_id, changes, start, options, _tell)

        def live(n: int) -> dict[str, Any]:
            bench.options = Options(instances=n, steps=3, modes=(), where="postgres")
            return {"seconds": bench.measure("live").figures.seconds}

        def completed() -> int:
            with database.looking() as tx:
                return int(tx.execute(COMPLETED).scalar_one())

        def backlog(n: int) -> dict[str, Any]:
            stack.stop_workers()
            before = completed()
            start_many(start, n)
            return backlog_seconds(lambda: list(stack.start_workers()), lambda: completed() - before, n)

        serve(
            {
                "live": live,
                "backlog": backlog,
                "latencies": lambda n: one_at_a_time(run, n),
                "fan_out": fan_out,
            }
        )


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    main()
