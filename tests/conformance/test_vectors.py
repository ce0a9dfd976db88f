"""The kernel against what the real XState answered to random charts. `make conformance` asks XState itself."""

from __future__ import annotations

import pytest

from statechart.compile import compile_document
from statechart.configuration import is_legal, with_ancestors
from tests.conformance import recorded
from tests.conformance.compare import Known, compare, kernel_answer
from tests.conformance.groups import GROUPS, groups_of

DIFFERENCES = "known-differences"


@pytest.mark.parametrize("group", GROUPS)
def test_the_kernel_answers_as_xstate_did(group):
    cases = recorded.read_vectors(recorded.VECTORS / f"{group}.jsonl.gz")

    verdicts = {
        case["id"]: compare(case, recorded.recorded_answer(case), kernel_answer(case)) for case in cases
    }

    assert len(cases) >= 40
    assert all(group in groups_of(case) for case in cases)
    assert {name: verdict.what for name, verdict in verdicts.items() if not verdict.agrees} == {}
    assert {verdict.known for verdict in verdicts.values()} == {None}


def test_where_xstate_leaves_no_legal_configuration_the_kernel_stays_in_one():
    cases = recorded.read_vectors(recorded.VECTORS / f"{DIFFERENCES}.jsonl.gz")

    for case in cases:
        ours = kernel_answer(case)
        verdict = compare(case, recorded.recorded_answer(case), ours)
        assert verdict.agrees, (case["id"], verdict.what)
        assert verdict.known in (Known.GAPS, Known.ILLEGAL)
        chart = compile_document(case["spec"])
        if any(node.type == "parallel" and not node.regions for node in chart.nodes):
            continue  # it is active without a leaf, and these answers show leaves
        for snapshot in ours["snapshots"]:
            leaves = [chart.by_path[path] for path in snapshot["configuration"]]
            assert is_legal(chart.root, with_ancestors(leaves)), case["id"]


def test_the_recorded_answers_stay_small():
    assert sum(path.stat().st_size for path in recorded.vector_files()) < 1_500_000
