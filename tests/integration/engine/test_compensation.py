"""Compensation: what was done is undone, last first, when an instance fails, is cancelled or runs out of time."""

from datetime import timedelta
from typing import Any

import pytest

from common import faults
from common.commands.incidents import resolve_incident
from common.config import Limits
from common.errors import Conflict
from common.lifecycle import InstanceStatus
from tests.integration.engine.documents import ON_SQLITE, assign
from tests.integration.engine.sagas import ONCE, Ledger, step, trip
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock

S = InstanceStatus


def started(engine: Engine, document: dict[str, Any] | str, **request: Any) -> str:
    instance_id = engine.start(document, **request)
    engine.settle()
    return str(instance_id)


def incidents(engine: Engine) -> list[tuple[str, str]]:
    return [tuple(row) for row in engine.execute("SELECT code, status FROM incidents ORDER BY id")]


def resolve(engine: Engine, way: Any) -> None:
    [(incident,)] = engine.execute("SELECT id FROM incidents WHERE status = 'open'")
    with engine.database.transaction() as tx:
        resolve_incident(
            tx, engine.tenant_id, incident, way=way, output=None, reason="refunded by hand", actor="ops",
            limits=Limits(),
        )  # fmt: skip
    engine.settle()


def items(engine: Engine, instance_id: str) -> dict[str, str]:
    registered = engine.snapshot(instance_id)["compensation"]["registered"]
    return {item["undoes"]: item["status"] for item in registered}


# -- after a failure -----------------------------------------------------------------------------------------------


def test_a_failure_undoes_what_was_done_last_first_and_then_the_instance_is_failed(engine: Engine) -> None:
    ledger = Ledger(engine)
    ledger.failing.add("do.car")
    instance_id = started(engine, trip())

    assert ledger.lines == ["do.flight", "do.hotel", "undo.hotel", "undo.flight"]
    assert ledger.inputs["undo.hotel"] == {"of": "hotel-1"}
    assert engine.status(instance_id) is S.FAILED
    assert items(engine, instance_id) == {"do.flight": "done", "do.hotel": "done"}
    assert incidents(engine) == [("car.gone", "open")]
    types = engine.entry_types(instance_id)
    assert [one for one in types if one.startswith(("compensation", "instance"))] == [
        "instance.started",
        "compensation.registered",
        "compensation.registered",
        "instance.compensating",
        "compensation.started",
        "compensation.task.created",
        "compensation.task.done",
        "compensation.task.created",
        "compensation.task.done",
        "compensation.completed",
        "instance.failed",
    ]
    with pytest.raises(Conflict) as refused:
        engine.control("retry", instance_id)
    assert refused.value.code == "instance.compensated"


def test_a_failure_that_is_caught_undoes_nothing(engine: Engine) -> None:
    ledger = Ledger(engine)
    ledger.failing.add("do.car")
    document = trip()
    document["states"]["car"]["invoke"]["onError"] = "booked"
    instance_id = started(engine, document)

    assert engine.status(instance_id) is S.COMPLETED
    assert ledger.lines == ["do.flight", "do.hotel"]


def test_a_higher_order_comes_first_whatever_ended_last(engine: Engine) -> None:
    ledger = Ledger(engine)
    ledger.failing.add("do.car")
    document = trip()
    document["states"]["flight"] = step("flight", "hotel", order=100)
    started(engine, document)
    assert ledger.lines[-2:] == ["undo.flight", "undo.hotel"]


@pytest.mark.parametrize("rules", [{"except": "car.gone"}, {"on": ["cancelled"]}])
def test_errors_and_ends_that_the_definition_excepts_freeze_it_as_ever(
    engine: Engine, rules: dict[str, Any]
) -> None:
    ledger = Ledger(engine)
    ledger.failing.add("do.car")
    instance_id = started(engine, trip(compensation=rules))
    assert engine.status(instance_id) is S.FAILED
    assert ledger.lines == ["do.flight", "do.hotel"]

    ledger.failing.clear()
    engine.control("retry", instance_id)
    engine.settle()
    assert engine.status(instance_id) is S.COMPLETED


