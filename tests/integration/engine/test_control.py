"""Pause, resume, step, restart and the end of an instance's time: what each does to tasks, timers and what waits."""

from datetime import timedelta
from typing import Any

import pytest

from common.commands.verify import verify_instance
from common.errors import Conflict, Invalid
from common.lifecycle import FINAL, InstanceStatus, instance_can
from common.task_error import TaskError
from orchestrator.sweep import expire_due_leases
from task_runner.call import ended
from tests.integration.engine.documents import (
    COUNTER,
    ON_SQLITE,
    Document,
    after,
    assign,
    one_task,
    waiting_with_task,
)
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock

S = InstanceStatus


def counting(engine: Engine) -> str:
    instance_id = engine.start(COUNTER)
    engine.settle()
    return instance_id


def do(engine: Engine, verb: str, instance_id: str, **more: Any) -> None:
    engine.control(verb, instance_id, **more)
    engine.settle()


def seen(engine: Engine, instance_id: str) -> list[int]:
    return list(engine.context(instance_id)["seen"])


# -- pause and resume ------------------------------------------------------------------------------------------------


def test_a_paused_instance_takes_nothing_and_a_resumed_one_all_of_it_in_order(engine: Engine) -> None:
    instance_id = counting(engine)
    do(engine, "pause", instance_id, reason="month end")
    for n in range(5):
        engine.send(instance_id, "ADD", n=n)
        engine.settle()

    assert engine.status(instance_id) is S.PAUSED
    assert seen(engine, instance_id) == []

    do(engine, "resume", instance_id)
    assert engine.status(instance_id) is S.WAITING
    assert seen(engine, instance_id) == [0, 1, 2, 3, 4]
    assert [entry for entry in engine.entries(instance_id) if entry["type"] == "instance.paused"] == [
        {"type": "instance.paused", "reason": "month end"}
    ]


def test_a_pause_overtakes_events_that_wait(engine: Engine) -> None:
    instance_id = counting(engine)
    engine.send(instance_id, "ADD", n=1)
    do(engine, "pause", instance_id)
    assert seen(engine, instance_id) == []


def test_a_running_task_finishes_its_result_waits_and_nothing_new_starts(engine: Engine) -> None:
    engine.handler("work", lambda _input: "done")
    instance_id = engine.start(one_task())
    other = engine.start(one_task())
    engine.advance()
    [claim] = engine.claim(limit=1)
    running, pending = (instance_id, other) if claim.instance_id == instance_id else (other, instance_id)
    for one in (running, pending):
        engine.control("pause", one)
    engine.advance()

    assert engine.claim() == []  # the other's task is held
    assert engine.report(engine.call(claim)).succeeded == 1
    engine.settle()
    assert engine.status(running) is S.PAUSED

    for one in (running, pending):
        engine.control("resume", one)
    engine.settle()
    assert engine.status(running) is S.COMPLETED
    assert engine.status(pending) is S.COMPLETED


def test_a_retry_that_falls_due_during_a_pause_waits_for_the_end_of_it(
    engine: Engine, clock: ManualClock
) -> None:
    tries = []

    def failing_once(_input: object) -> str:
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("not yet")
        return "done"

    engine.handler("work", failing_once)
    instance_id = engine.start(one_task(retry={"maxAttempts": 3, "interval": "10s", "jitter": 0}))
    engine.settle()
    do(engine, "pause", instance_id)
    clock.advance(timedelta(seconds=60))
    engine.settle()
    assert len(tries) == 1

    do(engine, "resume", instance_id)
    assert len(tries) == 2
    assert engine.status(instance_id) is S.COMPLETED


@pytest.mark.parametrize("end", ["fails", "is lost", "is given back"])
def test_what_ran_when_the_pause_came_is_not_tried_again_before_its_end(
    engine: Engine, clock: ManualClock, end: str
) -> None:
    engine.handler("work", lambda _input: "done")
    instance_id = engine.start(one_task(retry={"maxAttempts": 3, "interval": 0}))
    engine.advance()
    [claim] = engine.claim()
    engine.control("pause", instance_id)
    engine.advance()
    match end:
        case "fails":
            assert engine.report(ended(claim, error=TaskError("http.503", "away"))).retried == 1
        case "is given back":
            assert engine.report(ended(claim, released=True)).released == 1
        case _:
            clock.advance(timedelta(seconds=60))
            assert expire_due_leases(engine.database) == 1
    clock.advance(timedelta(seconds=60))
    assert engine.claim() == []

    do(engine, "resume", instance_id)
    assert engine.status(instance_id) is S.COMPLETED


