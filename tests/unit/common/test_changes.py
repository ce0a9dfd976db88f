"""Changes: who waits for an instance is woken when it changed; without a broker nothing is told and nothing breaks."""

import time

from common.queues.changes import Changes
from tests.support.slowdown import assert_within
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

NOWHERE = "redis://127.0.0.1:1/0"


def told_until_heard(worker: Changes, ids: list[str], changed: object) -> None:
    """The listener subscribes in its own time: tell until it hears."""
    wait_until(lambda: (worker.publish(ids), changed.wait(0.05))[1], what="the change to be heard")  # type: ignore[attr-defined]


def test_who_waits_for_an_instance_hears_of_it(valkey_url: str) -> None:
    api, worker = Changes.open(valkey_url), Changes.open(valkey_url)
    with api.subscribe("i-1") as changed, api.subscribe("i-2") as other:
        told_until_heard(worker, ["i-1", "i-9"], changed)
        assert not other.is_set(), "and of no other"

        changed.clear()
        worker.publish(["i-1"])
        assert changed.wait(5)
    api.close()
    worker.close()


def test_two_who_wait_for_one_instance_both_hear(valkey_url: str) -> None:
    api, worker = Changes.open(valkey_url), Changes.open(valkey_url)
    with api.subscribe("i-1") as first, api.subscribe("i-1") as second:
        told_until_heard(worker, ["i-1"], first)
        assert second.wait(5)
    assert api._waiting == {}, "nobody is left behind"
    api.close()
    worker.close()


def test_without_a_broker_nobody_waits_and_nothing_is_raised() -> None:
    for url in (NOWHERE, "amqp://127.0.0.1:1//", ""):
        changes = Changes.open(url)
        began = time.monotonic()
        with changes.subscribe("i-1") as changed:
            for _ in range(200):
                changes.publish(["i-1"])
            assert not changed.is_set()
        assert_within(time.monotonic() - began, 1)
        changes.close()


def test_a_broker_that_comes_back_is_used_again(valkey: ValkeyServer) -> None:
    api, worker = Changes.open(valkey.url), Changes.open(valkey.url)
    with api.subscribe("i-1") as changed:
        told_until_heard(worker, ["i-1"], changed)
        valkey.kill()
        worker.publish(["i-1"])
        valkey.start()
        changed.clear()
        told_until_heard(worker, ["i-1"], changed)
    api.close()
    worker.close()


def test_what_waits_to_be_told_is_told_before_the_end(valkey_url: str) -> None:
    api, worker = Changes.open(valkey_url), Changes.open(valkey_url)
    with api.subscribe("i-1") as changed, api.subscribe("i-2") as last:
        told_until_heard(worker, ["i-1"], changed)
        worker.publish(["i-2"])
        worker.close()
        assert last.wait(5)
    api.close()
