"""What the acceptance suite shares: the line in which a test tells what it measured, workers that nobody rings, and an order."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.support.cluster import NO_BROKER, QUICK_LEASES, Cluster
from tests.support.cluster_handlers import rest
from tests.support.figures import tell
from tests.support.ledger import Ledger
from tests.support.processes import Processes

__all__ = ["tell"]

TOGETHER = ("tests/acceptance/test_up.py",)
"""Modules whose tests share what takes long to start."""
LONGEST = (
    "test_up",
    "test_procfile",
    "test_rolling_restart",
    "test_benchmarks",
    "test_poison",
    "test_kill_everything",
    "test_overrun",
    "test_broker_outage",
    "test_up_survives",
    "test_demo",
    "test_secrets",
    "test_bench",
    "test_previous_version",
    "test_frozen",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no core waits for it at the end."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


class _Scheduling(LoadScopeScheduling):
    """Each test goes to the process that has time, those of a module of `TOGETHER` all to one."""

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return module if module in TOGETHER else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Scheduling:
    return _Scheduling(config, log)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """What handlers have written down; their workers are told its path as LEDGER."""
    return Ledger(tmp_path / "ledger")


@pytest.fixture(params=["sqlite", "postgresql"])
def cluster(
    request: pytest.FixtureRequest, processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    """Workers without a broker, so that what a dead process did not ring for is found by looking."""
    url = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    ledger = str(tmp_path / "ledger")
    monkeypatch.setenv("LEDGER", ledger)
    settings = {
        "SIGNALBOX_LEASE_SECONDS": "1",
        "SIGNALBOX_BEAT_SECONDS": "0.25",
        "SIGNALBOX_LOOK_SECONDS": "0.25",
        "SIGNALBOX_DOORBELLS": "false",
        "LEDGER": ledger,
    }
    with Cluster(processes, url, NO_BROKER, settings, forks=True) as cluster:
        cluster.engine.handler("test.rest", rest)
        yield cluster


@pytest.fixture(params=["sqlite", "postgresql"])
def rung_cluster(
    request: pytest.FixtureRequest, processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    """Workers that are rung, by Valkey."""
    url = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    monkeypatch.setenv("LEDGER", str(tmp_path / "ledger"))
    settings = {**QUICK_LEASES, "LEDGER": str(tmp_path / "ledger")}
    with Cluster(processes, url, request.getfixturevalue("valkey_url"), settings, forks=True) as cluster:
        yield cluster
