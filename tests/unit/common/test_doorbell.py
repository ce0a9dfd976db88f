"""Doorbells: at once, then coalesced, never in anybody's way; and a broker that is gone, frozen or full costs nothing."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from queue import Empty
from typing import Any

import pytest
from kombu import Connection as Broker
from kombu.simple import SimpleQueue
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from common.config import Settings
from common.db import ORCHESTRATOR_QUEUE, TASK_RUNNER_QUEUE, Database, note_bell
from common.queues import doorbell
from common.queues.app import ADVANCE, RUN, transport_options
from common.queues.calls import UNANSWERED, Caller, Listener
from common.queues.doorbell import ENOUGH, HINTS, INTERVAL, Doorbells
from tests.support.slowdown import assert_within
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

NOWHERE = "redis://127.0.0.1:1/0"  # nobody listens on port 1


@contextmanager
def bells_on(url: str) -> Iterator[Doorbells]:
    bells = Doorbells(url)
    yield bells
    bells.close()


@pytest.fixture(params=["memory://", "valkey"])
def url(request: pytest.FixtureRequest) -> str:
    """A broker without calls, in this process, and a real one that has them."""
    broker: str = request.getfixturevalue("valkey_url") if request.param == "valkey" else request.param
    for queue in (ORCHESTRATOR_QUEUE, TASK_RUNNER_QUEUE):
        taken(broker, queue)
    return broker


@contextmanager
def opened(url: str, queue: str) -> Iterator[SimpleQueue]:
    with (
        Broker(url, transport_options=transport_options(url)) as broker,
        closing(broker.SimpleQueue(queue)) as opened_,
    ):
        yield opened_


def waiting(url: str, queue: str = ORCHESTRATOR_QUEUE) -> int:
    with opened(url, queue) as opened_:
        declared = opened_.channel.queue_declare(queue=queue, durable=True, auto_delete=False)
        return int(declared.message_count)


def taken(url: str, queue: str = ORCHESTRATOR_QUEUE) -> list[dict[str, Any]]:
    """Take every doorbell that waits: what it says."""
    messages = []
    with opened(url, queue) as opened_:
        while True:
            try:
                message = opened_.get_nowait()
            except Empty:
                return messages
            message.ack()
            messages.append({"task": message.headers["task"], **message.payload[1]})


def put(url: str, count: int) -> None:
    with opened(url, ORCHESTRATOR_QUEUE) as opened_:
        for _ in range(count):
            opened_.put([[], {}], headers={"task": "test"})


def ring(bells: Doorbells, *ids: str, queue: str = ORCHESTRATOR_QUEUE) -> None:
    bells.ring({queue: list(ids)})


def test_the_first_ring_goes_out_at_once_with_its_hints(url: str) -> None:
    with bells_on(url) as bells:
        ring(bells, "a", "b")
        wait_until(lambda: waiting(url) == 1, what="the doorbell")

    assert taken(url) == [{"task": ADVANCE, "ids": ["a", "b"], "count": 2}]


def test_each_queue_has_its_own_bell(url: str) -> None:
    with bells_on(url) as bells:
        bells.ring({ORCHESTRATOR_QUEUE: ["a"], TASK_RUNNER_QUEUE: []})
        wait_until(lambda: waiting(url, TASK_RUNNER_QUEUE) == 1, what="the runner's doorbell")
        wait_until(lambda: waiting(url) == 1, what="the orchestrator's doorbell")

    assert taken(url) == [{"task": ADVANCE, "ids": ["a"], "count": 1}]
    assert taken(url, TASK_RUNNER_QUEUE) == [{"task": RUN, "ids": [], "count": 1}]


def test_many_rings_become_one_in_ten_milliseconds(url: str) -> None:
    began = time.monotonic()
    with bells_on(url) as bells:
        for n in range(300):
            ring(bells, f"i{n}")
            time.sleep(0.0001)  # so that they come over a while, and not in one moment
    took = time.monotonic() - began

    messages = taken(url)
    assert 2 <= len(messages) <= took / INTERVAL + 2
    assert sum(message["count"] for message in messages) == 300, "and none is forgotten"
    assert all(len(message["ids"]) <= HINTS for message in messages)


def test_a_ring_after_the_last_one_went_out_is_not_swallowed(url: str) -> None:
    with bells_on(url) as bells:
        for n in range(5):
            ring(bells, f"i{n}")
            wait_until(lambda: sum(m["count"] for m in taken(url)) >= 1, what="a doorbell for each")


def test_nothing_is_added_while_fifty_wait_untaken(url: str) -> None:
    with bells_on(url) as bells:
        ring(bells, "first")
        wait_until(lambda: waiting(url) == 1, what="the first")

        put(url, ENOUGH)
        full = waiting(url)
        deadline = time.monotonic() + 0.6
        while time.monotonic() < deadline:
            ring(bells, "more")
            time.sleep(INTERVAL / 2)

        assert full <= waiting(url) < full + doorbell.ASK_EVERY, "how many wait is asked at each tenth ring"

        taken(url)
        wait_until(lambda: (ring(bells, "again"), waiting(url) >= 1)[1], what="bells to ring again")
        taken(url)


@pytest.mark.parametrize("broker", [NOWHERE, "amqp://127.0.0.1:1//", "redis://no-such-host.invalid:6379/0"])
def test_without_a_broker_nobody_waits_and_nothing_is_raised(broker: str) -> None:
    bells = Doorbells(broker)
    began = time.monotonic()
    for n in range(1_000):
        ring(bells, f"i{n}")
    assert_within(time.monotonic() - began, 0.5)

    wait_until(lambda: bells._quiet_until > time.monotonic(), what="it to leave the broker alone", seconds=20)
    assert bells._thread.is_alive()
    bells.close()


def test_a_broker_that_comes_back_is_rung_again(valkey: ValkeyServer) -> None:
    with bells_on(valkey.url) as bells:
        ring(bells, "before")
        wait_until(lambda: waiting(valkey.url) == 1, what="the first doorbell")
        valkey.kill()
        ring(bells, "lost")
        wait_until(lambda: bells._quiet_until > 0, what="the loss to be noticed")
        valkey.start()

        wait_until(lambda: (ring(bells, "after"), waiting(valkey.url) >= 1)[1], what="bells to ring again")


def test_a_frozen_broker_keeps_neither_the_caller_nor_the_end(valkey: ValkeyServer) -> None:
    bells = Doorbells(valkey.url)
    ring(bells, "before")
    wait_until(lambda: waiting(valkey.url) == 1, what="the first doorbell")
    valkey.freeze()
    began = time.monotonic()
    for n in range(1_000):
        ring(bells, f"i{n}")
    bells.close(wait=0.5)

    assert_within(time.monotonic() - began, 1.5)
    valkey.thaw()


def test_a_call_is_heard_by_those_who_listen_and_says_so(valkey_url: str) -> None:
    listener, caller = Listener.open(valkey_url), Caller.open(valkey_url)
    heard: list[int] = []
    assert caller.call(ORCHESTRATOR_QUEUE) is False, "nobody is there"
    listener.listen({ORCHESTRATOR_QUEUE: lambda _hints: heard.append(1)})
    wait_until(lambda: heard == [1], what="what was called before it listened")

    assert caller.call(TASK_RUNNER_QUEUE) is False
    assert caller.call(ORCHESTRATOR_QUEUE) is True
    wait_until(lambda: heard == [1, 1], what="the call")
    listener.close()


def test_calls_without_a_broker_are_unheard_and_raise_nothing() -> None:
    for broker in (NOWHERE, "memory://"):
        caller = Caller.open(broker)
        assert caller.call(ORCHESTRATOR_QUEUE) is False
        assert caller.call_at_once(ORCHESTRATOR_QUEUE) is False
        assert caller.is_heard(ORCHESTRATOR_QUEUE) is False


def test_a_call_at_once_waits_for_nothing_and_learns_later_who_heard_it(valkey: ValkeyServer) -> None:
    listener, caller = Listener.open(valkey.url), Caller.open(valkey.url)
    heard: list[int] = []
    assert caller.call_at_once(ORCHESTRATOR_QUEUE) is False, (
        "there is no connection yet, and it waits for none"
    )
    assert caller.call(ORCHESTRATOR_QUEUE) is False, "which this one makes"
    listener.listen({ORCHESTRATOR_QUEUE: lambda _hints: heard.append(1)})
    wait_until(lambda: heard == [1], what="what was called before it listened")

    assert caller.call_at_once(ORCHESTRATOR_QUEUE) is True
    wait_until(lambda: heard == [1, 1], what="the call")
    assert caller.call_at_once(TASK_RUNNER_QUEUE) is True
    assert caller.is_heard(TASK_RUNNER_QUEUE) is False
    wait_until(
        lambda: caller.call_at_once(ORCHESTRATOR_QUEUE) and caller.is_heard(ORCHESTRATOR_QUEUE),
        what="the answer to an earlier call",
    )

    valkey.freeze()
    began = time.monotonic()
    said = sum(caller.call_at_once(ORCHESTRATOR_QUEUE) for _ in range(10 * UNANSWERED))
    assert_within(time.monotonic() - began, 1.0)
    assert said <= UNANSWERED, "a broker that does not answer is not written to for ever"
    valkey.thaw()
    wait_until(lambda: caller.call_at_once(ORCHESTRATOR_QUEUE), what="it to be called again")
    listener.close()


def test_while_calls_are_heard_rings_come_slower_and_calls_at_once(valkey_url: str) -> None:
    listener = Listener.open(valkey_url)
    heard: list[float] = []
    listener.listen({ORCHESTRATOR_QUEUE: lambda _hints: heard.append(time.monotonic())})
    wait_until(lambda: heard, what="the listener to be ready")
    heard.clear()
    began = time.monotonic()
    with bells_on(valkey_url) as bells:
        for _ in range(500):
            ring(bells, "x")
            time.sleep(0.0005)
        took = time.monotonic() - began
        wait_until(lambda: heard, what="a call")
    listener.close()

    assert heard[0] - began < took, "while it is still ringing"
    assert len(heard) <= took / doorbell.CALL_INTERVAL + 3
    assert len(taken(valkey_url)) <= took / doorbell.HEARD_INTERVAL + 3


class Noted:
    """Stands where doorbells would: what a database hands to its listeners."""

    def __init__(self) -> None:
        self.bells: list[dict[str, list[str]]] = []

    def __call__(self, bells: dict[str, list[str]]) -> None:
        self.bells.append(bells)


def test_bells_ring_after_the_commit_and_not_after_a_rollback(sqlite_url: str) -> None:
    database = Database.open(sqlite_url)
    noted = Noted()
    database.listeners.append(noted)

    with database.transaction() as tx:
        note_bell(tx, ORCHESTRATOR_QUEUE, "a")
        note_bell(tx, ORCHESTRATOR_QUEUE, "b")
        note_bell(tx, TASK_RUNNER_QUEUE)
        assert noted.bells == []
    assert noted.bells == [{ORCHESTRATOR_QUEUE: ["a", "b"], TASK_RUNNER_QUEUE: []}]

    def refused(tx: Connection) -> None:
        note_bell(tx, ORCHESTRATOR_QUEUE, "never")
        tx.exec_driver_sql("INSERT INTO tenants (id, name) VALUES ('x', NULL)")

    with pytest.raises(IntegrityError):
        database.run(refused)
    with database.transaction():
        pass  # the same pooled connection: what was noted before its rollback must not ring now
    assert len(noted.bells) == 1
    database.dispose()


@pytest.mark.parametrize("off", [{"doorbells": False}, {"redis_url": ""}])
def test_doorbells_can_be_switched_off(sqlite_url: str, off: dict[str, Any]) -> None:
    database = Database.open(sqlite_url)
    settings = Settings.load(**{"database_url": sqlite_url, "redis_url": NOWHERE, **off})

    assert doorbell.attach(database, settings) is None
    assert database.listeners == []
    database.dispose()


def test_attached_bells_hear_of_each_commit(sqlite_url: str) -> None:
    database = Database.open(sqlite_url)
    bells = doorbell.attach(database, Settings.load(database_url=sqlite_url, redis_url="memory://"))
    assert bells is not None
    taken("memory://")

    with database.transaction() as tx:
        note_bell(tx, ORCHESTRATOR_QUEUE, "a")

    wait_until(lambda: waiting("memory://") == 1, what="the doorbell")
    bells.close()
    taken("memory://")
    database.dispose()
