"""Where the time of a workflow goes: statements by name as PostgreSQL times them, and what the workers' interpreters do.

    python -m benchmarks.profile                  2,000 workflows, then 20 s under py-spy
    python -m benchmarks.profile -n 500 --seconds 5 --json

A stack of its own on PostgreSQL with fsync. First 3-step workflows are started live while the server logs how long each statement took
(parsing, binding and executing; what is logged costs a little itself): told are milliseconds and executions for each workflow, by the name that the statement has
in `common/store`, or by its first words. Then workflows go on for some seconds while py-spy looks at both workers 100 times a second: the share of
samples in which a thread held the interpreter, by the part of the house that is innermost, and by function. py-spy is installed from PyPI into `build/profile` at
the first run; it needs the right to look into other processes (root, or `kernel.yama.ptrace_scope=0`). Plans of the statements: `python -m benchmarks.plans`.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg

import common.store
from benchmarks.stacks import application_database, await_ended, begin, start, tell, write_report
from common.commands.definitions import apply_definition
from common.config import Limits
from common.db import Database
from common.db.prepared import Prepared
from common.ids import InstanceId, TenantId
from common.store import keys
from signalbox.bench import TENANT, Options, bench_stack, steps_chart
from signalbox.machine import describe_machine
from signalbox.stack import DUTIES, Stack

ROOT = Path(__file__).parents[1]
BUILT = ROOT / "build" / "profile"
REQUIREMENTS = Path(__file__).with_name("profile_requirements.txt")
WORK = steps_chart(3)
STARTERS = 4
WARM_UP = 100
TOLD = 15
MARK = "@signalbox@"
OURS = "signalbox-"
LOGGED = {"log_line_prefix": f"{MARK}%a|", "log_min_duration_statement": "0"}
ROOMS = (
    ("statechart/", "statechart"), ("common/store/", "common/store"), ("common/db/", "common/db"), ("common/queues/", "common/queues"), ("common/commands/", "common/commands"), ("common/", "common"),
    ("orchestrator/", "orchestrator"), ("task_runner/", "task_runner"), ("psycopg", "psycopg"), ("sqlalchemy/", "SQLAlchemy"),
    ("redis/", "redis"), ("kombu/", "kombu and Celery"), ("celery/", "kombu and Celery"),
)  # fmt: skip
"""The first that a frame's file contains, from the innermost frame outwards, names its room."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__.splitlines()[0])
    parser.add_argument("-n", "--workflows", type=int, default=2_000, help="while statements are timed")
    parser.add_argument("--seconds", type=int, default=20, help="under py-spy")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    begin()
    report = measure(asked.workflows, asked.seconds)
    if asked.json:
        write_report(report, as_json=True)
        return
    write_report(
        {name: value for name, value in report.items() if not isinstance(value, dict)}, as_json=False
    )
    sys.stdout.write(f"\n{'ms a workflow':>14} {'executions':>11}  statement\n")
    for name, found in report["statements"].items():
        sys.stdout.write(f"{found['ms']:>14.3f} {found['executions']:>11.2f}  {name}\n")
    for name, shares in report["samples"].items():
        sys.stdout.write(f"\n{name}\n")
        for what, share in shares.items():
            sys.stdout.write(f"{share:>13} %  {what}\n")


def measure(workflows: int, seconds: int) -> dict[str, Any]:
    """Milliseconds of each statement, and shares of samples by room and function for each duty."""
    spy = install_py_spy() if seconds else None
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="signalbox-profile-")))
        options = Options(instances=0, steps=3, modes=(), where="postgres")
        stack = ending.enter_context(bench_stack(options, folder, tell))
        database = application_database(stack, ending)
        with database.transaction() as tx:
            tenant_id = keys.ensure_tenant(tx, TENANT)
            apply_definition(tx, tenant_id, WORK, actor="bench", limits=Limits())
        _run(stack, database, tenant_id, WARM_UP)
        _log_statements(stack, on=True)
        _run(stack, database, tenant_id, workflows)
        _log_statements(stack, on=False)
        [log] = folder.rglob("postgres.log")
        timed = read_log(log.read_text(encoding="utf-8", errors="replace"))
        tell(f"{sum(one.count for one in timed.values()):,} statements timed")
        return {
            "machine": describe_machine(),
            "workflows": workflows,
            "ms a workflow in PostgreSQL": round(sum(one.ms for one in timed.values()) / workflows, 3),
            "statements": {
                name: {"ms": round(one.ms / workflows, 3), "executions": round(one.count / workflows, 2)}
                for name, one in sorted(timed.items(), key=lambda item: -item[1].ms)[:TOLD]
            },
            "samples": {} if spy is None else _sample(spy, folder, stack, database, tenant_id, seconds),
        }


class Timed:
    """How often a statement was executed, and the milliseconds of all executions."""

    def __init__(self) -> None:
        self.count, self.ms = 0, 0.0