def test_by_hand_a_frozen_instance_is_undone_and_stays_failed(engine: Engine) -> None:
    ledger = Ledger(engine)
    ledger.failing.add("do.car")
    instance_id = started(engine, trip(compensation={"on": ["cancelled"]}))
    engine.control("compensate", instance_id, reason="sold out for good")
    engine.settle()

    assert ledger.lines[-2:] == ["undo.hotel", "undo.flight"]
    assert engine.status(instance_id) is S.FAILED
    assert incidents(engine) == [("car.gone", "resolved"), ("car.gone", "open")]


def test_where_nothing_was_done_that_could_be_undone_a_failure_freezes_it(engine: Engine) -> None:
    ledger = Ledger(engine)
    ledger.failing.add("do.flight")
    instance_id = started(engine, trip())
    assert engine.status(instance_id) is S.FAILED
    with pytest.raises(Conflict) as refused:
        engine.control("compensate", instance_id)
    assert refused.value.code == "compensation.nothing"

    ledger.failing.clear()
    engine.control("retry", instance_id)
    engine.settle()
    assert engine.status(instance_id) is S.COMPLETED


def test_work_that_was_tried_is_undone_too_where_it_says_so(engine: Engine) -> None:
    ledger = Ledger(engine)
    ledger.failing.add("do.car")
    document = trip()
    document["states"]["car"] = step(
        "car", "booked", covers="attempted", input={"why": "${event.error.code}"}
    )
    started(engine, document)
    assert ledger.lines[2:] == ["undo.car", "undo.hotel", "undo.flight"]
    assert ledger.inputs["undo.car"] == {"why": "car.gone"}


def test_what_undoes_sees_the_data_as_it_was_when_the_work_ended(engine: Engine) -> None:
    ledger = Ledger(engine)
    ledger.failing.add("do.car")
    document = trip(context={"price": 100})
    seen = {"input": {"price": "${context.price}", "receipt": "${output.receipt}"}}
    document["states"]["flight"] = step("flight", "hotel", **seen)
    document["states"]["hotel"]["entry"] = [assign("price", 7)]
    started(engine, document)
    assert ledger.inputs["undo.flight"] == {"price": 100, "receipt": "flight-1"}


# -- by hand and by time -------------------------------------------------------------------------------------------


def test_a_cancel_undoes_and_ends_cancelled(engine: Engine) -> None:
    ledger = Ledger(engine)
    instance_id = started(engine, trip(wait=True))
    engine.control("cancel", instance_id, reason="changed my mind")
    engine.advance()
    assert engine.status(instance_id) is S.COMPENSATING
    engine.send(instance_id, "GO")
    engine.settle()

    assert ledger.lines == ["do.flight", "do.hotel", "undo.hotel", "undo.flight"]
    assert engine.status(instance_id) is S.CANCELLED
    assert {"type": "event.ignored", "eventType": "GO", "reason": "compensating"} in engine.entries(
        instance_id
    )
    assert engine.entries(instance_id)[-1] == {"type": "instance.cancelled", "reason": "changed my mind"}


def test_a_cancel_may_leave_everything_as_it_is(engine: Engine) -> None:
    ledger = Ledger(engine)
    instance_id = started(engine, trip(wait=True))
    engine.control("cancel", instance_id, compensate=False)
    engine.settle()
    assert engine.status(instance_id) is S.CANCELLED
    assert ledger.lines == ["do.flight", "do.hotel"]


@pytest.mark.parametrize("first", [None, "pause"])
def test_by_hand_a_living_instance_is_undone_and_cancelled(engine: Engine, first: str | None) -> None:
    ledger = Ledger(engine)
    instance_id = started(engine, trip(wait=True))
    if first:
        engine.control(first, instance_id)
        engine.settle()
    engine.control("compensate", instance_id)
    engine.settle()
    assert engine.status(instance_id) is S.CANCELLED
    assert ledger.lines[-2:] == ["undo.hotel", "undo.flight"]


