"""The floor writes what the engine wrote, in as many commits."""

import json

from benchmarks.floor import WAYS, Recorded

TASKS = [
    {"id": f"t{number}", "status": "succeeded", "output": "{}", "finished_at": "later", "input": "{}"}
    for number in (1, 2, 3)
]
ATTEMPTS = [
    {"task_id": f"t{number}", "token": f"k{number}", "outcome": "succeeded", "ended_at": "later"}
    for number in (1, 2, 3)
]
HISTORY = [{"sequence": number, "tx": number} for number in (1, 2, 3, 4)]
RECORDED = Recorded(
    {"id": "i", "tenant_id": "n", "status": "completed", "finished_at": "later"},
    {"tasks": TASKS, "attempts": ATTEMPTS, "history": HISTORY},
    ["i", "t1", "t2", "t3", "k1", "k2", "k3"],
)


def test_light_tasks_are_written_with_their_ends_in_one_commit() -> None:
    [phase] = RECORDED.phases("light")

    assert json.loads(phase.text()) == {
        "instances": [RECORDED.instance],
        "ends": [],
        "tasks": TASKS,
        "attempts": ATTEMPTS,
        "history": HISTORY,
    }


def test_an_ordinary_task_begins_in_the_commit_before_its_call_and_ends_in_the_one_after() -> None:
    phases = RECORDED.phases("ordinary")

    assert [phase.has_call for phase in phases] == [True, True, True, False]
    assert [[one["status"] for one in phase.made["tasks"]] for phase in phases] == [["running"]] * 3 + [[]]
    assert [[one["outcome"] for one in phase.made["attempts"]] for phase in phases] == [[None]] * 3 + [[]]
    assert [[one["id"] for one in phase.ends] for phase in phases] == [[], ["t1"], ["t2"], ["t3"]]
    assert [phase.instance["status"] for phase in phases] == ["running"] * 3 + ["completed"]


def test_either_way_writes_every_row_of_history_once() -> None:
    for way in WAYS:
        assert [one for phase in RECORDED.phases(way) for one in phase.made["history"]] == HISTORY
