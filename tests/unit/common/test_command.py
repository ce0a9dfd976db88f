"""Celery's worker by its own command: the same options from the same places, and nothing else loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("package", ["orchestrator", "task_runner"])
def test_it_takes_the_options_of_celery_s_worker(package: str) -> None:
    helped = answer("-m", package, "--help")
    assert helped.returncode == 0
    assert "--without-gossip" in helped.stdout

    wrong = answer("-m", package, "--concurrency", "many")
    assert wrong.returncode == 2
    assert "'--concurrency'" in wrong.stderr


def test_it_reads_the_environment_as_celery_does() -> None:
    wrong = answer("-m", "orchestrator", CELERY_WORKER_CONCURRENCY="many")

    assert wrong.returncode == 2
    assert "'--concurrency'" in wrong.stderr


def test_it_loads_no_other_command_of_celery() -> None:
    code = "import sys, common.queues.command; print(*sys.modules)"

    loaded = answer("-c", code).stdout.split()

    assert "celery.bin.worker" in loaded
    assert not {"celery.bin.celery", "click_repl", "flower", "prompt_toolkit"} & set(loaded)