def test_the_end_of_its_time_undoes_and_ends_timed_out(engine: Engine, clock: ManualClock) -> None:
    ledger = Ledger(engine)
    instance_id = started(engine, trip(wait=True, timeout="1h"))
    clock.advance(timedelta(hours=1))
    engine.settle()
    assert ledger.lines[-2:] == ["undo.hotel", "undo.flight"]
    assert engine.status(instance_id) is S.TIMED_OUT
    [(error,)] = engine.execute("SELECT error FROM instances")
    assert "3,600,000 ms" in error


def test_the_time_of_the_instance_does_not_cut_its_undoing_off(engine: Engine, clock: ManualClock) -> None:
    ledger = Ledger(engine)
    instance_id = started(engine, trip(wait=True, timeout="1h"))
    engine.control("cancel", instance_id)
    engine.advance()
    clock.advance(timedelta(hours=2))
    engine.settle()
    assert engine.status(instance_id) is S.CANCELLED
    assert ledger.lines[-2:] == ["undo.hotel", "undo.flight"]


# -- work that is open when it begins -----------------------------------------------------------------------------------


def test_a_result_that_was_on_its_way_when_the_cancel_overtook_it_is_undone_too(engine: Engine) -> None:
    ledger = Ledger(engine)
    instance_id = engine.start(trip())
    engine.advance()
    engine.work()  # the flight is booked, its row waits
    engine.control("cancel", instance_id)
    engine.settle()
    assert ledger.lines == ["do.flight", "undo.flight"]
    assert engine.status(instance_id) is S.CANCELLED


@pytest.mark.parametrize(
    "database_url", ["postgresql"], indirect=True
)  # one writer at a time has no such moment
def test_a_result_that_comes_while_the_cancel_is_stepped_is_undone_too(engine: Engine) -> None:
    """Between the read of the inbox and the lock on the tasks: the cancel has not seen it, and cannot cancel it any more."""
    ledger = Ledger(engine)
    instance_id = engine.start(trip())
    engine.advance()
    [claim] = engine.claim()
    engine.control("cancel", instance_id)

    def report() -> None:
        faults.disarm()
        engine.report(engine.call(claim))

    faults.arm("in_step", report)
    engine.settle()
    assert ledger.lines == ["do.flight", "undo.flight"]
    assert engine.status(instance_id) is S.CANCELLED


def test_work_that_was_taken_back_before_it_began_has_nothing_to_undo(engine: Engine) -> None:
    ledger = Ledger(engine)
    instance_id = engine.start(trip())
    engine.advance()
    engine.control("cancel", instance_id)
    engine.settle()
    assert ledger.lines == []
    assert engine.status(instance_id) is S.CANCELLED
    assert engine.execute("SELECT status FROM tasks") == [("cancelled",)]


def test_results_that_waited_parked_are_undone_as_well(engine: Engine) -> None:
    ledger = Ledger(engine)
    instance_id = engine.start(trip())
    engine.advance()
    [claim] = engine.claim()
    engine.control("pause", instance_id)
    engine.advance()
    engine.report(engine.call(claim))
    engine.advance()  # parked
    engine.control("cancel", instance_id)
    engine.settle()
    assert ledger.lines == ["do.flight", "undo.flight"]


def test_work_whose_step_failed_is_undone_as_well(engine: Engine) -> None:
    """The flight is booked, but the step that its end asks for fails: nothing of it is in the snapshot."""
    ledger = Ledger(engine)
    document = trip()
    document["states"]["flight"]["invoke"]["onDone"] = {
        "target": "hotel",
        "actions": [assign("x", "${1 / 0}")],
    }
    instance_id = started(engine, document)
    assert engine.status(instance_id) is S.FAILED
    engine.control("cancel", instance_id)
    engine.settle()
    assert ledger.lines == ["do.flight", "undo.flight"]
    assert engine.status(instance_id) is S.CANCELLED


