"""Celery's worker by its own command: the same options from the same places, and nothing else loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.db.migrate import upgrade
from signalbox.access import opened_database
from signalbox.ports import LOOPBACK, free_port
from tests.support.forked import forked_module

ROOT = Path(__file__).parents[3]


def answer(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **env},
    )


def forked_answer(module: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """What `answer("-m", …)` gives, from a process that has the libraries already: where it is about what is said, not about the start."""
    return forked_module(module, arguments, env={"PATH": os.environ["PATH"], **env}, folder=ROOT, seconds=60)


@pytest.mark.parametrize("package", ["orchestrator", "task_runner"])
def test_it_takes_the_options_of_celery_s_worker(package: str) -> None:
    helped = answer("-m", package, "--help")
    assert helped.returncode == 0
    assert "--without-gossip" in helped.stdout

    wrong = forked_answer(package, "--concurrency", "many")
    assert wrong.returncode == 2
    assert "'--concurrency'" in wrong.stderr


def test_it_reads_the_environment_as_celery_does() -> None:
    wrong = forked_answer("orchestrator", CELERY_WORKER_CONCURRENCY="many")

    assert wrong.returncode == 2
    assert "'--concurrency'" in wrong.stderr


def test_it_loads_no_other_command_of_celery() -> None:
    code = "import sys, common.queues.command; print(*sys.modules)"

    loaded = answer("-c", code).stdout.split()

    assert "celery.bin.worker" in loaded
    assert not {"celery.bin.celery", "click_repl", "flower", "prompt_toolkit"} & set(loaded)


WORKERS = [("orchestrator", "orchestrator"), ("task_runner", "task-runner")]


@pytest.mark.parametrize("by", ["itself", "celery"])
@pytest.mark.parametrize(("package", "duty"), WORKERS)
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "the database has no Signalbox schema; run `signalbox db upgrade` first"),
        ({"SIGNALBOX_LEASE_SECONDS": "soon"}, "SIGNALBOX_LEASE_SECONDS: "),
        ({"SIGNALBOX_MAX_OUTPUT_BYTES": "1"}, "SIGNALBOX_MAX_OUTPUT_BYTES: "),
    ],
    ids=["schema", "setting", "limit"],
)
def test_what_is_misconfigured_is_one_line(
    tmp_path: Path, package: str, duty: str, wrong: dict[str, str], said: str, by: str
) -> None:
    if "SIGNALBOX_MAX_OUTPUT_BYTES" in wrong:
        with opened_database(f"sqlite:///{tmp_path}/x.db", name="test") as database:
            upgrade(database)
    alone = {"DATABASE_URL": f"sqlite:///{tmp_path}/x.db", "REDIS_URL": "", "SIGNALBOX_DOORBELLS": "false"}

    command = (package,) if by == "itself" else ("celery", "-A", f"{package}.worker", "worker")

    refused = forked_answer(*command, **alone, **wrong)

    assert refused.returncode == 2, refused.stderr
    assert refused.stderr.splitlines()[-1].startswith(f"signalbox worker {duty}: {said}")
    assert "Traceback" not in refused.stderr


def test_so_is_a_module_of_handlers_that_is_not_there(tmp_path: Path) -> None:
    settings = {
        "DATABASE_URL": f"sqlite:///{tmp_path}/x.db",
        "REDIS_URL": "",
        "SIGNALBOX_HANDLERS": "nowhere",
    }

    refused = forked_answer("task_runner", **settings)

    assert refused.returncode == 2
    assert refused.stderr.endswith(
        'signalbox worker task-runner: SIGNALBOX_HANDLERS: cannot import "nowhere": '
        "ModuleNotFoundError: No module named 'nowhere'\n"
    )
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("by", ["itself", "celery"])
@pytest.mark.parametrize(("package", "duty"), WORKERS)
def test_a_database_that_does_not_answer_is_said_in_one_line(
    package: str, duty: str, by: str, tmp_path: Path
) -> None:
    """Its supervisor starts it again, and a person reads why."""
    dead = free_port()
    command = [package] if by == "itself" else ["celery", "-A", f"{package}.worker", "worker"]

    begun = forked_answer(
        *command,
        DATABASE_URL=f"postgresql://postgres:hidden@{LOOPBACK}:{dead}/nothing",
        REDIS_URL=f"redis://{LOOPBACK}:{dead}",
        SIGNALBOX_DATA=str(tmp_path),
    )

    assert begun.returncode == 5
    (line,) = [line for line in begun.stderr.splitlines() if "signalbox worker" in line]
    assert line.startswith(f"signalbox worker {duty}: the database cannot be used: OperationalError: ")
    assert line.endswith("see to DATABASE_URL and its server, and start the worker again")
    assert "Traceback" not in begun.stderr
    assert "hidden" not in begun.stdout + begun.stderr
