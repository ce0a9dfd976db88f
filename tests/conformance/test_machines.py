"""Hand-written machines, one for each rule that has a name, with the answers of the real XState."""

from __future__ import annotations

import pytest

from tests.conformance import recorded
from tests.conformance.compare import compare, kernel_answer

MACHINES = [machine for path in recorded.machine_files() for machine in recorded.read_machines(path)]


@pytest.mark.parametrize("machine", [pytest.param(machine, id=machine["id"]) for machine in MACHINES])
def test_the_kernel_answers_as_xstate_did(machine):
    verdict = compare(machine, recorded.recorded_answer(machine), kernel_answer(machine))

    assert verdict.agrees, verdict.what
    assert verdict.known is None


def test_every_machine_has_a_name_of_its_own_and_an_answer_to_each_event():
    assert len({machine["id"] for machine in MACHINES}) == len(MACHINES) >= 150
    for machine in MACHINES:
        assert len(machine["snapshots"]) == len(machine["events"]) + 1
