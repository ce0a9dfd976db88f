"""Offers of runners as orchestrators hear them: what is none is refused, the newest counts, and who is gone gets nothing."""

from datetime import timedelta
from typing import Any

import orjson
import pytest

from common.ids import TenantId, WorkerId, new_id
from common.queues import offers
from common.queues.offers import Offer, Offers, name_of

TENANT = TenantId(new_id())


def offer(worker: WorkerId, credit: int, **members: Any) -> Offer:
    told = {"lease": timedelta(seconds=8), "types": {"HTTP": None}, "functions": {"charge": 5}} | members
    return Offer(worker, credit=credit, **told)


def a_worker() -> WorkerId:
    return WorkerId(new_id())


def test_an_offer_is_read_as_it_was_told() -> None:
    told = offer(a_worker(), 7)

    assert Offer.read(told.to_bytes()) == told
    assert told.max_attempts("SYSTEM", "charge") == 5
    assert told.max_attempts("HTTP", "fetch") is None


@pytest.mark.parametrize(
    "change",
    [
        {"worker": "nobody"},
        {"worker": None},
        {"credit": -1},
        {"credit": 10**9},
        {"credit": 1.5},
        {"credit": True},
        {"leaseMs": 0},
        {"leaseMs": 10**12},
        {"types": 3},
        {"functions": {"charge": "many"}},
        {"functions": {"charge": 0}},
        {"notFor": 7},
    ],
    ids=str,
)
def test_what_is_no_offer_is_passed_over(change: dict[str, Any]) -> None:
    heard = Offers()
    said = orjson.loads(offer(a_worker(), 7).to_bytes()) | change

    heard.hear([orjson.dumps(said), b"", b"[]", b"nonsense", b"null", b" " * offers.LONGEST + b"{}"])

    assert not heard
    assert heard.take(TENANT, "HTTP", "") is None


def test_each_use_takes_one_of_who_would_take_most() -> None:
    heard, small, large = Offers(), a_worker(), a_worker()
    heard.hear([offer(small, 1).to_bytes(), offer(large, 3).to_bytes()])

    taken = [heard.take(TENANT, "SYSTEM", "charge") for _ in range(5)]

    assert sorted(one.worker for one in taken if one) == sorted([small] + [large] * 3)
    assert taken[-1] is None
    assert taken[0] is not None
    assert taken[0].worker == large


def test_only_what_is_named_is_taken() -> None:
    heard = Offers()
    heard.hear([offer(a_worker(), 7).to_bytes()])

    assert heard.take(TENANT, "SYSTEM", "refund") is None
    assert heard.take(TENANT, "SYSTEM", "HTTP") is None
    assert heard.take(TENANT, "EMAIL", "charge") is None
    assert heard.take(TENANT, "HTTP", "anything") is not None


def test_who_has_more_to_claim_is_passed_by() -> None:
    heard = Offers()
    heard.hear([offer(a_worker(), 7, not_for=frozenset([TENANT])).to_bytes()])

    assert heard.take(TENANT, "HTTP", "") is None
    assert heard.take(TenantId(new_id()), "HTTP", "") is not None


def test_the_newest_offer_of_a_worker_counts_and_none_takes_it_back() -> None:
    heard, worker = Offers(), a_worker()
    heard.hear([offer(worker, 7).to_bytes(), offer(worker, 1).to_bytes()])
    assert heard.take(TENANT, "HTTP", "") is not None
    assert heard.take(TENANT, "HTTP", "") is None

    heard.hear([offer(worker, 7).to_bytes(), offer(worker, 0).to_bytes()])
    assert heard.take(TENANT, "HTTP", "") is None


def test_who_did_not_hear_or_does_not_renew_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    heard, worker, other = Offers(), a_worker(), a_worker()
    heard.hear([offer(worker, 7).to_bytes(), offer(other, 1).to_bytes()])

    heard.forget(name_of(worker))
    taken = heard.take(TENANT, "HTTP", "")
    assert taken is not None
    assert taken.worker == other

    monkeypatch.setattr(offers, "KEPT_SECONDS", -1.0)
    heard.hear([offer(worker, 7).to_bytes()])
    assert heard.take(TENANT, "HTTP", "") is None


def test_an_offer_is_kept_no_longer_than_the_lease_that_it_brings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task whose lease its dead runner has lost would be leased to him again."""
    passed = 0.0
    monkeypatch.setattr(offers.time, "monotonic", lambda: passed)
    heard = Offers()
    heard.hear([offer(a_worker(), 7, lease=timedelta(seconds=2)).to_bytes()])

    passed = 1.9
    assert heard.take(TENANT, "HTTP", "") is not None
    passed = 2.1
    assert heard.take(TENANT, "HTTP", "") is None


def test_an_offer_of_nobody_that_is_known_is_passed_over_and_each_is_asked_about_once() -> None:
    runner, stranger = a_worker(), a_worker()
    asked: list[WorkerId] = []

    def is_runner(worker: WorkerId) -> bool:
        asked.append(worker)
        return worker == runner

    heard = Offers(is_runner)
    heard.hear([offer(stranger, 9).to_bytes(), offer(runner, 1).to_bytes(), offer(runner, 2).to_bytes()])

    taken = [heard.take(TENANT, "HTTP", "") for _ in range(3)]
    assert [one and one.worker for one in taken] == [runner, runner, None]
    assert asked == [stranger, runner]


def test_nothing_is_kept_of_runners_that_have_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What each said it takes was kept for as long as the orchestrator was there, where steps asked for light handlers alone."""
    heard = Offers()
    monkeypatch.setattr(offers, "KEPT_SECONDS", -1.0)
    for _ in range(2 * offers.KNOWN_MAX):
        heard.hear([offer(a_worker(), 7).to_bytes()])
    monkeypatch.undo()

    heard.hear([offer(a_worker(), 7).to_bytes()])

    assert len(heard._standing) == 1
    assert len(heard._known) <= offers.KNOWN_MAX
    assert heard.take(TENANT, "HTTP", "") is not None