def test_a_timer_that_falls_due_during_a_pause_fires_after_it(engine: Engine, clock: ManualClock) -> None:
    instance_id = engine.start(after("1h"))
    engine.settle()
    do(engine, "pause", instance_id)
    clock.advance(timedelta(hours=2))
    engine.settle()
    assert engine.snapshot(instance_id)["configuration"] == ["early"]

    do(engine, "resume", instance_id)
    assert engine.snapshot(instance_id)["configuration"] == ["late"]


def test_an_instance_that_is_paused_before_its_start_starts_when_it_is_resumed(engine: Engine) -> None:
    instance_id = engine.start(COUNTER)
    engine.control("pause", instance_id)
    engine.settle()
    assert engine.status(instance_id) is S.PAUSED

    do(engine, "resume", instance_id)
    assert engine.status(instance_id) is S.WAITING


@ON_SQLITE
def test_a_paused_instance_can_be_cancelled_and_what_waited_is_rejected_on_record(engine: Engine) -> None:
    instance_id = counting(engine)
    do(engine, "pause", instance_id)
    engine.send(instance_id, "ADD", n=1)
    engine.settle()
    do(engine, "cancel", instance_id)

    assert engine.status(instance_id) is S.CANCELLED
    assert "event.rejected" in engine.entry_types(instance_id)


# -- step by step ----------------------------------------------------------------------------------------------------


def test_a_step_takes_exactly_one_event_and_the_instance_stays_paused(engine: Engine) -> None:
    instance_id = counting(engine)
    do(engine, "pause", instance_id)
    for n in range(3):
        engine.send(instance_id, "ADD", n=n)
    engine.settle()

    for taken in ([0], [0, 1], [0, 1, 2], [0, 1, 2]):
        do(engine, "step", instance_id)
        assert seen(engine, instance_id) == taken
        assert engine.status(instance_id) is S.PAUSED


def test_steps_that_are_asked_for_together_take_one_event_each(engine: Engine) -> None:
    instance_id = counting(engine)
    do(engine, "pause", instance_id)
    for n in range(4):
        engine.send(instance_id, "ADD", n=n)
    engine.control("step", instance_id)
    engine.control("step", instance_id)
    engine.settle()
    assert seen(engine, instance_id) == [0, 1]


def test_a_whole_process_can_be_walked_through(engine: Engine) -> None:
    """Start, task, result: each by its own step; the task that a step asks for runs although the instance is paused."""
    engine.handler("work", lambda _input: "done")
    instance_id = engine.start(waiting_with_task())
    engine.control("pause", instance_id)
    engine.settle()

    do(engine, "step", instance_id)  # the start
    assert engine.snapshot(instance_id)["configuration"] == ["working"]
    assert "output" not in engine.context(instance_id)

    do(engine, "step", instance_id)  # the result
    assert engine.context(instance_id)["output"] == "done"
    assert engine.status(instance_id) is S.PAUSED

    engine.send(instance_id, "STOP")
    do(engine, "step", instance_id)
    assert engine.status(instance_id) is S.COMPLETED


def test_a_step_that_fails_opens_an_incident(engine: Engine) -> None:
    document = {**COUNTER, "id": "broken"}
    document["states"] = {"counting": {"on": {"ADD": {"actions": [assign("seen", "${1 / 0}")]}}}}
    instance_id = engine.start(document)
    engine.settle()
    do(engine, "pause", instance_id)
    engine.send(instance_id, "ADD", n=1)
    do(engine, "step", instance_id)
    assert engine.status(instance_id) is S.FAILED


# -- restart ---------------------------------------------------------------------------------------------------------


JOURNEY: Document = {
    "id": "journey",
    "initial": "first",
    "context": {"log": [], "kept": True},
    "on": {"NEVER": ".first"},
    "states": {
        "first": {"on": {"NEXT": "second"}, "exit": [assign("log", "${context.log + ['left first']}")]},
        "second": {
            "entry": [
                {"type": "createTask", "task": {"type": "work", "name": "job", "completionEvent": "DONE"}}
            ],
            "after": {"1h": "first"},
            "exit": [assign("log", "${context.log + ['left second']}")],
            "on": {"DONE": "third"},
        },
        "third": {
            "type": "parallel",
            "states": {
                "left": {"initial": "a", "states": {"a": {}, "b": {}}},
                "right": {"initial": "c", "states": {"c": {}}},
            },
        },
        "end": {"type": "final"},
    },
}


