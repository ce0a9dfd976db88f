"""How long it takes until work goes on: after a doorbell that nobody heard, and after a worker that died with a task."""

import signal
import time
from collections.abc import Iterator

import pytest

from tests.support.cluster import QUICK_LEASES, Cluster
from tests.support.figures import Tell
from tests.support.ledger import Ledger
from tests.support.one_task import ONE_TASK
from tests.support.processes import Child, Processes
from tests.support.slowdown import assert_within
from tests.support.waiting import wait_until

UNHEARD_WITHIN = 2.0
LEASE_SECONDS = 2.0
TAKEN_OVER_WITHIN = LEASE_SECONDS + 2.0
TIMES = 5
QUIET_SECONDS = 0.3
LONG_ENOUGH_MS = 1_500
"""A task still runs when its runner is killed, however late this process sees that it has begun."""


@pytest.fixture
def cluster(processes: Processes, postgres_url: str, valkey_url: str, ledger: Ledger) -> Iterator[Cluster]:
    settings = {**QUICK_LEASES, "LEDGER": str(ledger.path)}
    with Cluster(processes, postgres_url, valkey_url, settings, forks=True) as cluster:
        yield cluster


def seconds_until_it_moves(cluster: Cluster, key: str) -> float:
    """From the commit of a start to the first row of its history, with nothing else going on."""
    cluster.wait_until_settled(seconds=20)
    time.sleep(QUIET_SECONDS)  # not for a fact: the rings of the instance before fade away
    instance_id = cluster.engine.start(key, input=1)
    began = time.monotonic()
    wait_until(lambda: cluster.engine.entries(instance_id), what="the instance to start", seconds=10)
    return time.monotonic() - began


def test_a_doorbell_that_nobody_hears_is_made_good_by_the_look(cluster: Cluster, tell: Tell) -> None:
    """What a crash between commit and ring leaves, and a flushed broker: a committed row, and nobody told."""
    cluster.workers()
    key = cluster.engine.apply(ONE_TASK)
    heard = sorted(seconds_until_it_moves(cluster, key) for _ in range(TIMES))
    cluster.database.listeners.clear()  # from here on this caller rings nobody

    unheard = sorted(seconds_until_it_moves(cluster, key) for _ in range(TIMES))

    cluster.wait_for_all("completed", 2 * TIMES, seconds=20)
    cluster.assert_healthy()
    middle = TIMES // 2
    tell(
        f"first step after the commit: {unheard[middle]:.2f} s (median), {unheard[-1]:.2f} s at most of {TIMES} "
        f"without a doorbell; {heard[middle] * 1000:.0f} ms (median) with one"
    )
    # A first step takes this machine so long as it took with a doorbell, just before.
    assert_within(unheard[-1], UNHEARD_WITHIN + heard[-1])


def test_the_task_of_a_dead_runner_is_taken_over_when_its_lease_ends(
    cluster: Cluster, ledger: Ledger, tell: Tell
) -> None:
    runners: dict[int, Child] = {
        child.pid: child for child in cluster.workers(orchestrators=1, task_runners=3)[1:]
    }
    key = cluster.engine.apply(ONE_TASK)
    taken_over, taken = [], []
    for death in range(2):
        began = time.monotonic()
        instance_id = cluster.engine.start(key, input=LONG_ENOUGH_MS)
        begun = ledger.wait_until_begun(2 * death + 1)
        taken.append(time.monotonic() - began)
        victim = runners[begun[-1].pid]
        victim.popen.send_signal(signal.SIGKILL)
        began = time.monotonic()
        again = ledger.wait_until_begun(2 * death + 2)
        taken_over.append(time.monotonic() - began)
        assert again[-1].pid != victim.pid
        assert victim.wait() == -signal.SIGKILL
        cluster.wait_for_all("completed", death + 1, seconds=15)
        assert cluster.engine.entry_types(instance_id).count("task.succeeded") == 1

    assert cluster.attempts("lost") == 2
    cluster.assert_each_result_counted_once(tasks=2)
    cluster.assert_healthy()
    tell(f"taken over {max(taken_over):.2f} s after the kill at most, lease {LEASE_SECONDS:g} s")
    assert_within(
        max(taken_over), TAKEN_OVER_WITHIN + max(taken), "the lease, a look, and what a task takes to begin"
    )
