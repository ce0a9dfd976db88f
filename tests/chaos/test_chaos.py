"""Real processes hurt at random while callers start and speak to instances: each ends as its story says, nothing is lost or
doubled, nobody waits for nothing, and work goes on in time after each blow. Schedules fire meanwhile and instances expire.

`CHAOS_SEED` deals the same blows again (their moments depend on the machine as well), `CHAOS_SECONDS` says how long they fall
and `CHAOS_INSTANCES` how many instances are started meanwhile. Beyond 60 s it is the long form: leases of 8 s as by default,
long outages, and one worker whose host's clock is 10 minutes ahead. See docs/reliability.md.
"""

import os
import random
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import pytest

from tests.conftest import migrate
from tests.support import chaos_chart, chaos_keeping, chaos_kinds, chaos_saga, chaos_ticks
from tests.support.chaos_blows import (
    COOL_DOWN_SECONDS,
    LONG,
    SHORT,
    WAKE_SECONDS,
    Driver,
    EmbeddedDriver,
    Pace,
    ProductionDriver,
    tally,
)
from tests.support.chaos_callers import Callers, Operator, Story
from tests.support.chaos_judge import judge
from tests.support.chaos_recovery import slowest
from tests.support.chaos_report import Report
from tests.support.chaos_site import FAKETIME, Embedded, Production, Site
from tests.support.cluster import QUICK_LEASES
from tests.support.figures import Tell
from tests.support.http_server import Server, serving
from tests.support.ledger import Ledger
from tests.support.postgres import own_postgres_server
from tests.support.processes import Processes
from tests.support.slowdown import Slowdown
from tests.support.valkey import ValkeyServer
from tests.support.waiting import crowd

SEED = int(os.environ.get("CHAOS_SEED") or secrets.randbelow(1_000_000))
SECONDS = float(os.environ.get("CHAOS_SECONDS") or 12)
INSTANCES = int(os.environ.get("CHAOS_INSTANCES") or 130)
IS_LONG = SECONDS > 60
LEASE_SECONDS = 8.0 if IS_LONG else 2.0
SETTINGS: Mapping[str, str] = {
    "SIGNALBOX_HTTP_ALLOW": "127.0.0.0/8",
    "SIGNALBOX_BREAKER_COOL_DOWN_SECONDS": str(COOL_DOWN_SECONDS),
    "SIGNALBOX_RETENTION_LOOK_SECONDS": "0.5",
    **({} if IS_LONG else QUICK_LEASES),
}
PACE: Pace = LONG if IS_LONG else SHORT
CALLERS = 6
SPREAD = 0.85
"""The share of the time over which stories begin."""
SETTLE_SECONDS = 60.0
KINDS_SHARE = 4
"""One story in so many is told to the chart of all kinds of work, which takes longer."""
SAGA_SHARE = 5
"""One of the others in so many is told to the saga."""
GUESTS_SHARE = 8
"""For so many stories there is one instance that expires, or is cancelled or erased."""
REPORTS = Path(__file__).resolve().parents[2] / "build" / "chaos"

pytestmark = pytest.mark.timeout(SECONDS * 4 + 420)


def _key_of(number: int) -> str:
    if number % KINDS_SHARE == KINDS_SHARE - 1:
        return chaos_kinds.KEY
    return chaos_saga.KEY if number % SAGA_SHARE == 0 else chaos_chart.KEY


def run_chaos(name: str, site: Site, make_driver: type[Driver], tell: Tell) -> None:
    """Run a site through its blows, and judge what it made of them."""
    target = chaos_kinds.Amounts()
    with serving(target) as amounts, Slowdown() as slowdown:
        _run_chaos(name, site, make_driver, tell, amounts, target, slowdown)


