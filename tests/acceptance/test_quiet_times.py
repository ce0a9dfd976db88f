"""A tenant with a workflow now and then beside one whose queue is long: no hop of it waits for half a second of the other's work.

`python -m benchmarks.fairness` measures it; this finds what is wrong by an order of magnitude.
"""

import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from signalbox.bench import steps_chart
from tests.support.cluster import Cluster
from tests.support.engine import Engine
from tests.support.figures import Tell
from tests.support.processes import Processes
from tests.support.slowdown import assert_within
from tests.support.waiting import wait_until

FLOOD = 1_500
QUIET = 10
EACH_SECONDS = 0.2
WITHIN = 0.6
"""Seconds from its start to its end; alone it takes a fiftieth."""


@pytest.fixture
def cluster(processes: Processes, postgres_url: str, valkey_url: str) -> Iterator[Cluster]:
    with Cluster(processes, postgres_url, valkey_url, forks=True) as cluster:
        yield cluster


def seconds_of(cluster: Cluster, instance_id: str) -> float:
    [(created_at, finished_at)] = cluster.query(
        f"SELECT created_at, finished_at FROM instances WHERE id = '{instance_id}'"
    )
    assert isinstance(created_at, datetime)
    assert isinstance(finished_at, datetime), "it has ended"
    return (finished_at - created_at).total_seconds()


def test_nobody_quiet_waits_for_a_long_queue(cluster: Cluster, tell: Tell) -> None:
    flooding, quiet = cluster.engine, Engine.on(cluster.database, "quiet")
    chart = steps_chart(3)
    flooding.apply(chart)
    quiet.apply(chart)
    for _ in range(FLOOD):
        flooding.start(str(chart["id"]))
    cluster.workers()
    wait_until(lambda: cluster.attempts("succeeded") > 300, what="the flood to run", seconds=20)

    ids = []
    began = time.monotonic()
    for number in range(QUIET):
        wait_until(lambda at=began + number * EACH_SECONDS: time.monotonic() >= at, what="the next start")  # type: ignore[misc]
        ids.append(quiet.start(str(chart["id"])))
    left = "SELECT count(*) FROM instances WHERE status <> 'completed' AND tenant_id = '{}'"
    wait_until(
        lambda: cluster.count(left.format(quiet.tenant_id)) == 0, what="the quiet tenant's to end", seconds=20
    )
    waiting = cluster.count(left.format(flooding.tenant_id))

    took = sorted(seconds_of(cluster, one) for one in ids)
    tell(
        f"beside a queue of {waiting:,}: {took[QUIET // 2] * 1000:.0f} ms (median), {took[-1] * 1000:.0f} ms at most of {QUIET}"
    )
    assert waiting > 0, "the flood is over before the quiet tenant's last workflow"
    assert_within(took[-1], WITHIN)
