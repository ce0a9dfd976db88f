"""A blow that is too slow for each short run of the chaos suite, dealt to a real site."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import chaos_kinds
from tests.support.chaos_blows import LONG, SHORT, EmbeddedDriver, tally
from tests.support.chaos_callers import Callers
from tests.support.chaos_site import Embedded
from tests.support.cluster import QUICK_LEASES
from tests.support.processes import Processes
from tests.support.slowdown import Slowdown
from tests.support.three_tasks import three_tasks
from tests.support.waiting import wait_until


@pytest.fixture
def site(processes: Processes) -> Iterator[Embedded]:
    with Embedded(processes, QUICK_LEASES, lease=2.0) as site:
        yield site


@pytest.fixture
def driver(site: Embedded) -> Iterator[EmbeddedDriver]:
    callers = Callers(site.url, site.key, [], seconds=1.0, callers=1, seed=1)
    with Slowdown() as slowdown:
        yield EmbeddedDriver(site, callers, chaos_kinds.Amounts(), slowdown, seconds=1.0, seed=1, pace=SHORT)


def pids(site: Embedded) -> dict[str, int | None]:
    found = {member: site.process(member) for member in site.roles}
    return {member: process and process.pid for member, process in found.items()}


def test_a_restart_of_up_is_dealt_and_got_over(site: Embedded, driver: EmbeddedDriver) -> None:
    key = site.cluster.engine.apply(three_tasks(ms=200))
    started = [site.cluster.engine.start(key) for _ in range(5)]
    before = pids(site)
    assert None not in before.values()

    assert driver.kinds["restart up"]()

    after = pids(site)
    assert not set(before.values()) & set(after.values())
    assert tally(driver.blows) == {"restarted up": 1}
    assert driver.blows[0].ended is not None
    driver.wait_for(
        lambda: site.cluster.statuses() == {"completed": len(started)}, what="the work to be done"
    )
    wait_until(lambda: (driver._look_after(), not driver._watches)[1], what="the blow to be judged")
    assert [(one.kind, one.left) for one in driver.recoveries] in ([], [("restarted up", "")])
    assert site.crashes() == [], "its end was in order"
    long = EmbeddedDriver(
        site, driver.callers, driver.target, driver.slowdown, seconds=240.0, seed=1, pace=LONG
    )
    assert "restart up" in long._deck, "the long form deals it before all others"
    assert long.certain.keys() <= long.kinds.keys()
    site.end()
