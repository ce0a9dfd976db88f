"""`kill -9` of everything in the middle of the work, and `signalbox up` again: all of it completes, nothing counts twice."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from signalbox.ports import free_port
from tests.support.cluster import NO_BROKER, QUICK_LEASES, Cluster
from tests.support.figures import Tell
from tests.support.processes import Processes
from tests.support.three_tasks import TASKS, three_tasks
from tests.support.up import Up
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

INSTANCES = 50
ALL_TASKS = INSTANCES * TASKS
COMPLETE_SECONDS = 60.0
STARTERS = 4


def kill_and_bring_back(
    processes: Processes,
    tell: Tell,
    *,
    database_url: str | None = None,
    redis_url: str | None = None,
    settings: Mapping[str, str] = {},
    at_the_kill: Callable[[], None] = lambda: None,
) -> None:
    """Run 50 instances, kill everything once a third of the work is done, bring it back, and prove the promises."""
    folder = processes.folder / "data"
    env = {"SIGNALBOX_SLOTS": "8", "LEDGER": str(folder / "ledger"), **settings}
    env |= {"DATABASE_URL": database_url} if database_url else {}
    env |= {"REDIS_URL": redis_url} if redis_url else {}
    port = free_port()
    up = Up.start(processes, env, port=port)
    with Cluster(processes, database_url or f"sqlite:///{folder / 'signalbox.db'}", NO_BROKER) as cluster:
        start_all(up)
        wait_until(
            lambda: cluster.attempts("succeeded") > ALL_TASKS // 3, what="a third of the tasks", seconds=60
        )
        killed = up.kill_everything()
        done_at_the_kill = cluster.attempts("succeeded")
        unfinished = INSTANCES - cluster.statuses().get("completed", 0)
        assert unfinished > 0, "everything had completed before the kill: that proves nothing"
        at_the_kill()

        began = time.monotonic()
        up = Up.start(processes, env, port=port)
        up_again = time.monotonic() - began
        cluster.wait_for_all("completed", INSTANCES, seconds=COMPLETE_SECONDS)
        completed = time.monotonic() - began

        cluster.assert_each_result_counted_once(tasks=ALL_TASKS)
        cluster.assert_healthy()
        assert cluster.count("SELECT count(*) FROM inbox") == 0
        begun = attempts_begun(up.ledger)
        assert set(begun) == {str(task_id) for (task_id,) in cluster.query("SELECT id FROM tasks")}
        assert up.child.terminate() == 0
        again = sum(times - 1 for times in begun.values())
        tell(
            f"{killed} processes killed with {done_at_the_kill} of {ALL_TASKS} tasks done; up again after "
            f"{up_again:.1f} s, all {INSTANCES} completed {completed:.1f} s after the new start; "
            f"{again} attempts were made again"
        )


def start_all(up: Up) -> None:
    """Apply the definition and start the instances over HTTP, from a few threads."""
    with up.client() as client:
        client.apply(three_tasks())
        with ThreadPoolExecutor(STARTERS) as starters:
            started = list(starters.map(lambda _: client.start("three-tasks"), range(INSTANCES)))
    assert len({instance["id"] for instance in started}) == INSTANCES


def attempts_begun(ledger: Path) -> Counter[str]:
    """How often each task was begun, by what its handlers wrote outside the database."""
    lines = [line.split() for line in ledger.read_text().splitlines()]
    return Counter(task_id for what, task_id, *_ in lines if what == "began")


def test_everything_embedded(processes: Processes, tell: Tell) -> None:
    """With the settings of a fresh `signalbox up`: leases of 8 s."""
    kill_and_bring_back(processes, tell)


def test_everything_on_postgresql_and_the_broker_flushed(
    processes: Processes, postgres_url: str, valkey: ValkeyServer, tell: Tell
) -> None:
    kill_and_bring_back(
        processes,
        tell,
        database_url=postgres_url,
        redis_url=valkey.url,
        settings=QUICK_LEASES,
        at_the_kill=valkey.flush,
    )


def test_everything_on_postgresql_with_the_broker_stopped_all_the_time(
    processes: Processes, postgres_url: str, valkey: ValkeyServer, tell: Tell
) -> None:
    valkey.stop()

    kill_and_bring_back(
        processes, tell, database_url=postgres_url, redis_url=valkey.url, settings=QUICK_LEASES
    )
