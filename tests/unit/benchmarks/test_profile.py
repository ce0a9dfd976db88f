"""What `python -m benchmarks.profile` reads out of a server's log and of py-spy's stacks."""

import pytest

from benchmarks.profile import MARK, read_log, shares
from common.store import coming_tasks


def test_statements_are_named_as_in_the_store_and_by_their_words_otherwise() -> None:
    known = coming_tasks._COMING["postgresql"].text("postgresql").replace("\n", "\n\t")
    log = (
        f"{MARK}|LOG:  database system is ready\n"
        f"{MARK}signalbox-task-runner|LOG:  duration: 0.100 ms  parse _pg3_1: {known}\n"
        f"{MARK}signalbox-task-runner|LOG:  duration: 0.250 ms  bind _pg3_1: {known}\n"
        f"{MARK}signalbox-task-runner|LOG:  duration: 1.500 ms  execute _pg3_1: {known}\n"
        f"{MARK}signalbox-orchestrator|LOG:  duration: 2.000 ms  statement: COMMIT\n"
        f"{MARK}signalbox-orchestrator|LOG:  duration: 4.000 ms  statement: COMMIT\n"
        f"{MARK}signalbox-bench|LOG:  duration: 1.000 ms  execute <unnamed>: INSERT INTO inbox (id) SELECT 1 FROM instances\n"
    )

    found = read_log(log)

    assert {name: (one.count, one.ms) for name, one in found.items()} == {
        "task-runner: coming_tasks.coming": (1, pytest.approx(1.85)),
        "orchestrator: COMMIT": (2, 6.0),
        "bench: INSERT INTO inbox, FROM instances": (1, 1.0),
    }


def test_samples_are_shared_out_by_the_innermost_room_and_function() -> None:
    raw = [
        "<module> (celery/__main__.py:9);advance (orchestrator/advance.py:10);step (statechart/step.py:5) 3",
        "<module> (celery/__main__.py:9);advance (orchestrator/advance.py:11);loads (json/decoder.py:7) 1",
        "",
    ]

    assert shares(raw, "orchestrator") == {
        "orchestrator, by room": {"statechart": 75.0, "orchestrator": 25.0},
        "orchestrator, by function": {"step (statechart/step.py)": 75.0, "loads (json/decoder.py)": 25.0},
    }
