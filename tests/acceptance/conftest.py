"""What the acceptance suite shares: the line in which a test tells what it measured, workers that nobody rings, and an order."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import NO_BROKER, QUICK_LEASES, Cluster
from tests.support.cluster_handlers import rest
from tests.support.figures import tell
from tests.support.ledger import Ledger
from tests.support.processes import Processes

__all__ = ["tell"]

LONGEST = (
    "test_procfile",
    "test_rolling_restart",
    "test_benchmarks",
    "test_poison",
    "test_kill_everything",
    "test_overrun",
    "test_broker_outage",
    "test_demo",
)


@pytest.hookimpl(tryfirst=True)  # before xdist notes the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no core waits for it at the end; one process has the stack that many tests speak to."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))
    for item in items:
        if "up" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("up"))


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