def _run_chaos(
    name: str,
    site: Site,
    make_driver: type[Driver],
    tell: Tell,
    amounts: Server,
    target: chaos_kinds.Amounts,
    slowdown: Slowdown,
) -> None:
    tell(f"CHAOS_SEED={SEED} CHAOS_SECONDS={SECONDS:g} CHAOS_INSTANCES={INSTANCES}")
    began = time.monotonic()
    engine = site.cluster.engine
    engine.apply(chaos_chart.CHILD)
    engine.apply(chaos_chart.CHART)
    engine.apply(chaos_saga.SAGA)
    engine.apply(chaos_kinds.chart(amounts.url()))
    engine.apply(chaos_ticks.CHART)
    engine.apply(chaos_keeping.CHILD)
    engine.apply(chaos_keeping.CHART)
    chance = random.Random(SEED)
    stories = [Story.invent(number, chance, _key_of(number)) for number in range(INSTANCES)]
    callers = Callers(
        site.url, site.key, stories, seconds=SECONDS * SPREAD, callers=CALLERS, seed=chance.randrange(2**32)
    )
    driver = make_driver(site, callers, target, slowdown, seconds=SECONDS, seed=SEED, pace=PACE)
    host = chaos_keeping.Host(
        site.url, site.key, guests=INSTANCES // GUESTS_SHARE, seconds=SECONDS * SPREAD, seed=SEED
    )
    try:
        with Operator(site.url, site.key) as operator, chaos_kinds.Clerk(site.url, site.key) as clerk, host:
            tickers = chaos_ticks.create(host.caller)
            driver.run()
            driver.wait_for(lambda: host.is_done, what="every guest to be started and dealt with")
            lateness = WAKE_SECONDS * slowdown.worst() + chaos_ticks.LONGEST_JITTER_SECONDS
            chaos_ticks.pause(host.caller, tickers)
            driver.settle(seconds=SETTLE_SECONDS)
    finally:
        callers.close()
    site.end()
    judgement = judge(site.cluster, stories, Ledger(site.ledger))
    judgement.add_all(chaos_keeping.judge_keeping(site.cluster, host.guests))
    ticks = chaos_ticks.judge_ticks(site.cluster, lateness=timedelta(seconds=lateness))
    judgement.add_all(ticks.findings)
    report = Report(
        site=name,
        seed=SEED,
        seconds=time.monotonic() - began,
        lease=LEASE_SECONDS,
        blows=tally(driver.blows),
        counts={
            "stories": len(stories),
            **judgement.counts,
            **callers.counts.by_name(),
            "retried_by_operator": operator.retried,
            "completed_by_clerk": clerk.completed,
            "fired_by_schedules": ticks.number,
            "fired_latest_ms": ticks.latest // timedelta(milliseconds=1),
            **chaos_keeping.tally(site.cluster),
            "samples_of_stalled": driver.samples,
            **driver.counts(),
        },
        faults={
            "lost": judgement.number("lost"),
            "doubled": judgement.number("doubled"),
            "stuck": judgement.number("stuck") + len(driver.stalled),
            "wrong": judgement.number("wrong"),
        },
        recoveries=slowest(driver.recoveries),
        timeline=[
            {**asdict(one), "began": round(one.began - began, 3), "seconds": round(one.seconds, 3)}
            for one in driver.recoveries
        ],
        crowd=crowd(),
        slowdown=slowdown.worst(),
    )
    tell(report.table())
    tell(f"written to {report.write(REPORTS)}")

    judgement.assert_clean()
    assert not clerk.refused, f"{len(clerk.refused)} completions were refused, first: {clerk.refused[0]}"
    assert not driver.stalled, f"nothing would ever have woken these: {sorted(driver.stalled)}"
    assert not site.crashes(), site.crashes()
    late = [recovery for recovery in driver.recoveries if not recovery.is_in_time]
    assert not late, "\n".join(["recovered too late:", *map(str, late)])
    # The run was what it is meant to be: one in which nothing happened proves nothing.
    fell = tally(driver.blows)
    assert len(driver.blows) >= (SECONDS / 8 / crowd() if IS_LONG else 1)
    assert len(driver.recoveries) >= (len(driver.blows) / 3 if IS_LONG else 1)
    assert driver.samples >= SECONDS / 3 / crowd()
    assert set(driver.certain.values()) <= fell.keys()
    assert judgement.counts["leased_by_their_step"] > 0, "tasks were claimed only, and none handed over"
    if IS_LONG:
        assert len(fell) >= len(driver.kinds) / 2, f"too few kinds of blows: {fell}"


def test_chaos_on_postgresql(processes: Processes, valkey: ValkeyServer, tell: Tell) -> None:
    if IS_LONG:
        assert FAKETIME.exists(), (
            f"the long form runs a worker whose clock is ahead, and {FAKETIME} is missing; "
            "get it with: apt-get install -y faketime"
        )
    with own_postgres_server() as server:
        url = server.url(server.create_database())
        migrate(url)
        assert server.own is not None
        with Production(
            processes, server.own, url, valkey, SETTINGS, lease=LEASE_SECONDS,
            fast="orchestrator-2" if IS_LONG else None,
        ) as site:  # fmt: skip
            run_chaos("postgresql", site, ProductionDriver, tell)


def test_chaos_embedded(processes: Processes, tell: Tell) -> None:
    with Embedded(processes, SETTINGS, lease=LEASE_SECONDS) as site:
        run_chaos("embedded", site, EmbeddedDriver, tell)
