"""The stress of docs/reliability.md: several processes of each duty, senders skewed to few instances, cancels, events
between instances; and not one event lost or doubled, no order contradicted, no deadlock, no gap.

`STRESS_SECONDS` says how long the senders send (5), `STRESS_SENDERS` how many there are (4).
"""

import os
from dataclasses import dataclass

import psycopg
import pytest

from tests.support.audit import Audit
from tests.support.cluster import NO_BROKER, Cluster, end_all
from tests.support.figures import Tell
from tests.support.load import Load
from tests.support.processes import Processes

SECONDS = float(os.environ.get("STRESS_SECONDS", "5"))
SENDERS = int(os.environ.get("STRESS_SENDERS", "4"))
INSTANCES = 60
SETTLE_SECONDS = 60.0 + SECONDS

pytestmark = pytest.mark.timeout(SECONDS * 4 + 240)


@dataclass(frozen=True)
class Ran:
    """A finished run, its processes ended."""

    load: Load
    audit: Audit
    seconds: float


def run_stress(cluster: Cluster, tell: Tell, *, senders: int) -> Ran:
    """Two workers of each duty under load until the time is over and nothing is left to do; then the audit."""
    workers = cluster.workers(orchestrators=2, task_runners=2)
    orchestrators, runners = workers[:2], workers[2:]
    load = Load.on(cluster.engine, instances=INSTANCES, senders=senders, seconds=SECONDS)
    seconds = load.run()
    cluster.wait_until_settled(seconds=SETTLE_SECONDS)
    # Handlers of tasks that were cancelled may still run: what they return late comes into the inbox at the latest with their end.
    assert end_all(runners) == [0, 0]
    cluster.wait_until_settled(seconds=SETTLE_SECONDS)
    assert end_all(orchestrators) == [0, 0]
    audit = Audit.of(load, cluster)
    tell(
        f"{len(load.sent)} sends ({len(load.sent) / seconds:.0f}/s) became {len(audit.entries)} events "
        f"({len(audit.entries) / seconds:.0f}/s) in {seconds:.0f} s; {len(load.cancelled)} cancels, "
        f"{audit.late} late results refused, {load.refused} sends refused"
    )
    return Ran(load, audit, seconds)


def assert_clean(ran: Ran, cluster: Cluster) -> None:
    ran.audit.assert_clean()
    cluster.assert_healthy()
    # The load was what it is meant to be: a run in which nothing happened proves nothing.
    assert len(ran.load.sent) > 5 * ran.seconds
    assert len(ran.load.cancelled) > 0
    assert len(ran.audit.entries) > len(ran.load.sent)


def deadlocks(url: str) -> int:
    """How many deadlocks PostgreSQL met in this database; its counters are complete once the sessions have ended."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="normal"),
        pytest.param({"SIGNALBOX_LOOK_SECONDS": "0"}, id="doorbells-alone"),
        pytest.param({"SIGNALBOX_DOORBELLS": "false"}, id="looking-alone"),
    ],
)
def test_stress_on_postgresql(
    settings: dict[str, str], processes: Processes, postgres_url: str, valkey_url: str, tell: Tell
) -> None:
    with Cluster(processes, postgres_url, valkey_url, settings, forks=True) as cluster:
        ran = run_stress(cluster, tell, senders=SENDERS)
        assert_clean(ran, cluster)
    met = deadlocks(postgres_url)
    tell(f"{met} deadlocks")
    assert met == 0


def test_stress_on_sqlite(processes: Processes, sqlite_url: str, valkey_url: str, tell: Tell) -> None:
    with Cluster(processes, sqlite_url, valkey_url, forks=True) as cluster:
        ran = run_stress(cluster, tell, senders=max(1, SENDERS // 2))
        assert_clean(ran, cluster)


if SECONDS > 15:  # the long form only: what it adds is the highest load, because one sender hinders nobody

    def test_stress_without_a_broker(processes: Processes, sqlite_url: str, tell: Tell) -> None:
        with Cluster(
            processes, sqlite_url, NO_BROKER, {"SIGNALBOX_DOORBELLS": "false"}, forks=True
        ) as cluster:
            ran = run_stress(cluster, tell, senders=1)
            assert_clean(ran, cluster)
