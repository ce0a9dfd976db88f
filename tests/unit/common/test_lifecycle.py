"""The two lifecycles, exhaustively: each pair of verb and status is allowed or refused, by table and machine alike."""

from itertools import product

import pytest

from common.lifecycle import (
    ACTIVE,
    ENDED,
    FINAL,
    FROZEN,
    INSTANCE_MACHINE,
    INSTANCE_MOVES,
    LIVE,
    OPEN,
    TASK_MACHINE,
    TASK_MOVES,
    InstanceStatus,
    TaskStatus,
    instance_can,
    is_legal,
    mermaid,
    sources,
)

S, T = InstanceStatus, TaskStatus
EVERY = set(S)

# Written out once more, from the specification: pause from pending, running, waiting; resume from paused; retry from
# failed; cancel from every live status and from failed; note always; events to all that are not finished.
INSTANCE_VERBS = {
    "run": {S.PENDING, S.RUNNING, S.WAITING},
    "wait": {S.PENDING, S.RUNNING, S.WAITING},
    "complete": {S.PENDING, S.RUNNING, S.WAITING},
    "fail": {S.PENDING, S.RUNNING, S.WAITING, S.COMPENSATING},
    "pause": {S.PENDING, S.RUNNING, S.WAITING},
    "resume": {S.PAUSED},
    "retry": {S.FAILED},
    "compensate": {S.PENDING, S.RUNNING, S.WAITING, S.PAUSED, S.FAILED},
    "cancel": EVERY - {S.COMPLETED, S.CANCELLED, S.TIMED_OUT},
    "time_out": EVERY - {S.COMPLETED, S.CANCELLED, S.TIMED_OUT},
    "restart": {S.RUNNING, S.WAITING, S.PAUSED, S.FAILED},
    "step": {S.PAUSED},
    "send": EVERY - {S.COMPLETED, S.CANCELLED, S.TIMED_OUT},
    "note": EVERY,
    "erase": {S.COMPLETED, S.CANCELLED, S.TIMED_OUT},
}
TASK_VERBS = {
    "claim": {T.PENDING},
    "succeed": {T.RUNNING},
    "fail": {T.RUNNING},
    "release": {T.RUNNING},
    "time_out": {T.PENDING, T.RUNNING},
    "retry": {T.FAILED},
    "cancel": {T.PENDING, T.RUNNING},
    "skip": {T.PENDING, T.FAILED},
}


def test_the_tables_have_exactly_the_verbs_of_the_specification() -> None:
    assert {move.verb for move in INSTANCE_MOVES} == set(INSTANCE_VERBS)
    assert {move.verb for move in TASK_MOVES} == set(TASK_VERBS)


@pytest.mark.parametrize(("verb", "status"), list(product(INSTANCE_VERBS, S)))
def test_each_verb_and_status_of_an_instance(verb: str, status: InstanceStatus) -> None:
    legal = status in INSTANCE_VERBS[verb]

    assert instance_can(verb, status) is legal
    assert (status in sources(INSTANCE_MOVES, verb)) is legal
    assert bool(INSTANCE_MACHINE.get_transitions(trigger=verb, source=status)) is legal


@pytest.mark.parametrize(("verb", "status"), list(product(TASK_VERBS, T)))
def test_each_verb_and_status_of_a_task(verb: str, status: TaskStatus) -> None:
    legal = status in TASK_VERBS[verb]

    assert is_legal(TASK_MACHINE, verb, status) is legal
    assert (status in sources(TASK_MOVES, verb)) is legal


def test_the_machines_lead_where_the_tables_say() -> None:
    for machine, moves in ((INSTANCE_MACHINE, INSTANCE_MOVES), (TASK_MACHINE, TASK_MOVES)):
        drawn = {
            (move.verb, source.name, move.target.name if move.target else None)
            for move in moves
            for source in move.sources
        }
        made = {
            (verb, transition.source, transition.dest)
            for verb in {move.verb for move in moves}
            for transition in machine.get_transitions(trigger=verb)
        }
        assert made == drawn


def test_an_unknown_verb_is_an_error_and_not_nowhere() -> None:
    with pytest.raises(KeyError):
        sources(INSTANCE_MOVES, "puase")


def test_every_status_is_in_exactly_one_group() -> None:
    assert set(ACTIVE) < set(LIVE)
    assert set(LIVE) | set(FINAL) | {S.FAILED} == EVERY
    assert not set(LIVE) & set(FINAL)
    assert set(FROZEN) == {S.PAUSED, S.FAILED}
    assert set(OPEN) | set(ENDED) == set(T)
    assert not set(OPEN) & set(ENDED)


def test_nothing_leaves_a_final_status_and_everything_else_can_end() -> None:
    for final in FINAL:
        assert all(move.target is None for move in INSTANCE_MOVES if final in move.sources)
    for status in EVERY - set(FINAL):
        assert instance_can("cancel", status)
    for ended in set(ENDED) - {T.FAILED}:
        assert all(ended not in move.sources for move in TASK_MOVES)


def test_the_diagram_draws_each_move_once_and_no_verb_that_keeps_the_status() -> None:
    drawn = mermaid(InstanceStatus, INSTANCE_MOVES)

    assert drawn.startswith("stateDiagram-v2\n    [*] --> pending\n")
    for line in (
        "paused --> running: resume / restart",
        "failed --> cancelled: cancel",
        "completed --> [*]",
        "timed_out --> [*]",
    ):
        assert f"    {line}\n" in drawn
    assert "note" not in drawn
    assert "pending --> pending" not in drawn
    assert len(drawn.splitlines()) == len(set(drawn.splitlines()))
