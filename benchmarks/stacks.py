"""What benchmarks on a running Signalbox have in common: how they begin, start and wait on a stack, count its CPU time and report."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psutil

from common.commands.start import Start, start_instance
from common.config import Settings, limits_of_process
from common.db import Database
from common.ids import InstanceId, TenantId
from common.lifecycle import FINAL
from common.observability import configure_logging
from common.queues import doorbell
from common.store import listing
from common.store.listing import InstanceRecord
from signalbox.measure import percentile
from signalbox.signals import end_in_order_on_sigterm
from signalbox.stack import Stack

Given = TypeVar("Given")
Done = TypeVar("Done")

STARTERS = 4
READ_AT_ONCE = 500
POSTGRES = "postgres"
CALLER = "caller"
"""This process, which starts and sends as an application does."""


def begin() -> None:
    """Log only what is wrong, and leave nothing behind on SIGTERM."""
    configure_logging("bench", level="WARNING")
    end_in_order_on_sigterm()


def tell(line: str) -> None:
    """Progress goes to stderr: stdout is the report's."""
    sys.stderr.write(f"{line}\n")


def write_report(report: Mapping[str, Any], *, as_json: bool) -> None:
    """As JSON, or as a line for each figure; what holds rows (a list of mappings) as a table."""
    if as_json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
        return
    for name, value in report.items():
        if isinstance(value, list):
            _write_table(value)
        else:
            shown = json.dumps(value) if isinstance(value, dict) else value
            sys.stdout.write(f"{name:>34}  {shown}\n")


def _write_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Figures down and rows across, because there are more figures."""
    sys.stdout.write("\n")
    for name in rows[0]:
        shown = [row.get(name) for row in rows]
        cells = (f"{one:,}" if isinstance(one, int | float) else str(one or "") for one in shown)
        sys.stdout.write(f"{name:>40}" + "".join(f"{cell:>17}" for cell in cells) + "\n")


def application_database(stack: Stack, ending: ExitStack) -> Database:
    """The database as an application has it open, with bells."""
    overrides = {"database_url": stack.database_url, "redis_url": stack.redis_url or "memory://localhost"}
    settings = Settings.load(**overrides, doorbells=stack.redis_url is not None)
    database = Database.open(settings.database_url, name="signalbox-bench")
    ending.callback(database.dispose)
    bells = doorbell.attach(database, settings)
    if bells is not None:
        ending.callback(bells.close)
    return database


def start(database: Database, tenant_id: TenantId, key: str, input: Any = None) -> InstanceId:
    """Start one instance, in process."""
    request = Start(definition_key=key, input=input)
    return database.run(
        lambda tx: start_instance(tx, tenant_id, request, actor="bench", limits=limits_of_process())
    ).instance_id


def from_threads(work: Callable[[Given], Done], given: Iterable[Given]) -> list[Done]:
    """Do `work` for each of those from a few threads, each taking the next; what it returned, in no order."""
    left, turn = iter(given), threading.Lock()

    def take() -> list[Done]:
        done: list[Done] = []
        while True:
            with turn:
                try:
                    one = next(left)
                except StopIteration:
                    return done
            done.append(work(one))

    with ThreadPoolExecutor(STARTERS) as pool:
        parts = [future.result() for future in [pool.submit(take) for _ in range(STARTERS)]]
    return [one for part in parts for one in part]


def await_ended(
    stack: Stack, database: Database, tenant_id: TenantId, ids: Sequence[str], *, seconds: float = 120.0
) -> list[InstanceRecord]:
    """Wait until all have ended; looks at one of them until that has, so that waiting costs the stack little."""
    deadline = time.monotonic() + seconds
    left = list(ids)
    ended: dict[str, InstanceRecord] = {}
    while left:
        stack.tick()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(left)} of {len(ids)} instances have not ended after {seconds:g} s")
        if _ended(database, tenant_id, left[-1:]):
            ended |= _ended(database, tenant_id, left)
            left = [one for one in left if one not in ended]
        if left:
            time.sleep(0.02)
    return [ended[one] for one in ids]


def _ended(database: Database, tenant_id: TenantId, ids: Sequence[str]) -> dict[str, InstanceRecord]:
    found: dict[str, InstanceRecord] = {}
    for begin in range(0, len(ids), READ_AT_ONCE):
        with database.reading() as tx:
            found |= listing.read_instances(tx, tenant_id, ids[begin : begin + READ_AT_ONCE])
    return {one: record for one, record in found.items() if record.status in FINAL}


def quantiles(values: Collection[float], *shares: int) -> dict[str, float]:
    """{"p50": …} of at least one value, to a tenth."""
    ordered = sorted(values)
    return {f"p{share}": round(percentile(ordered, share / 100), 1) for share in shares}


def cpu_by_part(stack: Stack) -> dict[str, float]:
    """CPU seconds that each part of a stack has used, its children included, and PostgreSQL's where it is a child of ours."""
    used = {
        name: cpu_seconds(pid)
        for name in stack.supervisor.names()
        if (pid := stack.supervisor.pid(name)) is not None
    }
    port = str(urlsplit(stack.database_url).port)
    for child in psutil.Process().children():
        if child.name() == POSTGRES and port in child.cmdline():
            used[POSTGRES] = cpu_seconds(child.pid)
    mine = psutil.Process().cpu_times()
    used[CALLER] = mine.user + mine.system
    return used


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, of those below it, and of those that they have outlived."""
    root = psutil.Process(pid)
    seconds = 0.0
    for process in (root, *root.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:  # its parent has it among `children_user` from the next look on
            continue
        seconds += times.user + times.system + times.children_user + times.children_system
    return seconds
