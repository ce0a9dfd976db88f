"""The audit behind the stress suite finds what it is there to find: a book that does not agree with the histories."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.audit import Audit
from tests.support.cluster import Cluster
from tests.support.cluster_handlers import rest, unsteady
from tests.support.load import Load
from tests.support.processes import Processes


@pytest.fixture
def cluster(tmp_path: Path, sqlite_url: str) -> Iterator[Cluster]:
    """No process is started: the engine takes its turns in this one."""
    with Cluster(Processes(tmp_path), sqlite_url) as cluster:
        cluster.engine.handler("test.rest", rest)
        cluster.engine.handler("test.unsteady", unsteady)
        yield cluster


@pytest.fixture
def load(cluster: Cluster) -> Load:
    """Half a second of one sender, and everything that followed from it."""
    load = Load.on(cluster.engine, instances=3, senders=1, seconds=0.5)
    load.run()
    cluster.engine.settle()
    assert len(load.sent) >= 5, "too little was said for an audit to mean anything"
    return load


def findings(load: Load, cluster: Cluster) -> str:
    return "\n".join(Audit.of(load, cluster).findings)


def test_a_true_book_is_clean(load: Load, cluster: Cluster) -> None:
    Audit.of(load, cluster).assert_clean()


def test_an_event_that_was_acknowledged_and_is_nowhere_is_found(load: Load, cluster: Cluster) -> None:
    book = load.books[-1]
    book.sent.append(replace(book.sent[0], event_id="lost"))

    assert "consumed 0 times" in findings(load, cluster)


def test_an_event_that_nobody_acknowledged_is_found(load: Load, cluster: Cluster) -> None:
    load.books[-1].sent.pop(0)

    assert "never acknowledged, yet consumed" in findings(load, cluster)


def test_an_event_that_is_consumed_twice_is_found(load: Load, cluster: Cluster) -> None:
    sent = load.books[-1].sent[0]
    instance = cluster.engine.start("stress")
    load.books[0].started.append(instance)
    for _ in range(2):
        cluster.engine.send(instance, "NOISE", id="twice")
    load.books[-1].sent.append(replace(sent, event_id="twice", instance_id=instance))
    cluster.engine.settle()

    assert "consumed 2 times" in findings(load, cluster)


def test_an_order_that_the_acknowledgements_contradict_is_found(load: Load, cluster: Cluster) -> None:
    sent = load.books[-1].sent
    first = sent[0]
    last = max(index for index, one in enumerate(sent) if one.instance_id == first.instance_id)
    assert last > 0
    sent[0] = replace(first, began=sent[last].acknowledged + 1, acknowledged=sent[last].acknowledged + 2)

    assert "order:" in findings(load, cluster)


def test_a_start_that_nobody_asked_for_is_found(load: Load, cluster: Cluster) -> None:
    cluster.engine.start("stress")
    cluster.engine.settle()

    assert "start: acknowledged and consumed differ" in findings(load, cluster)
