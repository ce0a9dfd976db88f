"""The comparison's arithmetic: medians over rounds, the table, what is told as missing."""

from __future__ import annotations

from benchmarks.peers.port import count_lines
from benchmarks.peers.report import Found, as_json, as_table


def test_the_median_of_the_rounds_is_told_and_every_round_is_kept():
    found = Found("Ours", is_durable=True, lines=12)
    for figure in (100.0, 900.0, 200.0):
        found.add("live", figure)

    told = as_json({"cores": 2}, 3, {"workflows": 10}, {"ours": found})["systems"]["ours"]

    assert told["medians"] == {"live": 200.0}
    assert told["rounds"] == {"live": [100.0, 900.0, 200.0]}


def test_percentiles_are_taken_within_a_round_and_medians_over_rounds():
    found = Found("Ours", is_durable=True, lines=12)
    for slowest in (10.0, 30.0, 20.0):
        found.add_latencies([1.0, 2.0, 3.0, slowest])

    assert found.medians() == {"p50": 2.0, "p95": 20.0, "p99": 20.0}


def test_what_is_missing_is_in_the_table_with_its_reason():
    found = Found("Other", is_durable=False, lines=7)
    found.missing["backlog"] = "starts run where they are made"

    table = as_table({"other": found})

    assert "missing: Other, backlog: starts run where they are made" in table
    assert "Other *" in table
    assert "* not durable" in table


def test_lines_of_code_leave_out_blanks_comments_and_docstrings():
    source = (
        '"""One.\n\nTwo.\n"""\n\n# why\nimport os\n\ndef step():\n    """Nothing."""\n    return os  // 1\n'
    )

    assert count_lines(source) == 3
