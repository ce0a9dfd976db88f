"""The simulation of `python -m benchmarks.scale`: what it says of rates that are known without it."""

import pytest

from benchmarks.scale import HOPS, Demands, Site, limits, simulate

DEMANDS = Demands(orchestrator=0.001, task_runner=0.0005, postgres=0.001, flush=0.0001, contention=0.0)
SITE = Site(orchestrators=1, task_runners=1, cores=4)


def test_the_limit_is_the_part_that_is_asked_for_all_it_has_first() -> None:
    assert limits(DEMANDS, SITE) == {"orchestrators": 1_000, "task runners": 2_000, "database's cores": 4_000}
    twice = Site(orchestrators=2, task_runners=2, cores=4)
    assert limits(DEMANDS, twice)["orchestrators"] == 2_000


def test_contention_costs_each_workflow_something_for_each_further_worker() -> None:
    contended = Demands(0.001, 0.0005, 0.001, 0.0001, contention=0.1)

    assert limits(contended, SITE) == limits(DEMANDS, SITE), "one worker meets nobody"
    assert limits(contended, Site(11, 11, 4))["orchestrators"] == 11_000 // 2


def test_parts_are_as_busy_as_the_rate_asks() -> None:
    found = simulate(DEMANDS, SITE, 500)

    assert found["sustained"]
    assert found["orchestrators busy, %"] == pytest.approx(50, abs=4)
    assert found["task runners busy, %"] == pytest.approx(25, abs=3)
    assert found["database's cores busy, %"] == pytest.approx(12, abs=2)


def test_a_rate_beyond_the_limit_is_not_sustained() -> None:
    assert not simulate(DEMANDS, SITE, 1_300)["sustained"]
    assert simulate(DEMANDS, Site(2, 2, 4), 1_300)["sustained"], "twice the workers"


def test_flushes_cost_latency_and_no_rate_because_those_who_wait_share_them() -> None:
    slow = Demands(0.001, 0.0005, 0.001, flush=0.005, contention=0.0)

    found = simulate(slow, SITE, 500)

    assert found["sustained"]
    # One that has just begun is waited for, then one's own.
    assert found["ms p50"] > 5 * len(HOPS)
    assert found["ms p50"] < 5 * 2 * len(HOPS) + 20
    assert simulate(slow, SITE, 500) == found, "the same again: its randomness is seeded"
