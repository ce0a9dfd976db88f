"""The benchmarks of growth, idling, payloads, tenants and crashes in small: they fill, measure and tell what they say they do."""

import re

import pytest

from benchmarks import crash, floor, growth, http, idle, payloads, profile, scale, tenants


def test_growth_compares_sizes_that_are_there() -> None:
    few = growth.Amounts(live=20, alone=2, timed=3, timed_a_second=10.0, events=12)

    report = growth.measure([20, 60], 1, is_embedded=False, amounts=few)

    small, large = report["medians"]
    # The first instance is copied `waiting` times, all wait for their timers; nine of ten entries are events.
    assert (small["waiting"], small["timers armed"]) == (20, 21)
    assert (large["waiting"], large["timers armed"]) == (60, 61)
    assert large["rows of history"] - small["rows of history"] == 40 * growth.HISTORY
    for figure in (
        "workflow, CPU ms",
        "event to one that waits, CPU ms",
        "alone, ms p50",
        "timer late, ms p50",
    ):
        assert small[figure] > 0
        assert large[figure] > 0
    assert "workflow, CPU ms of postgres" in small
    first, second = report["ratios"]
    assert first["workflow, CPU ms"] == 1.0
    assert second["workflow, CPU ms"] == pytest.approx(
        large["workflow, CPU ms"] / small["workflow, CPU ms"], abs=0.01
    )


def test_idle_counts_every_process_with_and_without_sleepers() -> None:
    report = idle.measure(50, 1.5, 0.5, is_postgres=False)

    empty, full = report["% of a core"]
    assert (empty["sleeping"], full["sleeping"]) == (0, 50)
    parts = {"broker", "api", "orchestrator", "task-runner"}
    assert set(empty) == set(full) == {"sleeping", "all", *parts}
    for row in (empty, full):
        assert row["all"] == pytest.approx(sum(row[part] for part in parts), abs=0.05)
        assert row["all"] < 100, "an idle stack is not busy"


def test_payloads_of_several_sizes_are_carried_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads, "MOST", 4)
    monkeypatch.setenv("SIGNALBOX_HANDLERS", "")  # is set by the benchmark, and given back by this

    report = payloads.measure([1, 200], 1, is_postgres=False)

    small, large = report["medians"]
    assert (small["payload KB"], large["payload KB"]) == (1, 200)
    assert large["stored KB"] > small["stored KB"] + 200
    assert small["CPU ms"] > 0


def test_many_tenants_are_measured_beside_one_with_as_many_workflows() -> None:
    report = tenants.measure(3, 2, 2, is_postgres=False)

    many, one = report["medians"]
    assert (many["tenants"], many["workflows of each"]) == (3, 2)
    assert (one["tenants"], one["workflows of each"]) == (1, 6)
    [ratios] = report["many to one"]
    # Six workflows may all end in one commit, and then there is no rate from the first end on.
    for figure in (
        "backlog with the workers' start, a second",
        "live, a second",
        "live, CPU ms of a workflow",
    ):
        assert many[figure] > 0
        assert one[figure] > 0
        assert ratios[figure] == pytest.approx(many[figure] / one[figure], rel=0.02, abs=0.02)


def test_a_crash_amid_a_backlog_is_measured_beside_a_backlog_without() -> None:
    report = crash.measure(600, 1, "orchestrator", is_postgres=False)

    killed, nobody = report["medians"]
    assert (killed["killed"], nobody["killed"]) == ("orchestrator", "nobody")
    for row in (killed, nobody):
        assert row["before, a second"] > 0
        assert row["after, a second"] > 0


def test_scale_measures_with_more_workers_and_simulates_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "SETTLE_SECONDS", 1.2)  # backends tell their statistics once a second

    report = scale.measure([1, 2], 1, 40, cores=4)

    one, two = report["measured"]
    assert (one["workers of each duty"], two["workers of each duty"]) == (1, 2)
    for figures in (one, two):
        assert figures["CPU ms"] > 0
        assert figures["WAL bytes"] > 1_000
        assert figures["transactions"] > 0
    assert report["demands"]["a flush, ms"] > 0
    assert [row["workers of each duty"] for row in report["limits"]] == [1, 2, 4, 8, 16]
    slow, _faster, too_fast = report["simulated"][:3]
    assert slow["sustained"]
    assert too_fast["workflows a second"] > slow["workflows a second"]


def test_workflows_are_followed_from_http_to_their_end() -> None:
    report = http.measure(20, 2, 1, is_postgres=False, has_workers=True)

    phases = report["phases"]
    for name in ("start", "start, workers run", "start, to the end", "start, waited for by 2"):
        assert phases[name]["perSecond"] > 0
    alone = phases["start, waited for by 1"]
    assert 0 < alone["p50Ms"] <= alone["p99Ms"]


def test_the_profile_times_the_statements_of_every_process() -> None:
    """Without py-spy, which would be fetched from PyPI; what it tells is read in tests/unit/benchmarks."""
    report = profile.measure(30, 0)

    statements = report["statements"]
    assert 0.9 <= statements["bench: COMMIT"]["executions"] <= 1.5, "each start commits by itself"
    for process in ("bench", "orchestrator", "task-runner"):
        assert any(name.startswith(f"{process}: ") for name in statements)
    assert any(re.fullmatch(r"[\w-]+: \w+\.\w+", name) for name in statements), (
        "some are known by their names"
    )
    assert report["ms a workflow in PostgreSQL"] > 0


def test_the_floor_writes_whole_workflows_with_four_commits_each() -> None:
    report = floor.measure_floor(20, "ordinary")

    # It ends with a TimeoutError where a workflow is missing, and looks at the status of those that go alone.
    assert all(report[name] > 0 for name in ("one at a time, p50", "live", "backlog"))
