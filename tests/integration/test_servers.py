"""The servers under the suites are what they claim to be: real, durable, and ours to kill."""

import os
import sys
import time
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from tests.support.postgres import PostgresServer, own_postgres_server
from tests.support.processes import Processes
from tests.support.slowdown import assert_within
from tests.support.valkey import ValkeyServer, answers_ping
from tests.support.waiting import wait_until

ROOT = str(Path(__file__).parents[2])


def test_postgresql_is_version_18_or_newer(empty_postgres_url):
    with psycopg.connect(empty_postgres_url) as connection:
        row = connection.execute("SELECT current_setting('server_version_num')::int >= 180000").fetchone()

    assert row == (True,)


def test_a_server_of_a_tests_own_keeps_its_promises_to_disk():
    with own_postgres_server() as server, psycopg.connect(server.url("postgres")) as connection:
        assert connection.execute("SELECT current_setting('fsync')").fetchone() == ("on",)


def test_a_database_from_a_template_is_a_copy_that_the_next_one_does_not_see(postgres: PostgresServer):
    def prepare(url: str) -> None:
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE levers (name text)")

    template = postgres.template("levers", prepare)
    first, second = postgres.create_database(template=template), postgres.create_database(template=template)
    with psycopg.connect(postgres.url(first)) as connection:
        connection.execute("INSERT INTO levers VALUES ('up main')")

    with psycopg.connect(postgres.url(second)) as connection:
        assert connection.execute("SELECT count(*) FROM levers").fetchone() == (0,)
    for name in (first, second):
        postgres.drop_database(name)


def test_each_test_gets_an_empty_broker_database(shared_valkey_url, valkey_url):
    with redis.Redis.from_url(valkey_url) as client:
        assert client.dbsize() == 0
    assert valkey_url.rsplit("/", 1)[0] in shared_valkey_url


def test_a_killed_broker_is_gone_and_comes_back_empty_at_the_same_address(valkey: ValkeyServer):
    with redis.Redis.from_url(valkey.url) as client:
        client.set("bell", "rung")

    valkey.kill()
    assert not answers_ping(valkey.url)
    valkey.start()

    with redis.Redis.from_url(valkey.url) as client:
        assert client.get("bell") is None


def test_a_frozen_broker_keeps_its_port_and_answers_nobody_until_it_thaws(valkey: ValkeyServer):
    valkey.freeze()
    assert valkey.child is not None
    assert valkey.child.is_alive
    assert not answers_ping(valkey.url)

    valkey.thaw()

    assert answers_ping(valkey.url)


def test_a_child_sees_the_given_environment_and_none_of_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://production/")
    show = "import os; print(os.environ.get('DATABASE_URL'), os.environ['LEVER'])"

    with Processes(tmp_path, {"LEVER": "7"}) as processes:
        child = processes.start("show", sys.executable, "-c", show)
        assert child.wait() == 0

    assert child.log() == "None 7\n"


def test_the_end_of_a_block_ends_children_and_their_children(tmp_path):
    spawn_one = (
        "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        "print('spawned', child.pid, flush=True); time.sleep(60)"
    )
    with Processes(tmp_path) as processes:
        parent = processes.start("parent", sys.executable, "-c", spawn_one)
        parent.wait_for_log("spawned")
        grandchild = psutil.Process(int(parent.log().split()[1]))
        assert grandchild.is_running()

    assert not parent.is_alive
    wait_until(
        lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE, what="its end"
    )


if sys.platform == "linux":  # the parent-death signal is Linux's own

    def test_a_child_does_not_outlive_the_test_run_that_was_killed(tmp_path):
        run = (
            "import pathlib, sys, time\n"
            "from tests.support.processes import Processes\n"
            f"with Processes(pathlib.Path({str(tmp_path)!r})) as processes:\n"
            "    child = processes.start('orphan', sys.executable, '-c', 'import time; time.sleep(60)')\n"
            "    print('started', child.pid, flush=True)\n"
            "    time.sleep(60)\n"
        )
        with Processes(tmp_path) as processes:
            killed = processes.start("run", sys.executable, "-c", run)
            killed.wait_for_log("started")
            orphan = psutil.Process(int(killed.log().split()[1]))
            killed.kill()

            wait_until(
                lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE, what="its end"
            )


def test_a_child_that_ends_early_fails_the_wait_at_once_with_its_log(processes: Processes):
    child = processes.start("brief", sys.executable, "-c", "print('no signal')")
    begun = time.monotonic()

    with pytest.raises(AssertionError, match=r"brief ended with 0 before 'ready':\nno signal"):
        child.wait_for_log("ready", seconds=30)

    assert_within(time.monotonic() - begun, 10)


def test_a_child_leads_its_own_process_group(processes: Processes):
    child = processes.start(
        "loner", sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"
    )
    child.wait_for_log("up")

    assert os.getpgid(child.pid) == child.pid


FORKING = """
import sys, time
from pathlib import Path
from tests.support.forked import forked_orchestrator
from tests.support.processes import Processes

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    database = f"sqlite:///{folder}/none.db"
    running = Processes(folder, env={"DATABASE_URL": database, "REDIS_URL": "memory://localhost"})
    child = forked_orchestrator(running)
    child.freeze()
    print("forked", child.pid, flush=True)
    time.sleep(60)
"""


def test_a_forked_worker_ends_with_the_run_that_forked_it_however_that_ends(processes: Processes, tmp_path):
    script = tmp_path / "forking.py"
    script.write_text(FORKING)
    folder = tmp_path / "home"
    folder.mkdir()
    run = processes.start("run", sys.executable, str(script), str(folder), env={"PYTHONPATH": ROOT})
    run.wait_for_log("forked ", seconds=30)
    worker = psutil.Process(int(run.log().split()[-1]))
    forker = worker.parent()
    assert forker is not None

    run.kill()

    wait_until(
        lambda: (
            not [one for one in (worker, forker) if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
        ),
        what="the worker and who forked it to end",
    )