def read_log(text: str) -> dict[str, Timed]:
    """The statements of a server's log, by who executed them and by name; parsing and binding count as time, not as executions."""
    names = _names()
    found: dict[str, Timed] = {}
    for entry in text.split(MARK):
        told = re.match(
            r"([^|]*)\|LOG:  duration: ([\d.]+) ms  (parse|bind|execute|statement)[^:]*: (.*)",
            entry,
            re.DOTALL,
        )
        if told is None:
            continue
        who, ms, part, statement = told.groups()
        if not who.startswith(OURS):  # what turned the log on and off
            continue
        name = names.get(_normal(statement)) or _first_words(statement)
        timed = found.setdefault(f"{who.removeprefix(OURS)}: {name}", Timed())
        timed.ms += float(ms)
        timed.count += part in ("execute", "statement")
    return found


def _names() -> Mapping[str, str]:
    """The prepared statements of `common/store` by their text."""
    found: dict[str, str] = {}
    for module in pkgutil.iter_modules(common.store.__path__):
        for name, value in vars(importlib.import_module(f"common.store.{module.name}")).items():
            for key, one in value.items() if isinstance(value, dict) else ((None, value),):
                if isinstance(one, Prepared) and key in (None, "postgresql"):
                    found[_normal(one.text("postgresql"))] = f"{module.name}.{name.strip('_').lower()}"
    return found


def _normal(statement: str) -> str:
    return " ".join(statement.split())


def _first_words(statement: str) -> str:
    """What a statement that no module names does: its verbs and tables."""
    words = re.findall(r"\b(?:INSERT INTO|UPDATE|DELETE FROM|FROM) \w+|^\w+", _normal(statement))
    return ", ".join(dict.fromkeys(words))[:70]


def shares(raw: Iterable[str], name: str) -> dict[str, dict[str, float]]:
    """Of py-spy's stacks ("frame;frame;frame count"): percent by room, and by the innermost function of ours or a library's."""
    rooms: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for line in raw:
        stack, _, count = line.strip().rpartition(" ")
        if not stack:
            continue
        frames = stack.split(";")
        rooms[_room(frames)] += int(count)
        functions[re.sub(r":\d+\)$", ")", frames[-1])] += int(count)
    total = max(rooms.total(), 1)

    def told(counted: Counter[str]) -> dict[str, float]:
        return {one: round(100 * number / total, 1) for one, number in counted.most_common(TOLD)}

    return {f"{name}, by room": told(rooms), f"{name}, by function": told(functions)}


def _room(frames: list[str]) -> str:
    for frame in reversed(frames):
        for part, room in ROOMS:
            if part in frame:
                return room
    return "the rest"


def _sample(
    spy: Path, folder: Path, stack: Stack, database: Database, tenant_id: TenantId, seconds: int
) -> dict[str, dict[str, float]]:
    """What both workers do while workflows run for some seconds."""
    looking = {}
    for duty in DUTIES:
        command = [
            str(spy),
            "record",
            "--pid",
            str(stack.supervisor.pid(duty)),
            "--duration",
            str(seconds),
            "--gil",
        ]
        command += ["--format", "raw", "--output", str(folder / f"{duty}.raw")]
        looking[duty] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while any(one.poll() is None for one in looking.values()):
        _run(stack, database, tenant_id, WARM_UP)
    found: dict[str, dict[str, float]] = {}
    for duty, one in looking.items():
        if one.returncode != 0:
            said = one.stdout.read().decode() if one.stdout else ""
            raise RuntimeError(f"py-spy could not look at the {duty}: {said.strip()[-500:]}")
        found |= shares((folder / f"{duty}.raw").read_text(encoding="utf-8").splitlines(), duty)
    return found


def _run(stack: Stack, database: Database, tenant_id: TenantId, count: int) -> None:
    def one(_number: int) -> InstanceId:
        return start(database, tenant_id, str(WORK["id"]))

    with ThreadPoolExecutor(STARTERS) as pool:
        await_ended(stack, database, tenant_id, list(pool.map(one, range(count))))


def _log_statements(stack: Stack, *, on: bool) -> None:
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        for name, value in LOGGED.items():
            connection.execute(f"ALTER SYSTEM SET {name} = '{value}'" if on else f"ALTER SYSTEM RESET {name}")
        connection.execute("SELECT pg_reload_conf()")


def install_py_spy() -> Path:
    """py-spy's program, from its pinned version in an environment of its own below `build/`."""
    program = BUILT / "bin" / "py-spy"
    if not program.exists():
        tell(f"installing py-spy into {BUILT}")
        subprocess.run([sys.executable, "-m", "venv", str(BUILT)], check=True)
        pip = [str(BUILT / "bin" / "pip"), "install", "--quiet", "-r", str(REQUIREMENTS)]
        subprocess.run(pip, check=True, stdout=sys.stderr)
    return program


if __name__ == "__main__":
    main()