def test_a_task_that_runs_and_was_tried_is_undone_where_it_says_so(engine: Engine) -> None:
    ledger = Ledger(engine)
    document = trip()
    document["states"]["flight"] = step(
        "flight", "hotel", covers="attempted", input={"why": "${event.error.code}"}
    )
    instance_id = engine.start(document)
    engine.advance()
    [claim] = engine.claim()
    engine.control("cancel", instance_id)
    engine.advance()
    engine.report(engine.call(claim))  # late, and refused
    engine.settle()
    assert ledger.lines == ["do.flight", "undo.flight"]
    assert ledger.inputs["undo.flight"] == {"why": "task.cancelled"}
    assert engine.status(instance_id) is S.CANCELLED


# -- what undoes fails ---------------------------------------------------------------------------------------------


def stopped(engine: Engine) -> tuple[str, Ledger]:
    """A trip that was cancelled, and could not give its hotel back."""
    ledger = Ledger(engine)
    ledger.failing.add("undo.hotel")
    instance_id = started(engine, trip(wait=True))
    engine.control("cancel", instance_id, reason="no")
    engine.settle()
    assert engine.status(instance_id) is S.FAILED
    assert incidents(engine) == [("compensation.failed", "open")]
    assert ledger.lines == ["do.flight", "do.hotel"]
    return instance_id, ledger


def test_a_compensation_that_fails_stops_there_until_it_is_retried(engine: Engine) -> None:
    instance_id, ledger = stopped(engine)
    ledger.failing.clear()
    engine.control("retry", instance_id)
    engine.settle()
    assert ledger.lines[-2:] == ["undo.hotel", "undo.flight"]
    assert engine.status(instance_id) is S.CANCELLED
    assert incidents(engine) == [("compensation.failed", "resolved")]


def test_a_compensation_that_fails_again_stops_again(engine: Engine) -> None:
    instance_id, ledger = stopped(engine)
    engine.control("retry", instance_id)
    engine.settle()
    assert engine.status(instance_id) is S.FAILED
    assert incidents(engine) == [("compensation.failed", "resolved"), ("compensation.failed", "open")]
    assert ledger.lines == ["do.flight", "do.hotel"]


def test_a_compensation_that_failed_may_be_skipped_with_a_reason(engine: Engine) -> None:
    instance_id, ledger = stopped(engine)
    resolve(engine, "skip")
    assert ledger.lines[-1] == "undo.flight"
    assert engine.status(instance_id) is S.CANCELLED
    assert items(engine, instance_id) == {"do.flight": "done", "do.hotel": "skipped"}
    entries = engine.entries(instance_id)
    assert {"type": "instance.retried", "reason": "refunded by hand"} in entries
    assert "compensation.skipped" in engine.entry_types(instance_id)


def test_a_cancel_does_not_pass_over_a_compensation_that_failed(engine: Engine) -> None:
    instance_id, ledger = stopped(engine)
    with pytest.raises(Conflict) as refused:
        engine.control("cancel", instance_id)
    assert refused.value.code == "compensation.stopped"

    engine.control("cancel", instance_id, compensate=False, reason="enough")
    engine.settle()
    assert engine.status(instance_id) is S.CANCELLED
    assert items(engine, instance_id) == {"do.flight": "skipped", "do.hotel": "skipped"}
    assert incidents(engine) == [("compensation.failed", "resolved")]
    assert ledger.lines == ["do.flight", "do.hotel"]


@ON_SQLITE
@pytest.mark.parametrize("verb", ["cancel", "compensate"])
def test_nothing_is_undone_under_a_business_key_that_another_holds(engine: Engine, verb: str) -> None:
    ledger = Ledger(engine)
    ledger.failing.add("do.car")
    instance_id = started(engine, trip(wait=True, compensation={"on": ["cancelled"]}), business_key="t-1")
    engine.send(instance_id, "GO")
    engine.settle()
    assert engine.status(instance_id) is S.FAILED
    other = started(engine, "trip", business_key="t-1")

    with pytest.raises(Conflict) as refused:
        engine.control(verb, instance_id)
    assert refused.value.code == "instance.business_key_held"
    engine.control("cancel", other, compensate=False)
    engine.settle()
    engine.control(verb, instance_id)
    engine.settle()
    assert ledger.lines[-2:] == ["undo.hotel", "undo.flight"]


