"""How many workers a machine runs, what they are called, and which of them are in reserve."""

import pytest

from signalbox.parts import USUAL, Workers, is_reserve, worker_command


@pytest.mark.parametrize(
    ("cores", "is_shared", "orchestrators"), [(1, True, 1), (2, True, 2), (8, True, 2), (8, False, 1)]
)
def test_a_second_orchestrator_is_there_where_it_is_of_use(
    cores: int, is_shared: bool, orchestrators: int
) -> None:
    assert USUAL.on(cores=cores, is_shared=is_shared) == Workers(orchestrators, 1)


@pytest.mark.parametrize("orchestrators", [1, 3])
def test_what_was_asked_for_stays(orchestrators: int) -> None:
    asked = Workers(orchestrators, 4)

    assert asked.on(cores=1, is_shared=False) == asked.on(cores=8, is_shared=True) == asked


def test_the_first_of_each_duty_come_first_and_have_its_name() -> None:
    assert list(Workers(3, 2).parts()) == [
        ("orchestrator", "orchestrator"),
        ("task-runner", "task-runner"),
        ("orchestrator-2", "orchestrator"),
        ("orchestrator-3", "orchestrator"),
        ("task-runner-2", "task-runner"),
    ]


def test_all_orchestrators_but_the_first_are_in_reserve_and_no_task_runner_is() -> None:
    assert [name for name, _ in Workers(3, 3).parts() if is_reserve(name)] == [
        "orchestrator-2",
        "orchestrator-3",
    ]


def test_who_is_in_reserve_has_a_queue_of_its_own() -> None:
    def queue(*, in_reserve: bool) -> str:
        command = worker_command("orchestrator", in_reserve=in_reserve)
        return command[command.index("-Q") + 1]

    assert queue(in_reserve=False) == "workflow-orchestrator"
    assert queue(in_reserve=True) == "workflow-orchestrator-reserve"
