"""How many slots a tenant may hold beside others."""

import pytest

from common.courtesy import FLOOD
from common.ids import TenantId
from task_runner.shares import Shares
from tests.support.waiting import wait_until

A, B = TenantId("a"), TenantId("b")


@pytest.mark.parametrize(("slots", "most"), [(1, 1), (2, 1), (8, 7), (32, 28), (100, 88)])
def test_an_eighth_of_the_slots_is_kept_but_never_all(slots: int, most: int) -> None:
    assert Shares(slots).most == most


def test_who_is_alone_shares_with_nobody() -> None:
    shares = Shares(8)
    shares.note({A: 1})

    assert not shares.are_several
    shares.note({B: 1})
    assert shares.are_several


def test_somebody_quiet_is_protected_of_a_flood_and_of_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("task_runner.shares.JUDGED_SECONDS", -1.0)
    shares = Shares(8)
    shares.note({A: 1, B: 1})
    assert not shares.protect(), "two that are quiet"

    shares.note({A: 2 * int(FLOOD)})
    assert shares.protect()
    assert not shares.protect(within=-1.0), "he was not here of late"

    shares.note({B: 2 * int(FLOOD)})
    assert not shares.protect(), "two that flood"


def test_nobody_comes_to_hold_more_than_his_share() -> None:
    shares = Shares(8)

    assert shares.room(8, {}) == (7, [])
    assert shares.room(4, {A: 4}) == (3, [])
    assert shares.room(1, {A: 7}) == (1, [A])
    assert shares.room(6, {A: 1, B: 1}) == (6, [])


def test_it_is_judged_anew_when_somebody_new_comes_and_once_in_a_while() -> None:
    shares = Shares(8)
    shares.note({A: 2 * int(FLOOD)})
    assert not shares.protect()

    shares.note({B: 1})
    assert shares.protect()
    shares.note({B: 2 * int(FLOOD)})
    assert shares.protect(), "as it was judged a moment ago"
    wait_until(lambda: not shares.protect(), what="it to be judged anew")


def test_who_is_quiet_is_protected_from_his_arrival_on() -> None:
    shares = Shares(8)
    shares.note({A: 2 * int(FLOOD)})
    assert not shares.note_arrivals([A]), "a flood is no news"
    assert not shares.protect()

    assert shares.note_arrivals([A, B])

    assert shares.protect(), "none of his tasks is here yet"
