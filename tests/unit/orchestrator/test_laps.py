"""How much of the inbox is read to choose a batch from, and when more is left than one process can do."""

import time

import pytest

from common.clock import utc_now
from common.ids import InstanceId, TenantId, new_id
from common.store.inbox import LONG_PAGE, SHORT_PAGE, Page, PageRoom, ReadyRow
from orchestrator.laps import BATCH, CROWD, SHARED_PAGE, Sweep

TENANT, OTHER = TenantId(new_id()), TenantId(new_id())
NOW = utc_now()


def rows(count: int, tenant: TenantId = TENANT, *, of: InstanceId | None = None) -> list[ReadyRow]:
    """Rows of so many instances, or so many rows of one."""
    return [ReadyRow(at, of or InstanceId(new_id()), tenant, NOW) for at in range(1, count + 1)]


def page(found: list[ReadyRow], room: PageRoom = SHORT_PAGE) -> Page:
    return Page(found, room.of_each(len({row.tenant_id for row in found})))


@pytest.mark.parametrize(("tenants", "each"), [(0, 300), (1, 300), (3, 100), (100, 10)])
def test_tenants_share_the_room_of_a_page_and_none_has_hardly_any(tenants: int, each: int) -> None:
    assert SHORT_PAGE.of_each(tenants) == each


def test_a_page_is_short_until_one_was_too_short_for_a_batch() -> None:
    sweep = Sweep()
    assert sweep.page_room == SHORT_PAGE

    giant = page(rows(SHORT_PAGE.together, of=InstanceId(new_id())))
    assert len(sweep.choose(giant).ids) == 1
    assert sweep.page_room == LONG_PAGE, "behind a giant's rows others may wait"

    assert len(sweep.choose(page(rows(LONG_PAGE.together), LONG_PAGE)).ids) == BATCH.alone
    assert sweep.page_room == SHORT_PAGE


def test_a_page_that_has_everything_was_long_enough() -> None:
    sweep = Sweep()

    sweep.choose(page(rows(BATCH.alone - 1)))

    assert sweep.page_room == SHORT_PAGE


def test_beside_a_flood_a_page_is_that_of_a_few() -> None:
    sweep = Sweep()

    sweep.choose(page([*rows(100), *rows(1, OTHER)]))

    assert sweep.is_shared
    assert sweep.page_room == SHARED_PAGE


@pytest.mark.parametrize(
    ("left", "is_crowd"), [(CROWD - 1, False), (CROWD, True), (SHORT_PAGE.together - BATCH.alone, True)]
)
def test_a_crowd_is_more_than_a_batch_and_half_another(left: int, is_crowd: bool) -> None:
    assert Sweep().choose(page(rows(BATCH.alone + left))).is_crowd is is_crowd


def test_who_had_their_turn_are_no_crowd() -> None:
    """The rows of a batch that is being saved stand in the inbox still."""
    sweep, found = Sweep(), rows(BATCH.alone + CROWD)
    first = sweep.choose(page(found))
    assert first.is_crowd
    sweep.note(first, found=True)

    assert not sweep.choose(page(found)).is_crowd


def test_a_giant_inbox_is_no_crowd() -> None:
    giant = InstanceId(new_id())

    assert not Sweep().choose(page([*rows(BATCH.alone), *rows(150, of=giant)])).is_crowd


def test_beside_somebody_quiet_there_is_no_crowd() -> None:
    """Whom others would relieve of a flood would be slowed down by them."""
    assert not Sweep().choose(page([*rows(100), *rows(1, OTHER)], LONG_PAGE)).is_crowd


def test_while_somebody_quiet_is_expected_there_is_no_crowd() -> None:
    sweep = Sweep()
    sweep.volumes.note({OTHER: 1})
    deadline = time.monotonic() + 10
    while not sweep.volumes.is_quiet_expected:
        assert time.monotonic() < deadline

    assert not sweep.choose(page(rows(250))).is_crowd


class Flood:
    """An inbox into which a batch comes with each one that is stepped, and a clock by which each takes a tenth of a second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sweep = Sweep()
        self.inbox: list[ReadyRow] = []
        self._last, self._now = 0, time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: self._now)

    def come(self, instance_id: InstanceId) -> None:
        self._last += 1
        self.inbox.append(ReadyRow(self._last, instance_id, TENANT, NOW))

    def batch(
        self, *, comes: int = BATCH.alone, are_free: bool = True, left: int = 0
    ) -> tuple[list[InstanceId], bool]:
        """Who is stepped of the next page, and whether another pass must follow. Nobody is, where others hold them; so many are `left`."""
        for _ in range(comes):
            self.come(InstanceId(new_id()))
        after, room = self.sweep.passed.get(TENANT, 0), self.sweep.page_room
        chosen = self.sweep.choose(page([row for row in self.inbox if row.id > after][: room.together], room))
        stepped = chosen.ids[: len(chosen.ids) - left]
        self._now += 0.1
        if are_free:
            self.inbox = [row for row in self.inbox if row.instance_id not in stepped]
        return stepped, self.sweep.note(
            chosen, found=are_free and bool(stepped), left=chosen.ids[len(stepped) :]
        )


@pytest.mark.parametrize("left", [0, 30])
def test_who_had_his_turn_does_not_wait_for_the_end_of_a_flood(
    monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    flood, again = Flood(monkeypatch), InstanceId(new_id())
    flood.come(again)
    for _ in range(5):
        flood.batch(comes=2 * BATCH.alone)
    flood.come(again)

    waited = next((at for at in range(500) if again in flood.batch(left=left)[0]), None)

    assert waited is not None, "a lap ends, although rows come as fast as they are stepped"
    assert waited < 50


def test_a_lap_in_which_nothing_was_to_be_had_is_gone_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others hold everybody: who stopped after each thousand would see nobody behind them."""
    flood = Flood(monkeypatch)
    seen, more = flood.batch(comes=50 * BATCH.alone, are_free=False)

    while more:
        ids, more = flood.batch(comes=0, are_free=False)
        seen += ids

    assert len(set(seen)) == len(seen) == 50 * BATCH.alone
