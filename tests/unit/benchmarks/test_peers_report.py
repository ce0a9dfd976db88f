"""The comparison's arithmetic: medians over rounds, the table, what is told as missing; and who cannot be measured here."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.peers import PORTS
from benchmarks.peers.__main__ import FULL, QUICK
from benchmarks.peers.port import count_lines
from benchmarks.peers.report import Found, as_json, as_table
from benchmarks.peers.servers import CONTRIB, contrib_programs


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


def test_the_table_says_who_had_fewer_workflows_than_the_others():
    found = {
        "ours": Found("Ours", is_durable=True, lines=12),
        "slow": Found("Slow", is_durable=True, lines=3),
    }
    found["ours"].counts = {"live": 1_000, "latencies": 100}
    found["slow"].counts = {"live": 20, "latencies": 10}

    table = as_table(found)

    assert "fewer: Slow: 20 workflows a round, and 10 one at a time" in table
    assert "fewer: Ours" not in table


def test_a_slow_system_gets_a_share_of_the_workflows_and_all_items():
    port = PORTS["prefect-serve"]

    assert FULL.of(port) == {"live": 20, "backlog": 20, "latencies": 10, "fan_out": 1_000}
    assert QUICK.of(port) == {"live": 5, "backlog": 5, "latencies": 5, "fan_out": 50}


def test_without_the_other_postgres_its_systems_are_told_how_to_get_it(tmp_path: Path):
    (tmp_path / "initdb").touch()

    with pytest.raises(OSError, match=r"has no postgres: apt-get install postgresql-15") as told:
        contrib_programs(tmp_path)
    (tmp_path / "postgres").touch()

    assert "\n" not in str(told.value)
    assert contrib_programs(tmp_path) == tmp_path


def test_only_who_needs_its_extensions_gets_the_other_postgres():
    needing = {port.name for port in PORTS.values() if CONTRIB in port.servers}

    assert needing == {"prefect", "prefect-serve", "prefect-tasks"}


def test_lines_of_code_leave_out_blanks_comments_and_docstrings():
    source = (
        '"""One.\n\nTwo.\n"""\n\n# why\nimport os\n\ndef step():\n    """Nothing."""\n    return os  // 1\n'
    )

    assert count_lines(source) == 3
