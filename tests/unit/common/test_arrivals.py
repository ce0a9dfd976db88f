"""Arrivals: said while somebody listens, and next to nothing while nobody does."""

from collections.abc import Iterator

import pytest
import redis

from common.db import ARRIVALS
from common.ids import TenantId
from common.queues import arrivals
from common.queues.arrivals import NAMED_MAX, Announcer, Arrivals
from common.queues.calls import Caller
from tests.support.waiting import wait_until


def listeners(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        [(_, count)] = client.pubsub_numsub(f"signalbox:call:{ARRIVALS}")
        return int(count)


@pytest.fixture
def caller(valkey_url: str) -> Iterator[Caller]:
    caller = Caller.open(valkey_url)
    caller.call("nobody")  # who has called once keeps a connection
    yield caller
    caller.close()


@pytest.fixture
def heard() -> list[TenantId]:
    return []


@pytest.fixture
def ear(valkey_url: str, heard: list[TenantId]) -> Iterator[Arrivals]:
    ear = Arrivals(valkey_url, heard.extend)
    yield ear
    ear.listen(False)
    wait_until(
        lambda: listeners(valkey_url) == 0, what="it to be gone, or the next test takes it for its own"
    )


def said(url: str) -> int:
    """How often anything was published to anybody."""
    with redis.Redis.from_url(url) as client:
        return int(client.info("commandstats").get("cmdstat_publish", {}).get("calls", 0))


def test_who_listens_hears_who_has_arrived(
    valkey_url: str, caller: Caller, ear: Arrivals, heard: list[TenantId], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "ASK_SECONDS", 0.0)
    announcer = Announcer(caller)
    ear.listen(True)
    ear.listen(True)  # again makes no second one
    wait_until(lambda: listeners(valkey_url) == 1, what="somebody to listen")

    announcer.announce(["a", "b"])
    announcer.announce([str(number) for number in range(NAMED_MAX + 1)])

    wait_until(lambda: len(heard) == 2 + NAMED_MAX, what="both calls")
    assert set(heard) == {"a", "b", *map(str, range(NAMED_MAX))}
    ear.listen(False)
    wait_until(lambda: listeners(valkey_url) == 0, what="nobody to listen")


def test_while_nobody_listens_it_is_tried_once_in_a_while(
    valkey_url: str, caller: Caller, ear: Arrivals, heard: list[TenantId], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "ASK_SECONDS", 600.0)
    before = said(valkey_url)
    announcer = Announcer(caller)
    for number in range(10):
        announcer.announce([f"{number}"])
    wait_until(lambda: said(valkey_url) > before, what="the one call")
    assert said(valkey_url) == before + 1

    ear.listen(True)
    wait_until(lambda: listeners(valkey_url) == 1, what="somebody to listen")
    monkeypatch.setattr(arrivals, "ASK_SECONDS", 0.0)
    announcer.announce(["a"])

    wait_until(lambda: heard == ["a"], what="the call")


def test_who_arrives_again_at_once_is_not_named_again(
    valkey_url: str, caller: Caller, ear: Arrivals, heard: list[TenantId], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "ASK_SECONDS", 0.0)
    monkeypatch.setattr(arrivals, "AGAIN_SECONDS", 600.0)
    announcer = Announcer(caller)
    ear.listen(True)
    wait_until(lambda: listeners(valkey_url) == 1, what="somebody to listen")

    before = said(valkey_url)
    for tenant in ("a", "a", "b"):
        announcer.announce([tenant])

    wait_until(lambda: "b" in heard, what="the last call")
    assert said(valkey_url) == before + 2


def test_what_is_no_list_of_tenants_hurts_nobody(
    valkey_url: str, caller: Caller, ear: Arrivals, heard: list[TenantId]
) -> None:
    ear.listen(True)
    wait_until(lambda: listeners(valkey_url) == 1, what="somebody to listen")

    for hints in (b"", b",,", b"\xff\xfe", b"a"):
        caller.call(ARRIVALS, hints)

    wait_until(lambda: "a" in heard, what="the last call")
