"""Cancelling: overtakes what waits, ends what is open, and what comes later is on record without effect."""

from typing import Any

import pytest
from sqlalchemy import text

from common.commands.control import cancel_instance
from common.commands.send import MAX_REASON
from common.errors import Conflict, Invalid, NotFound
from common.ids import InstanceId, new_id
from common.lifecycle import InstanceStatus
from orchestrator.advance import advance_pass
from orchestrator.laps import Sweep
from tests.integration.engine.documents import COUNTER, ON_SQLITE, assign, on_go, one_task, waiting_with_task
from tests.integration.engine.test_pages import flood
from tests.support.engine import Engine
from tests.support.runners import MakeRunner

CANCELLED = InstanceStatus.CANCELLED


def cancel(engine: Engine, instance_id: str, reason: str | None = None) -> None:
    with engine.database.transaction() as tx:
        cancel_instance(tx, engine.tenant_id, instance_id, reason=reason, actor="key:ops")


def test_a_cancel_overtakes_ten_thousand_waiting_events(engine: Engine) -> None:
    instance_id = engine.start(COUNTER)
    engine.advance()
    flood(engine, instance_id, 10_000)
    cancel(engine, instance_id)

    advance_pass(engine.advancing, Sweep())

    assert engine.status(instance_id) is CANCELLED
    assert engine.entry_types(instance_id)[:4] == [
        "instance.started",
        "state.changed",
        "instance.cancelled",
        "machine.stopped",
    ]
    engine.execute(
        "DELETE FROM inbox"
    )  # each of them would be rejected on record: shown with two in test_failure


def test_a_cancel_ends_open_tasks_and_timers_and_runs_exit_actions(engine: Engine) -> None:
    document = waiting_with_task()
    document["states"]["working"] |= {"after": {"1h": "done"}, "exit": [assign("left", True)]}
    instance_id = engine.start(document)
    engine.advance()

    cancel(engine, instance_id, "changed my mind")
    engine.advance()

    assert engine.status(instance_id) is CANCELLED
    assert engine.context(instance_id)["left"] is True
    assert engine.execute("SELECT status FROM tasks") == [("cancelled",)]
    assert engine.execute("SELECT status FROM timers") == [("cancelled",)]
    [entry] = [entry for entry in engine.entries(instance_id) if entry["type"] == "instance.cancelled"]
    assert entry["reason"] == "changed my mind"
    assert engine.execute("SELECT actor FROM history ORDER BY sequence DESC LIMIT 1") == [("key:ops",)]


@ON_SQLITE
def test_an_exit_action_that_fails_does_not_keep_an_instance_alive(engine: Engine) -> None:
    document = waiting_with_task()
    document["states"]["working"]["exit"] = [assign("left", "${1 / 0}")]
    instance_id = engine.start(document)
    engine.advance()

    cancel(engine, instance_id)
    engine.advance()

    assert engine.status(instance_id) is CANCELLED
    assert "error.execution" in engine.entry_types(instance_id)


@ON_SQLITE
def test_a_pending_instance_is_cancelled_without_ever_starting(engine: Engine) -> None:
    instance_id = engine.start(COUNTER)
    cancel(engine, instance_id)
    engine.advance()

    assert engine.status(instance_id) is CANCELLED
    assert engine.entry_types(instance_id) == ["instance.cancelled", "event.rejected"]


@ON_SQLITE
def test_a_cancelled_instance_cannot_be_cancelled_again(engine: Engine) -> None:
    instance_id = engine.start(COUNTER)
    cancel(engine, instance_id)
    engine.advance()

    with pytest.raises(Conflict, match=rf"^cannot cancel instance {instance_id}: cancelled at 20") as caught:
        cancel(engine, instance_id)
    assert caught.value.code == "instance.finished"


@ON_SQLITE
def test_two_cancels_that_were_both_accepted_cancel_once(engine: Engine) -> None:
    instance_id = engine.start(COUNTER)
    cancel(engine, instance_id)
    cancel(engine, instance_id)
    engine.advance()

    assert engine.entry_types(instance_id).count("instance.cancelled") == 1
    assert engine.entries(instance_id)[1]["inboxType"] == "cancel"


