"""Connections that break under the workers cost a second, not an event, not a result and not a process."""

import time

import psycopg

from tests.support.cluster import QUICK_LEASES, Cluster, end_all
from tests.support.figures import Tell
from tests.support.processes import Processes
from tests.support.three_tasks import TASKS, three_tasks
from tests.support.waiting import wait_until

INSTANCES = 50
BREAKS = 5


END_SESSIONS = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name IN ('signalbox-orchestrator', 'signalbox-task-runner')
"""


def test_broken_connections_in_the_middle_of_the_work(
    processes: Processes, postgres_url: str, valkey_url: str, tell: Tell
) -> None:
    with Cluster(processes, postgres_url, valkey_url, QUICK_LEASES, forks=True) as cluster:
        workers = cluster.workers()
        key = cluster.engine.apply(three_tasks())
        began = time.monotonic()
        for _ in range(INSTANCES):
            cluster.engine.start(key)
        broken = 0
        with psycopg.connect(postgres_url, autocommit=True) as admin:
            for number in range(1, BREAKS + 1):
                share = number * INSTANCES * TASKS // (BREAKS + 1)
                wait_until(
                    lambda share=share: cluster.attempts("succeeded") >= share,
                    what=f"{share} tasks to be done",
                    seconds=30,
                )
                row = admin.execute(END_SESSIONS).fetchone()
                broken += row[0] if row else 0

        cluster.wait_for_all("completed", INSTANCES, seconds=30)

        seconds = time.monotonic() - began
        assert broken >= BREAKS
        assert [worker.is_alive for worker in workers] == [True, True]
        cluster.assert_each_result_counted_once(tasks=INSTANCES * TASKS)
        cluster.assert_healthy()
        assert end_all(workers) == [0, 0]
        tell(
            f"{INSTANCES} instances completed in {seconds:.1f} s with {broken} connections broken on the way"
        )