@pytest.mark.parametrize("kind", ["cleanup", "notification"])
def test_a_cleanup_or_notification_that_fails_is_passed_over_on_record(engine: Engine, kind: str) -> None:
    ledger = Ledger(engine)
    ledger.failing |= {"do.car", "undo.hotel"}
    document = trip()
    document["states"]["hotel"] = step("hotel", "car", kind=kind)
    instance_id = started(engine, document)
    assert ledger.lines[-1] == "undo.flight"
    assert items(engine, instance_id) == {"do.flight": "done", "do.hotel": "passed_over"}
    assert "compensation.passed_over" in engine.entry_types(instance_id)
    assert incidents(engine) == [("car.gone", "open")]


def test_each_compensation_has_its_own_retry(engine: Engine) -> None:
    ledger = Ledger(engine)
    ledger.failing.add("do.car")
    tries = []

    def undo(_input: Any, context: Any) -> None:
        tries.append(context.attempt)
        if len(tries) < 3:
            raise RuntimeError("not yet")

    engine.handler("undo.patiently", undo)
    document = trip()
    document["states"]["hotel"] = step(
        "hotel", "car", type="undo.patiently", retry={"maxAttempts": 3, "interval": 0}
    )
    instance_id = started(engine, document)
    assert tries == [1, 2, 3]
    assert items(engine, instance_id) == {"do.flight": "done", "do.hotel": "done"}


def test_one_whose_values_cannot_be_evaluated_is_an_incident_and_can_be_skipped(engine: Engine) -> None:
    ledger = Ledger(engine)
    ledger.failing.add("do.car")
    document = trip()
    document["states"]["hotel"] = step("hotel", "car", input={"of": "${event.output.nothing.there}"})
    instance_id = started(engine, document)
    assert engine.status(instance_id) is S.FAILED
    assert incidents(engine) == [("compensation.unusable", "open")]
    assert ledger.lines == ["do.flight", "do.hotel"]

    engine.control("retry", instance_id)
    engine.settle()
    assert [status for _, status in incidents(engine)] == ["resolved", "open"]
    resolve(engine, "skip")
    assert ledger.lines[-1] == "undo.flight"
    assert items(engine, instance_id) == {"do.flight": "done", "do.hotel": "skipped"}
    assert engine.status(instance_id) is S.FAILED


def test_a_cancel_while_it_is_undone_changes_only_how_it_ends(engine: Engine) -> None:
    ledger = Ledger(engine)
    ledger.failing.add("do.car")
    instance_id = engine.start(trip())
    while engine.status(instance_id) is not S.COMPENSATING:
        engine.work()
        engine.advance()
    engine.control("cancel", instance_id, reason="too")
    engine.settle()
    assert ledger.lines[-2:] == ["undo.hotel", "undo.flight"]
    assert engine.status(instance_id) is S.CANCELLED


def test_a_cancel_without_compensation_ends_it_in_the_middle(engine: Engine) -> None:
    ledger = Ledger(engine)
    instance_id = started(engine, trip(wait=True))
    engine.control("cancel", instance_id)
    engine.advance()
    engine.control("cancel", instance_id, compensate=False)
    engine.settle()
    assert engine.status(instance_id) is S.CANCELLED
    assert items(engine, instance_id) == {"do.flight": "skipped", "do.hotel": "skipped"}
    assert ledger.lines == ["do.flight", "do.hotel"]


def test_a_restart_after_it_was_undone_begins_with_nothing_to_undo(engine: Engine) -> None:
    ledger = Ledger(engine)
    ledger.failing.add("do.car")
    instance_id = started(engine, trip())
    ledger.failing.clear()
    engine.control("restart", instance_id)
    engine.settle()
    assert engine.status(instance_id) is S.COMPLETED
    assert ledger.lines[4:] == ["do.flight", "do.hotel", "do.car"]


def test_a_restart_in_the_middle_keeps_what_is_still_to_be_undone(engine: Engine) -> None:
    instance_id, ledger = stopped(engine)
    ledger.failing.clear()
    engine.control("restart", instance_id, state="waiting")
    engine.settle()
    assert engine.status(instance_id) is S.WAITING
    engine.control("cancel", instance_id)
    engine.settle()
    assert ledger.lines[-2:] == ["undo.hotel", "undo.flight"]