@ON_SQLITE
def test_a_cancel_is_checked_at_the_door(engine: Engine) -> None:
    instance_id = engine.start(COUNTER)
    with pytest.raises(NotFound):
        cancel(engine, new_id())
    with pytest.raises(Invalid) as caught:
        cancel(engine, instance_id, "x" * (MAX_REASON + 1))
    assert caught.value.code == "reason.invalid"
    engine.advance()


def test_a_running_handler_is_told_by_the_beat(engine: Engine, make_runner: MakeRunner) -> None:
    seen: list[bool] = []

    def work(_input: Any, context: Any) -> None:
        runner.beat()
        seen.append(context.cancelled)
        cancel(engine, instance_id)
        engine.advance()
        runner.beat()
        seen.append(context.cancelled)

    engine.handler("work", work)
    instance_id = engine.start(one_task())
    engine.advance()
    runner = make_runner(slots=1)

    runner.claim(until=0)
    assert runner.slots.wait_idle(20)

    assert seen == [False, True]


def late(engine: Engine, instance_id: str) -> list[dict[str, Any]]:
    return [entry for entry in engine.entries(instance_id) if entry["type"] == "task.late"]


def cancelled_while_it_runs(engine: Engine) -> tuple[InstanceId, Any]:
    engine.handler("work", lambda _input: {"sum": 42})
    instance_id = engine.start(one_task())
    engine.advance()
    [claim] = engine.claim()
    cancel(engine, instance_id)
    engine.advance()
    return instance_id, claim


def test_a_late_result_is_recorded_without_effect(engine: Engine) -> None:
    instance_id, claim = cancelled_while_it_runs(engine)

    reported = engine.report(engine.call(claim))
    engine.settle()

    assert (reported.late, reported.succeeded) == (1, 0)
    assert engine.status(instance_id) is CANCELLED
    [entry] = late(engine, instance_id)
    assert (entry["taskId"], entry["attempt"], entry["outcome"]) == (claim.id, 1, "succeeded")
    assert engine.execute("SELECT status, output FROM tasks") == [("cancelled", None)]
    assert engine.execute("SELECT outcome FROM attempts") == [("late",)]


def test_a_late_result_that_is_repeated_is_recorded_once(engine: Engine) -> None:
    instance_id, claim = cancelled_while_it_runs(engine)
    outcome = engine.call(claim)

    late_counts = [engine.report(outcome).late for _ in range(3)]
    engine.settle()

    assert late_counts == [1, 0, 0]
    assert len(late(engine, instance_id)) == 1


BROKEN = {
    "does not compile": (
        '{"id":"counter","states":{"counting":{"on":{"ADD":"nowhere"}}},"initial":"counting"}',
        "definition.unusable",
    ),
    "lacks its states": ('{"id":"counter","initial":"other","states":{"other":{}}}', "snapshot.unusable"),
    "is no document": ("[]", "definition.unusable"),
}


@pytest.mark.breaks_promises
@pytest.mark.parametrize("broken", BROKEN)
@ON_SQLITE
def test_a_broken_document_does_not_keep_its_instances_from_being_cancelled(
    engine: Engine, broken: str
) -> None:
    """Applied by a version of this code that accepted it; this one does not."""
    instance_id = engine.start(COUNTER)
    engine.advance()
    other = engine.start(on_go())
    document, code = BROKEN[broken]
    with engine.database.transaction() as tx:
        tx.execute(text("UPDATE definitions SET document = :d WHERE key = 'counter'"), {"d": document})
    engine.advancing = type(engine.advancing)(engine.database, engine.advancing.max_context_bytes)
    engine.send(instance_id, "ADD", n=1)
    engine.send(instance_id, "ADD", n=2)

    engine.settle()
    assert engine.status(instance_id) is InstanceStatus.FAILED
    assert engine.status(other) is InstanceStatus.WAITING
    assert engine.execute("SELECT code FROM incidents") == [(code,)]
    cancel(engine, instance_id)
    engine.settle()

    assert engine.status(instance_id) is CANCELLED
    assert engine.execute("SELECT count(*) FROM inbox") == [(0,)]
