"""A flood rests while somebody else's work is on its way, and never for more than a quarter of the time."""

from types import SimpleNamespace

import pytest

from common import courtesy
from common.courtesy import (
    EXPECTED_MAX,
    FLOOD,
    LONGEST_SECONDS,
    QUIET,
    REMEMBERED_SECONDS,
    REST_SECONDS,
    SAVED_SECONDS,
    SHARE,
    STILL_FLOOD,
    Courtesy,
    Portions,
    Volumes,
    in_turn,
)
from common.ids import TenantId


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(courtesy, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def test_nobody_rests_without_a_reason(clock: Clock) -> None:
    flood = Courtesy()
    clock.now += 1

    assert flood.rest() == 0.0


def test_a_rest_ends_some_time_after_the_last_that_was_served(clock: Clock) -> None:
    flood = Courtesy()
    flood.note()
    assert flood.rest() == pytest.approx(REST_SECONDS)

    clock.now += REST_SECONDS / 2
    flood.note()
    assert flood.rest() == pytest.approx(REST_SECONDS)

    clock.now += REST_SECONDS
    assert flood.rest() == 0.0


@pytest.mark.parametrize(("hop", "rest"), [(0.004, REST_SECONDS), (0.015, 0.03), (0.05, LONGEST_SECONDS)])
def test_a_rest_is_longer_where_hops_take_longer(clock: Clock, hop: float, rest: float) -> None:
    flood = Courtesy()
    for _ in range(40):
        clock.now += hop
        flood.note()
        clock.now += 0.0001  # the same one, told by another way
        flood.note()
    assert flood.rest() == pytest.approx(rest, abs=0.001)


def test_what_comes_seldom_tells_nothing_of_hops(clock: Clock) -> None:
    flood = Courtesy()
    for _ in range(40):
        clock.now += 0.5
        flood.note()
    assert flood.rest() == pytest.approx(REST_SECONDS)


def test_who_is_never_done_takes_no_more_than_a_quarter(clock: Clock) -> None:
    flood = Courtesy()
    rested, began, step = 0.0, clock.now, 0.001
    while clock.now < began + 60:
        flood.note()
        rested += step if flood.rest() else 0.0
        clock.now += step

    most = SAVED_SECONDS + SHARE * 60
    assert 0.9 * most < rested <= most + step


def test_only_what_was_granted_counts_as_rested(clock: Clock) -> None:
    """After a rest there may be nothing of the flood, and nobody asks for a while."""
    flood = Courtesy()
    flood.note()
    assert flood.rest() > 0.0
    clock.now += 60

    flood.note()
    assert flood.rest() == pytest.approx(REST_SECONDS)


def test_what_was_not_rested_is_not_saved_up_for_ever(clock: Clock) -> None:
    flood = Courtesy()
    clock.now += 3_600
    rested, step = 0.0, 0.001
    for _ in range(5_000):
        flood.note()
        if not flood.rest():
            break
        clock.now += step
        rested += step

    assert rested == pytest.approx(SAVED_SECONDS / (1 - SHARE), abs=0.01)


def test_a_flood_is_told_by_its_rate_and_forgotten_with_it(clock: Clock) -> None:
    volumes, flooding, quiet = Volumes(), TenantId("flooding"), TenantId("quiet")
    for _ in range(300):
        clock.now += 0.01
        volumes.note({flooding: int(FLOOD / 100) + 1, quiet: 1})

    assert volumes.is_flood(flooding)
    assert not volumes.is_flood(quiet)

    clock.now += 5
    volumes.note({quiet: 1})
    assert not volumes.is_flood(flooding)


def test_a_flood_that_others_slow_down_goes_on_to_be_one(clock: Clock) -> None:
    volumes, flooding, throng = Volumes(), TenantId("flooding"), TenantId("throng")
    slowed = int(STILL_FLOOD * 1.2)
    volumes.note({flooding: int(FLOOD)})
    for _ in range(100):
        clock.now += 0.1
        volumes.note({flooding: slowed // 10, throng: slowed // 10})

    assert volumes.is_flood(flooding)
    assert not volumes.is_flood(throng), "as much of who never was one is none"

    clock.now += 0.5
    volumes.note({flooding: 1})
    assert not volumes.is_flood(flooding)


def test_steps_that_come_one_by_one_add_up(clock: Clock) -> None:
    volumes, tenant = Volumes(), TenantId("one-by-one")
    assert volumes.is_quiet(tenant)
    for _ in range(500):
        clock.now += 0.01
        volumes.note({tenant: 1})

    assert not volumes.is_quiet(tenant)
    assert not volumes.is_flood(tenant)


def test_somebody_quiet_beside_a_flood_is_no_throng(clock: Clock) -> None:
    flood, throng, quiet = (TenantId(one) for one in ("flood", "throng", "quiet"))
    volumes = Volumes()
    volumes.note({flood: int(FLOOD), throng: int(QUIET), quiet: 1})

    assert volumes.has_quiet_beside_flood([flood, quiet])
    assert not volumes.has_quiet_beside_flood([flood, throng])
    assert not volumes.has_quiet_beside_flood([throng, quiet])
    assert not volumes.has_quiet_beside_flood([flood])


def test_who_was_quiet_here_is_expected_back_for_some_minutes(clock: Clock) -> None:
    volumes, flooding, quiet = Volumes(), TenantId("flooding"), TenantId("quiet")
    portions = Portions(alone=100, expecting=30, beside=3)
    volumes.note({flooding: 1})
    volumes.note({flooding: int(FLOOD)})
    assert not volumes.is_quiet_expected, "a flood begins with one step, too"
    assert portions.now(volumes, is_beside=False) == 100

    volumes.note({quiet: 1})
    clock.now += REMEMBERED_SECONDS - 1
    volumes.note({flooding: int(FLOOD)})
    assert volumes.is_quiet_expected
    assert portions.now(volumes, is_beside=False) == 30
    assert portions.now(volumes, is_beside=True) == 3

    clock.now += 2
    volumes.note({flooding: int(FLOOD)})
    assert not volumes.is_quiet_expected


def test_who_came_to_have_much_done_is_not_expected_as_somebody_quiet(clock: Clock) -> None:
    volumes, flooding, other = Volumes(), TenantId("flooding"), TenantId("other")
    volumes.note({other: 1})
    volumes.note({other: int(QUIET), flooding: int(FLOOD)})

    assert not volumes.is_quiet_expected


def test_of_many_who_were_here_the_last_are_expected(clock: Clock) -> None:
    volumes = Volumes()
    for n in range(EXPECTED_MAX + 1):
        clock.now += 0.01
        volumes.note({TenantId(f"tenant-{n}"): 1})
    later = {TenantId(f"tenant-{n}"): int(QUIET) for n in range(1, EXPECTED_MAX + 1)}
    assert volumes.is_quiet_expected

    volumes.note(later)
    assert not volumes.is_quiet_expected, "the first, who alone is quiet still, is forgotten"


def test_everybody_s_first_comes_before_anybody_s_second() -> None:
    ones = ["a1", "a2", "a3", "b1", "c1", "b2"]

    assert in_turn(ones, lambda one: TenantId(one[0])) == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert in_turn([], TenantId) == []
