"""The built-in workflow of `signalbox bench`."""

import pytest

import statechart
from signalbox.bench import steps_chart


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_the_built_in_workflow_asks_for_its_tasks_one_after_the_other(steps: int) -> None:
    events = [{"type": f"DONE_{number}"} for number in range(1, steps + 1)]

    snapshots = statechart.simulate(steps_chart(steps), events)

    assert [one["configuration"] for one in snapshots] == [
        *([f"step{number}"] for number in range(1, steps + 1)),
        ["done"],
    ]
    assert snapshots[-1]["status"] == "done"


def test_the_built_in_workflow_has_no_problems() -> None:
    assert statechart.check(steps_chart(3)) == []
