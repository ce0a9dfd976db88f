"""The decided steps of `python -m benchmarks.kernel` are those of a whole workflow: measured is what ends it."""

from collections.abc import Callable

import pytest

from benchmarks.kernel import (
    COMPILED,
    FOR_EVER,
    LIMITS,
    NO_CONFIG,
    NOW,
    light_workflow,
    ordinary_workflow,
    pending,
    require_completed,
    start_row,
)
from orchestrator.stepped import step_instance


@pytest.mark.parametrize("workflow", [light_workflow, ordinary_workflow])
def test_what_is_measured_runs_to_its_end_each_time(workflow: Callable[[], Callable[[], None]]) -> None:
    run = workflow()

    for _ in range(2):
        run()  # raises where the workflow is not completed after four steps


def test_what_has_not_ended_is_not_measured() -> None:
    held = pending()
    begun = step_instance(LIMITS, held, [start_row(held)], COMPILED, NOW, FOR_EVER, NO_CONFIG)

    with pytest.raises(ValueError, match="expected completed after 4 steps"):
        require_completed(begun)
