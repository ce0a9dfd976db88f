"""Metadata on rows: durable at once, atomic for each key among threads and runners, and fenced by the lease."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from common.canonical import read
from common.ids import WorkerId, new_id
from common.lifecycle import InstanceStatus
from common.metadata import MAX_KEYS
from orchestrator.sweep import expire_due_leases
from task_runner.context import TaskContext
from task_runner.isolate import Surroundings
from task_runner.metadata import Metadata
from task_runner.metadata_rows import MetadataRows
from task_runner.registry import REGISTRY, Options, Permanent, make_handler
from task_runner.run import Runner
from tests.integration.engine.documents import ON_SQLITE, one_task
from tests.support import isolated_handlers
from tests.support.engine import Engine
from tests.support.runners import MakeRunner
from tests.support.waiting import wait_until

EIGHT = {
    "id": "eight",
    "initial": "working",
    "states": {
        "working": {
            "type": "parallel",
            "states": {
                f"r{number}": {
                    "initial": "open",
                    "states": {
                        "open": {"invoke": {"src": "work", "id": f"w{number}", "onDone": "closed"}},
                        "closed": {"type": "final"},
                    },
                }
                for number in range(8)
            },
            "onDone": "done",
        },
        "done": {"type": "final"},
    },
}


@pytest.fixture
def make_another(make_runner: MakeRunner) -> Callable[[], Runner]:
    """Make a runner that is another worker each time."""
    return lambda: make_runner(worker=WorkerId(new_id()), surroundings=Surroundings("json"))


def stored(engine: Engine, instance_id: str) -> dict[str, Any]:
    rows = engine.execute(f"SELECT key, value FROM instance_metadata WHERE instance_id = '{instance_id}'")
    return {key: read(value) for key, value in rows}


def nothing_runs(engine: Engine) -> bool:
    return engine.execute("SELECT count(*) FROM tasks WHERE status = 'running'") == [(0,)]


def of_claim(engine: Engine) -> tuple[Metadata, Any]:
    """The metadata that a freshly claimed task sees, and its claim."""
    engine.handler("work", lambda _input: None)
    [claim] = engine.claim()
    return Metadata(MetadataRows(claim, engine.database)), claim


def test_two_steps_share_and_a_failed_attempt_leaves_what_it_set(engine: Engine) -> None:
    def work(_input: Any, context: TaskContext) -> Any:
        context.metadata.increment("attempts")
        if context.attempt == 1:
            raise ValueError("not yet")
        return context.metadata.all()

    engine.handler("work", work)
    document = one_task(retry={"maxAttempts": 2, "interval": 0, "jitter": 0})
    first, second = engine.start(document), engine.start(document["id"])
    engine.settle()

    assert engine.status(first) is InstanceStatus.COMPLETED
    assert stored(engine, first) == stored(engine, second) == {"attempts": 2}


def test_increments_of_eight_threads_in_two_runners_all_count(engine: Engine, make_another: Any) -> None:
    def work(_input: Any, context: TaskContext) -> Any:
        for _ in range(10):
            context.metadata.increment("n")
        return context.metadata.update("ended", lambda found: [*found, context.name], default=[])

    engine.handler("work", work)
    instance_id = engine.start(EIGHT)
    engine.advance()
    runners = [make_another(), make_another()]
    with ThreadPoolExecutor(2) as pool:
        claimed = list(pool.map(lambda runner: runner.claim(until=0.0).counts["claimed"], runners))
    assert sum(claimed) == 8

    wait_until(lambda: nothing_runs(engine), what="all eight to end", seconds=60)
    engine.settle()

    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    assert stored(engine, instance_id)["n"] == 80
    assert len(stored(engine, instance_id)["ended"]) == 8


def test_who_lost_the_lease_reads_on_and_writes_no_more(engine: Engine) -> None:
    instance_id = engine.start(one_task(retry={"maxAttempts": 3, "interval": 0, "jitter": 0}))
    engine.advance()
    stale, _ = of_claim(engine)
    stale.set("who", "the first")
    engine.execute("UPDATE tasks SET lease_expires_at = '2000-01-01 00:00:00.000000'")
    expire_due_leases(engine.database)

    for write in (
        lambda: stale.set("who", "late"),
        lambda: stale.set("new", "late"),
        lambda: stale.remove("who"),
        lambda: stale.increment("n"),
        lambda: stale.update("who", lambda found: f"{found}, late"),
    ):
        with pytest.raises(Permanent) as lost:
            write()
        assert lost.value.code == "task.lease_lost"
    fresh, claim = of_claim(engine)
    assert (fresh.get("who"), stale.get("who")) == ("the first", "the first")
    fresh.set("who", "the second")
    engine.report(engine.succeeded(claim))
    with pytest.raises(Permanent):
        fresh.set("who", "after the end")

    assert stored(engine, instance_id) == {"who": "the second"}


def test_a_light_handler_writes_in_the_claim(engine: Engine, make_another: Any) -> None:
    threads: list[threading.Thread] = []

    def work(_input: Any, context: TaskContext) -> Any:
        threads.append(threading.current_thread())
        context.metadata.set("key", "value")
        return [context.metadata.increment("n"), context.metadata.increment("n")]

    engine.registry.add(make_handler("work", work, options=Options(light=True)))
    instance_id = engine.start(EIGHT)
    engine.advance()
    make_another().claim(until=0.0)
    # What a claim's budget does not suffice for goes to the slots.
    wait_until(lambda: nothing_runs(engine), what="all eight to end", seconds=60)
    engine.settle()

    assert threading.main_thread() in threads
    assert stored(engine, instance_id) == {"key": "value", "n": 16}
    assert engine.status(instance_id) is InstanceStatus.COMPLETED


@ON_SQLITE
@pytest.mark.timeout(120)
def test_an_isolated_handler_asks_its_runner(engine: Engine, make_another: Any) -> None:
    for handler in REGISTRY.all():
        if handler.function.__module__ == isolated_handlers.__name__:
            engine.registry.add(handler)
    instance_id = engine.start(one_task("isolated.count", input=3))
    large = engine.start(one_task("isolated.overfill"))
    engine.advance()
    make_another().claim(until=0.0)

    wait_until(lambda: nothing_runs(engine), what="both to end", seconds=60)
    engine.settle()

    assert stored(engine, instance_id) == {"count": 6, "seen": {"count": 6, "none": 7}}
    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    assert stored(engine, large) == {}
    [(error,)] = engine.execute(f"SELECT error FROM tasks WHERE instance_id = '{large}'")
    assert (read(error)["code"], read(error)["data"]["limit"]) == ("limit.exceeded", "max_metadata_bytes")


def test_an_instance_has_no_more_keys_than_it_may(engine: Engine) -> None:
    instance_id = engine.start(one_task())
    engine.advance()
    metadata, claim = of_claim(engine)
    with engine.database.transaction() as tx:
        for number in range(MAX_KEYS - 1):
            tx.exec_driver_sql(
                "INSERT INTO instance_metadata (instance_id, key, tenant_id, value, updated_at, updated_by) "
                f"VALUES ('{instance_id}', 'k{number}', '{claim.tenant_id}', '1', '2026-01-01 00:00:00', 'test')"
            )

    metadata.set("last", 1)
    metadata.set("last", 2)
    for write in (lambda: metadata.set("more", 1), lambda: metadata.increment("more")):
        with pytest.raises(Permanent, match="at most 1,000"):
            write()
    metadata.increment("last")

    assert len(stored(engine, instance_id)) == MAX_KEYS
    assert metadata.get("last") == 3


def test_another_instances_values_are_not_seen(engine: Engine) -> None:
    document = one_task()
    engine.start(document)
    engine.start(document["id"])
    engine.advance()
    engine.handler("work", lambda _input: None)
    one, other = (Metadata(MetadataRows(claim, engine.database)) for claim in engine.claim())

    one.set("key", 1)

    assert other.all() == {}
    other.set("key", 2)
    assert one.get("key") == 1