def test_a_restart_leaves_what_is_active_and_enters_the_chosen_state(engine: Engine) -> None:
    engine.handler("work", lambda _input: "done")
    instance_id = engine.start(JOURNEY)
    engine.settle()
    do(engine, "restart", instance_id, state="third.left.b", context={"more": 1}, reason="by hand")

    assert engine.snapshot(instance_id)["configuration"] == ["third.left.b", "third.right.c"]
    assert engine.context(instance_id) == {"log": ["left first"], "kept": True, "more": 1}
    restarted = [entry for entry in engine.entries(instance_id) if entry["type"] == "instance.restarted"]
    assert restarted == [{"type": "instance.restarted", "reason": "by hand", "state": "third.left.b"}]


def test_a_restart_gives_up_tasks_and_timers_and_the_late_result_changes_nothing(engine: Engine) -> None:
    engine.handler("work", lambda _input: "done")
    instance_id = engine.start(JOURNEY)
    engine.settle()
    engine.send(instance_id, "NEXT")
    engine.advance()
    [claim] = engine.claim()
    engine.control("restart", instance_id, state="first")
    engine.advance()
    engine.report(engine.call(claim))
    engine.settle()

    snapshot = engine.snapshot(instance_id)
    assert snapshot["configuration"] == ["first"]
    assert (snapshot["tasks"], snapshot["timers"]) == ({}, {})
    assert engine.context(instance_id)["log"] == ["left first", "left second"]

    engine.send(instance_id, "NEXT")  # and the same place can ask again, under another key
    engine.settle()
    assert engine.snapshot(instance_id)["configuration"] == ["third.left.a", "third.right.c"]


def test_a_failed_instance_is_restarted_and_its_incident_is_resolved(engine: Engine) -> None:
    def raising(_input: object) -> None:
        raise RuntimeError("no stock left")

    engine.handler("work", raising)
    document = {**JOURNEY, "id": "failing", "defaults": {"retry": {"maxAttempts": 1}}}
    instance_id = engine.start(document)
    engine.settle()
    engine.send(instance_id, "NEXT")
    engine.settle()
    assert engine.status(instance_id) is S.FAILED

    do(engine, "restart", instance_id, state="third")
    assert engine.status(instance_id) is S.WAITING
    assert [
        tuple(row) for row in engine.execute("SELECT status, resolution, resolved_by FROM incidents")
    ] == [("resolved", "restarted", "test")]


@ON_SQLITE
def test_a_restart_into_a_final_state_completes(engine: Engine) -> None:
    instance_id = engine.start(JOURNEY)
    engine.settle()
    do(engine, "restart", instance_id, state="end")
    assert engine.status(instance_id) is S.COMPLETED


@ON_SQLITE
def test_a_restart_without_a_state_begins_anew(engine: Engine) -> None:
    engine.handler("work", lambda _input: "done")
    instance_id = engine.start(JOURNEY)
    engine.settle()
    engine.send(instance_id, "NEXT")
    engine.settle()
    do(engine, "restart", instance_id)
    assert engine.snapshot(instance_id)["configuration"] == ["first"]


@ON_SQLITE
def test_a_restart_from_a_state_that_is_not_there_is_refused_with_a_suggestion(engine: Engine) -> None:
    instance_id = engine.start(JOURNEY)
    engine.settle()
    with pytest.raises(Invalid, match=r'found "thrid".*did you mean "third"'):
        engine.control("restart", instance_id, state="thrid")
    with pytest.raises(Conflict, match="has not started"):
        engine.control("restart", _failed_at_start(engine), state="first")


def _failed_at_start(engine: Engine) -> str:
    document = {**JOURNEY, "id": "no-start", "entry": [assign("log", "${1 / 0}")]}
    instance_id = engine.start(document)
    engine.settle()
    assert engine.status(instance_id) is S.FAILED
    return str(instance_id)


# -- its time is over ------------------------------------------------------------------------------------------------


def test_an_instance_whose_time_is_over_is_timed_out_and_cleaned_up(
    engine: Engine, clock: ManualClock
) -> None:
    engine.handler("work", lambda _input: "done")
    document = {**waiting_with_task(), "id": "timed", "timeout": "5s"}
    document["states"]["working"]["after"] = {"5h": "done"}
    instance_id = engine.start(document)
    engine.advance()
    [claim] = engine.claim()
    deadline = engine.execute(f"SELECT deadline_at FROM instances WHERE id = '{instance_id}'")
    assert deadline[0][0] is not None

    clock.advance(timedelta(milliseconds=4_999))
    engine.settle()
    assert engine.status(instance_id) is S.RUNNING
    clock.advance(timedelta(milliseconds=1))
    engine.settle()

    assert engine.status(instance_id) is S.TIMED_OUT
    assert engine.report(engine.call(claim)).late == 1
    engine.settle()
    assert "instance.timed_out" in engine.entry_types(instance_id)
    error = engine.execute(f"SELECT error FROM instances WHERE id = '{instance_id}'")[0][0]
    assert '"code":"instance.timed_out"' in error


