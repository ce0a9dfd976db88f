"""The code before the newest migration works on the schema after it, alone and beside the new code: an upgrade stops nothing."""

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import httpx2
import pytest

from common.credentials import make_secret
from common.db.schema import head_version
from signalbox.ports import free_port
from tests.support.cluster import QUICK_LEASES, Cluster, end_all, ready
from tests.support.processes import Processes
from tests.support.three_tasks import TASKS, three_tasks
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
UPGRADING = (ROOT / "docs/upgrading/README.md").read_text(encoding="utf-8")
INSTANCES = 20


def told(what: str) -> str:
    found = re.search(rf"^- {what}: `(\w+)`$", UPGRADING, re.MULTILINE)
    assert found, f'docs/upgrading/README.md does not name "{what}"'
    return found[1]


def git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, (
        f"git {' '.join(arguments)}: {done.stderr.decode()}\nthis test needs the history: git fetch --unshallow"
    )
    return done.stdout


@pytest.fixture(scope="module")
def old_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of the commit before the newest migration."""
    folder = tmp_path_factory.mktemp("previous")
    with zipfile.ZipFile(BytesIO(git("archive", "--format=zip", told("the commit before it")))) as tree:
        tree.extractall(folder)
    return folder


@pytest.fixture
def old(old_code: Path) -> Mapping[str, str]:
    """What makes a process of ours run the old code."""
    return {
        "PYTHONPATH": str(old_code),
        "SPT_NOENV": "1",
    }  # the title of a process is written over its environment otherwise


def test_the_guide_names_the_commit_before_the_newest_migration(old_code: Path) -> None:
    versions = sorted(path.name[:4] for path in (ROOT / "migrations/versions").glob("0*.py"))
    before = sorted(path.name[:4] for path in (old_code / "migrations/versions").glob("0*.py"))

    assert told("newest migration") == versions[-1] == head_version()
    assert before == versions[:-1]


def test_old_workers_do_the_work_on_the_new_schema_and_new_ones_take_over(
    processes: Processes, database_url: str, valkey_url: str, old: Mapping[str, str]
) -> None:
    with Cluster(processes, database_url, valkey_url, QUICK_LEASES, forks=True) as cluster:
        key = cluster.engine.apply(three_tasks())
        before = [
            processes.celery_worker("orchestrator.worker", "workflow-orchestrator", env=old),
            processes.celery_worker("task_runner.worker", "workflow-task-runner", env=old),
        ]
        for worker in before:
            ready(worker)
        assert_runs_from(before[0].pid, old["PYTHONPATH"])
        for _ in range(INSTANCES):
            cluster.engine.start(key)
        wait_until(lambda: cluster.attempts("succeeded") >= INSTANCES, what="old workers at work", seconds=60)
        after = cluster.workers()  # side by side
        for _ in range(INSTANCES):
            cluster.engine.start(key)
        assert end_all(before) == [0, 0]

        cluster.wait_for_all("completed", 2 * INSTANCES, seconds=60)
        cluster.wait_until_settled(seconds=20)

        end_all(after)
        cluster.assert_each_result_counted_once(tasks=2 * INSTANCES * TASKS)
        cluster.assert_healthy()


def test_the_old_api_answers_on_the_new_schema(
    processes: Processes, postgres_url: str, valkey_url: str, old: Mapping[str, str]
) -> None:
    """On PostgreSQL, where an API is another process than what upgrades the schema; `signalbox up` starts with its file."""
    port = free_port()
    secret = {"SIGNALBOX_SECRET": make_secret()}
    with Cluster(processes, postgres_url, valkey_url, {**QUICK_LEASES, **secret}, forks=True) as cluster:
        made = processes.start(
            "keys", sys.executable, "-m", "signalbox", "keys", "create", "--tenant", "default", "--name", "old",
            "--role", "admin", "--json", env=old,
        )  # fmt: skip
        assert made.wait(seconds=30) == 0, made.log()
        found = re.search(r"sb_\w+", made.log())
        assert found, made.log()
        # Not by the script `signalbox`, which is installed by the new code, and names a module of it.
        api = processes.start("api", sys.executable, "-m", "signalbox", "api", "--port", str(port), env=old)
        with httpx2.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {found[0]}"},
            trust_env=False,
        ) as http:
            api.wait_until_ready(lambda: answers(http), what="an answer to /health/ready")
            applied = http.post("/api/v1/definitions", json={"document": dict(three_tasks(ms=10))})
            assert applied.status_code == 201, applied.text
            cluster.workers()

            started = http.post(
                "/api/v1/instances",
                json={"definitionKey": "three-tasks"},
                headers={"Prefer": "wait=60"},
                timeout=90,
            )

            assert started.json()["status"] == "completed", started.text
            listed = http.get("/api/v1/tasks", params={"instanceId": started.json()["id"]}).json()["items"]
            assert [task["status"] for task in listed] == ["succeeded"] * TASKS


def answers(http: httpx2.Client) -> bool:
    try:
        return http.get("/health/ready").status_code == 200
    except httpx2.TransportError:
        return False


def assert_runs_from(pid: int, folder: str) -> None:
    """The environment may name a folder that nothing was loaded from; the open files of a process cannot lie."""
    environment = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    assert f"PYTHONPATH={folder}" in environment
    shown = subprocess.run(
        [sys.executable, "-c", "import common, sys; print(common.__file__)"],
        env={"PYTHONPATH": folder, "PATH": os.environ["PATH"]},
        capture_output=True, text=True, check=True, cwd="/",
    )  # fmt: skip
    assert shown.stdout.startswith(folder), shown.stdout