# -- parents and children --------------------------------------------------------------------------------------------


def family(**child: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A parent that books a flight, then waits for a child that books a hotel and waits."""
    own = {
        "id": "stay",
        "initial": "hotel",
        "states": {
            "hotel": step("hotel", "waiting"),
            "waiting": {"on": {"GO": "over"}},
            "over": {"type": "final"},
        },
        **child,
    }
    parent = {
        "id": "journey",
        "initial": "flight",
        "states": {
            "flight": step("flight", "staying"),
            "staying": {
                "invoke": {
                    "src": "WORKFLOW",
                    "id": "stay",
                    "input": {"definitionKey": "stay"},
                    "compensate": {"type": "undo.car", "input": "${event.output.status}", "retry": ONCE},
                    "onDone": "home",
                }
            },
            "home": {"on": {"END": "over"}},
            "over": {"type": "final"},
        },
    }
    return parent, own


def child_of(engine: Engine) -> str:
    return str(engine.execute("SELECT id FROM instances WHERE parent_id IS NOT NULL")[0][0])


def test_a_cancelled_parent_undoes_its_child_first_and_waits_for_it(engine: Engine) -> None:
    ledger = Ledger(engine)
    parent, own = family()
    engine.apply(own)
    instance_id = started(engine, parent)
    engine.control("cancel", instance_id)
    engine.settle()
    assert ledger.lines == ["do.flight", "do.hotel", "undo.hotel", "undo.flight"]
    assert engine.status(instance_id) is S.CANCELLED
    assert engine.status(child_of(engine)) is S.CANCELLED


def test_a_child_that_had_completed_is_undone_by_what_the_parent_says(engine: Engine) -> None:
    ledger = Ledger(engine)
    parent, own = family()
    engine.apply(own)
    instance_id = started(engine, parent)
    engine.send(child_of(engine), "GO")
    engine.settle()
    engine.control("cancel", instance_id)
    engine.settle()
    assert ledger.lines[-2:] == ["undo.car", "undo.flight"]
    assert ledger.inputs["undo.car"] == "completed"


def test_a_child_that_completes_as_its_parent_is_cancelled_is_undone_too(engine: Engine) -> None:
    ledger = Ledger(engine)
    parent, own = family()
    engine.apply(own)
    instance_id = started(engine, parent)
    engine.control("pause", instance_id)
    engine.advance()
    engine.send(child_of(engine), "GO")
    engine.advance()  # the child has completed, and its answer waits
    engine.control("cancel", instance_id)
    engine.settle()
    assert ledger.lines[-2:] == ["undo.car", "undo.flight"]
    assert engine.status(instance_id) is S.CANCELLED


def test_a_child_that_was_undone_after_a_failure_fails_its_parent(engine: Engine) -> None:
    ledger = Ledger(engine)
    ledger.failing.add("do.car")
    parent, own = family()
    own["states"]["waiting"] = step("car", "over")
    engine.apply(own)
    instance_id = started(engine, parent)
    assert ledger.lines == ["do.flight", "do.hotel", "undo.hotel", "undo.flight"]
    assert engine.status(child_of(engine)) is S.FAILED
    assert engine.status(instance_id) is S.FAILED


def test_a_parent_whose_cancelled_child_cannot_undo_waits_for_it(engine: Engine) -> None:
    ledger = Ledger(engine)
    ledger.failing.add("undo.hotel")
    parent, own = family()
    engine.apply(own)
    instance_id = started(engine, parent)
    engine.control("cancel", instance_id)
    engine.settle()
    assert engine.status(child_of(engine)) is S.FAILED
    assert engine.status(instance_id) is S.COMPENSATING

    ledger.failing.clear()
    engine.control("retry", child_of(engine))
    engine.settle()
    assert ledger.lines == ["do.flight", "do.hotel", "undo.hotel", "undo.flight"]
    assert engine.status(instance_id) is S.CANCELLED