def test_a_pause_does_not_stop_the_time_of_an_instance(engine: Engine, clock: ManualClock) -> None:
    instance_id = engine.start({**COUNTER, "id": "timed", "timeout": 60_000})
    engine.settle()
    do(engine, "pause", instance_id)
    clock.advance(timedelta(seconds=60))
    engine.settle()
    assert engine.status(instance_id) is S.TIMED_OUT


def test_who_ends_before_its_time_leaves_no_timer(engine: Engine, clock: ManualClock) -> None:
    instance_id = engine.start({**COUNTER, "id": "timed", "timeout": "1h"})
    engine.settle()
    engine.send(instance_id, "STOP")
    engine.settle()
    assert engine.status(instance_id) is S.COMPLETED
    assert [row[0] for row in engine.execute("SELECT status FROM timers")] == ["cancelled"]
    clock.advance(timedelta(hours=2))
    engine.settle()
    assert engine.status(instance_id) is S.COMPLETED


# -- every verb in every status --------------------------------------------------------------------------------------

VERBS = ("pause", "resume", "step", "retry", "restart", "cancel")


def instance_in(engine: Engine, status: InstanceStatus) -> str:
    """An instance of a status, brought there as instances come there."""
    match status:
        case S.PENDING:
            return str(engine.start(COUNTER, start_at=engine.now() + timedelta(hours=1)))
        case S.RUNNING:
            engine.handler("never", lambda _input: None)
            instance_id = engine.start(one_task("nobody"))
            engine.advance()
        case S.FAILED:
            instance_id = engine.start({**COUNTER, "id": "x", "entry": [assign("a", "${1 / 0}")]})
            engine.settle()
        case S.TIMED_OUT:
            instance_id = engine.start({**COUNTER, "id": "y", "timeout": 0})
            engine.settle()
        case S.COMPENSATING:
            engine.handler("done", lambda _input: None)
            document = one_task("done", compensate={"type": "nobody"}, completionEvent="WENT_WELL")
            instance_id = engine.start(document)
            engine.settle()
            engine.control("cancel", instance_id)
            engine.settle()
        case _:
            instance_id = engine.start(COUNTER)
            engine.settle()
            for verb in {S.PAUSED: ["pause"], S.CANCELLED: ["cancel"]}.get(status, []):
                engine.control(verb, instance_id)
            if status is S.COMPLETED:
                engine.send(instance_id, "STOP")
            engine.settle()
    assert engine.status(instance_id) is status
    return str(instance_id)


@ON_SQLITE
@pytest.mark.parametrize("status", list(S))
def test_every_verb_is_legal_or_refused_with_a_sentence(engine: Engine, status: InstanceStatus) -> None:
    for verb in VERBS:
        instance_id = instance_in(engine, status)
        # A failed one of this test failed at its start: there is nothing yet that a restart could leave.
        if instance_can(verb, status) and not (verb == "restart" and status is S.FAILED):
            engine.control(verb, instance_id)
            engine.settle()
            assert "event.rejected" not in engine.entry_types(instance_id)
            continue
        with pytest.raises(Conflict) as refused:
            engine.control(verb, instance_id)
        assert f"cannot {verb} instance {instance_id}: " in str(refused.value)
        if status in FINAL:
            assert refused.value.code == "instance.finished"


@ON_SQLITE
def test_a_verb_that_lost_its_race_is_rejected_on_record(engine: Engine) -> None:
    instance_id = counting(engine)
    engine.control("pause", instance_id)
    engine.control("pause", instance_id)
    engine.settle()
    assert engine.entry_types(instance_id)[-2:] == ["instance.paused", "event.rejected"]


def test_a_history_with_every_verb_replays(engine: Engine) -> None:
    engine.handler("work", lambda _input: "done")
    instance_id = engine.start(JOURNEY)
    engine.settle()
    for verb, more in (
        ("pause", {}),
        ("step", {}),
        ("resume", {}),
        ("restart", {"state": "second"}),
        ("pause", {}),
        ("restart", {"state": "third.left"}),
        ("cancel", {}),
    ):
        do(engine, verb, instance_id, **more)
    with engine.database.reading() as tx:
        verified = verify_instance(tx, engine.tenant_id, instance_id)
    assert verified == {
        "valid": True,
        "entries": verified["entries"],
        "replayed": True,
        "erased": 0,
        "problems": [],
    }
