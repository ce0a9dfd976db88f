"""`signalbox bench` with few instances: it measures what it says, on a stack of its own, and leaves nothing behind."""

import json
import tempfile
from pathlib import Path

import pytest

from tests.support.forked import forked_command
from tests.support.processes import Child, Processes, plain_environment

BENCH_SECONDS = 90


def run_bench(processes: Processes, *options: str, env: dict[str, str] | None = None) -> Child:
    child = processes.start("bench", "signalbox", "bench", "--json", *options, env=env)
    child.wait(seconds=BENCH_SECONDS)
    return child


def report_in(log: str) -> dict[str, object]:
    """The JSON answer, which follows the lines of progress."""
    report: dict[str, object] = json.loads(log[log.index("\n{") :])
    return report


@pytest.mark.parametrize("where", [(), ("--postgres",)], ids=["embedded", "postgres"])
def test_three_ways_of_asking_are_measured(
    processes: Processes, tmp_path: Path, where: tuple[str, ...]
) -> None:
    bench = run_bench(
        processes, "--instances", "40", "--steps", "2", *where, env={"TMPDIR": tempfile.gettempdir()}
    )

    assert bench.exit_code == 0, bench.log()
    report = report_in(bench.log())
    assert report["workflow"] == {"definition": "bench-2-steps", "steps": 3, "handlers": "ordinary"}
    assert report["notices"] == []
    measurements = {one["mode"]: one for one in report["measurements"]}  # type: ignore[attr-defined]
    assert {mode: one["instances"] for mode, one in measurements.items()} == {
        "latency": 4,
        "live": 40,
        "backlog": 40,
    }
    for one in measurements.values():
        assert one["workflowsPerSecond"] > 0
        assert one["stepsPerSecond"] == pytest.approx(3 * one["workflowsPerSecond"], rel=0.01)
        assert 0 < one["latencyMs"]["p50"] <= one["latencyMs"]["p95"] <= one["latencyMs"]["p99"]
    assert not list(tmp_path.glob("**/*.db"))


def test_starts_may_come_over_http_handlers_be_light_and_workers_be_more(processes: Processes) -> None:
    bench = run_bench(
        processes,
        "--instances",
        "20",
        "--live",
        "--http",
        "--light",
        "--orchestrators",
        "2",
        "--task-runners",
        "2",
    )

    assert bench.exit_code == 0, bench.log()
    report = report_in(bench.log())
    (live,) = report["measurements"]  # type: ignore[misc]
    assert live["instances"] == 20
    assert (report["stack"]["orchestrators"], report["stack"]["taskRunners"]) == (2, 2)  # type: ignore[index]
    assert report["workflow"] == {"definition": "bench-3-steps", "steps": 4, "handlers": "light"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--environment",), "--environment measures on DATABASE_URL, and that is not set"),
        (("--environment", "--postgres"), "--postgres and --environment name two databases"),
        (("--light", "--definition", "nowhere.json"), "--light is about the tasks of the built-in workflow"),
        (("--definition", "nowhere.json"), 'cannot read "nowhere.json"'),
    ],
)
def test_what_cannot_be_measured_is_a_usage_error(
    tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    """In a process that has its libraries already: nothing is started before this is said."""
    arguments = ("bench", "--json", *options)
    environment = plain_environment(tmp_path, {})

    bench = forked_command(arguments, env=environment, folder=tmp_path, stdin="", seconds=BENCH_SECONDS)

    assert bench.returncode == 2
    assert said in json.loads(bench.stdout)["error"]["message"]
