"""The kit's face: what a test says and sees, and what it is told when something is not as expected."""

import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from common.errors import Conflict, Invalid
from signalbox import Continue, Retryable
from signalbox.testing import (
    InvalidDefinition,
    NeverSettles,
    Run,
    Unexpected,
    UnknownName,
    Workflow,
    WrongAnswer,
    crashes,
    fails,
    hangs,
    succeeds,
)
from signalbox.testing.workflow import START
from task_runner.registry import Options, Registry, make_handler
from tests.integration.engine.children import catching, parent, with_task
from tests.integration.engine.documents import COUNTER, after, assign, on_go, one_task, waiting_with_task
from tests.support.slowdown import assert_within
from tests.unit.testing.documents import many

ORDER: dict[str, Any] = {
    "id": "order",
    "initial": "validating",
    "defaults": {"retry": {"maxAttempts": 3, "interval": "2s", "backoffRate": 2}},
    "output": "$.checked",
    "states": {
        "validating": {
            "invoke": {
                "src": "orders.validate",
                "input": {"lines": "${input.lines}"},
                "onDone": {"target": "review", "actions": [assign("checked", "${event.output.ok}")]},
                "onError": "rejected",
            }
        },
        "review": {
            "entry": [{"type": "log", "message": "to be reviewed"}],
            "on": {
                "APPROVED": {"target": "shipped", "actions": [{"type": "emit", "event": {"type": "SHIPPED"}}]}
            },
            "after": {"7d": "rejected"},
        },
        "shipped": {"type": "final"},
        "rejected": {"type": "final"},
    },
}


def ordered(*answers: Any) -> Run:
    workflow = Workflow.load(ORDER)
    if answers:
        workflow.task("orders.validate", *answers)
    return workflow.start({"lines": [1]}, business_key="o-1")


# -- a test from beginning to end ----------------------------------------------------------------------------------


def test_an_order_is_shipped_after_a_retry() -> None:
    run = ordered(fails("http.503"), succeeds({"ok": True}))
    assert (run.status, run.task("orders.validate").status) == ("running", "pending")
    run.settle(advance=True)
    assert run.now == START + timedelta(seconds=2)
    assert run.configuration == ["review"]

    run.send("APPROVED", by="ada")

    run.expect(status="completed", output=True, path=["validating", "review", "shipped"], incident=None)
    assert run.context == {"checked": True}
    assert run.emitted == [{"type": "SHIPPED"}]
    assert run.logged == ["to be reviewed"]
    task = run.task("orders.validate")
    assert (task.attempts, task.input, task.output) == (2, {"lines": [1]}, {"ok": True})
    assert task.outcomes == ("failed", "succeeded")
    assert [entry.actor for entry in run.history.of_type("event.received")][-1] == "ada"


def test_every_run_is_the_same() -> None:
    def told() -> str:
        run = ordered(fails("http.503"), succeeds({"ok": True})).advance("8d")
        return f"{run.id} {run.history} {run.tasks}"

    assert told() == told()


def test_a_test_takes_a_few_milliseconds() -> None:
    ordered(succeeds({"ok": True}))
    began = time.process_time()
    for _ in range(50):
        ordered(fails("http.503"), succeeds({"ok": True})).settle(advance=True).send("APPROVED")
    assert_within((time.process_time() - began) / 50, 0.02, clock=time.process_time)


def test_time_goes_by_from_one_thing_to_the_next() -> None:
    run = ordered(succeeds({"ok": True}))
    [due_at] = run.timers.values()
    run.advance()
    assert run.now == due_at == START + timedelta(days=7)
    assert run.configuration == ["rejected"]
    with pytest.raises(Unexpected, match="expected something to wait for"):
        run.advance()


def test_a_start_that_waits_and_one_whose_key_is_held() -> None:
    workflow = Workflow.load(COUNTER, at=datetime(2030, 5, 1, 9, tzinfo=UTC))
    run = workflow.start(business_key="c", start_after="1h", context={"seen": [0]})
    assert run.status == "pending"
    assert workflow.start(business_key="c").id == run.id
    run.advance("1h").send("ADD", n=1)
    assert run.context == {"seen": [0, 1]}
    assert run.now == datetime(2030, 5, 1, 10, tzinfo=UTC)


# -- what tasks answer -----------------------------------------------------------------------------------------------


def test_a_function_answers_each_attempt() -> None:
    asked = []

    def validate(input: Any, attempt: int) -> Any:
        asked.append((input, attempt))
        if attempt == 1:
            raise Retryable("busy", code="busy")
        return fails("no.good", retryable=False) if attempt == 3 else {"ok": attempt}

    run = ordered(validate).settle(advance=True)
    assert asked == [({"lines": [1]}, 1), ({"lines": [1]}, 2)]
    assert run.context == {"checked": 2}


def test_an_assertion_inside_a_function_is_the_tests_own() -> None:
    def validate(input: Any, _attempt: int) -> None:
        assert input == {"lines": [2]}

    with pytest.raises(AssertionError, match="lines"):
        ordered(validate)


def test_a_permanent_error_is_not_tried_again() -> None:
    run = ordered(fails("card.declined", retryable=False))
    run.expect(status="completed", configuration=["rejected"])
    assert run.task("orders.validate").error == {
        "code": "card.declined",
        "data": None,
        "message": "the test lets it fail with card.declined",
    }


@pytest.mark.parametrize(("timeouts", "code"), [
    ({"startToClose": "5s"}, "task.timeout"),
    ({"heartbeat": "5s"}, "task.heartbeat_timeout"),
])  # fmt: skip
def test_an_attempt_that_takes_too_long_is_ended_and_its_result_comes_late(
    timeouts: dict[str, str], code: str
) -> None:
    document = one_task(timeouts=timeouts, retry={"maxAttempts": 2, "interval": "10s"})
    run = Workflow.load(document).task("work", succeeds(1, after="6s"), hangs()).start()
    run.advance("5s")
    assert run.task("job").error is not None
    assert run.task("job").error["code"] == code
    run.advance("1s")
    assert run.history.of_type("task.late")[0]["outcome"] == "succeeded"
    run.advance("1m")
    run.expect(status="failed", incident=code)
    assert run.task("job").outcomes == ("timed_out", "timed_out")


def test_a_result_for_a_state_that_was_left_is_late() -> None:
    document = one_task()
    document["states"]["working"] = {"invoke": {"src": "work", "onDone": "done"}, "on": {"LEAVE": "left"}}
    document["states"]["left"] = {"on": {"STOP": "done"}}
    run = Workflow.load(document).task("work", fails(after="1m")).start().send("LEAVE")
    assert run.task("work").status == "cancelled"
    run.advance("1m")
    assert run.history[-1].type == "task.late"
    assert run.task("work").outcomes == ("late",)


def test_a_worker_that_dies_gives_its_task_back_three_times() -> None:
    run = Workflow.load(one_task()).task("work", crashes()).start().advance("1m")
    run.expect(status="failed", incident="task.lost")
    assert run.task("job").outcomes == ("lost", "lost", "lost")
    once = Workflow.load(one_task(onLost="fail")).task("work", crashes()).start().advance("1m")
    assert once.task("job").outcomes == ("lost",)


def test_work_goes_on_in_another_attempt() -> None:
    later = Continue({"seen": 1}, timedelta(minutes=5))
    run = Workflow.load(one_task()).task("work", later, fails("http.503"), succeeds("done")).start()
    assert (run.task("job").status, run.task("job").outcomes) == ("pending", ("continued",))
    run.advance("5m").advance("1s")
    run.expect(status="completed")
    assert (run.task("job").output, run.task("job").outcomes) == (
        "done",
        ("continued", "failed", "succeeded"),
    )


def test_a_function_is_told_how_often_it_was_asked() -> None:
    asked: list[int] = []

    def work(_input: Any, attempt: int) -> Any:
        asked.append(attempt)
        return "done" if attempt == 3 else Continue(after=timedelta(hours=1))

    run = Workflow.load(one_task()).task("work", work).start().settle(advance=True)
    run.expect(status="completed")
    assert asked == [1, 2, 3]
    assert run.now - START == timedelta(hours=2)


POLLING = {"task": {"type": "jobs.status"}, "until": "output.done", "interval": "30s", "maxAttempts": 3}


def test_a_poll_is_answered_check_by_check() -> None:
    workflow = Workflow.load(one_task("POLL", input=POLLING))
    run = workflow.task(
        "jobs.status", succeeds({"done": False}), succeeds({"done": True, "url": "u"})
    ).start()
    run.advance("30s")
    assert (run.task("job").type, run.task("job").polls) == ("POLL", 1)
    assert run.task("POLL").outcomes == ("continued",)
    run.advance().expect(status="completed")
    assert run.now - START == timedelta(minutes=1)
    assert run.task("job").output == {"done": True, "url": "u"}


def test_a_poll_gives_up() -> None:
    for name in ("job", "POLL"):
        run = Workflow.load(one_task("POLL", input=POLLING)).task(name, succeeds({"done": False})).start()
        run.settle(advance=True).expect(status="failed", incident="poll.exhausted")
    assert run.task("job").error == {
        "code": "poll.exhausted",
        "data": {"output": {"done": False}, "polls": 3},
        "message": 'poll "job" exceeded maxAttempts: "until" was not true after 3 checks',
    }


def test_starts_and_events_are_held_to_the_schemas_of_the_definition() -> None:
    number = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
    document = {**COUNTER, "input": number, "events": {"ADD": number}}
    workflow = Workflow.load(document)
    with pytest.raises(Invalid, match="n: the value is not of type") as refused:
        workflow.start({"n": "x"})
    assert refused.value.code == "input.invalid"

    run = workflow.start({"n": 1}).send("ADD", n=2)
    with pytest.raises(Invalid) as refused:
        run.send("ADD", n="x")
    assert refused.value.code == "event.invalid"
    assert run.context == {"seen": [2]}


def test_what_has_no_attempts_cannot_go_on() -> None:
    with pytest.raises(WrongAnswer, match='task "job" has no attempts'):
        Workflow.load(one_task("HUMAN", assignee="ada")).task("HUMAN", Continue()).start()
    with pytest.raises(WrongAnswer, match='child "counter" has no attempts'):
        Workflow.load(parent()).child("counter", lambda _input, _attempt: Continue()).start()


def test_a_person_is_played_or_answers_by_hand() -> None:
    document = one_task("HUMAN", assignee="ada")
    assert Workflow.load(document).task("HUMAN", succeeds("yes")).start().status == "completed"
    assert (
        Workflow.load(document).task("HUMAN", succeeds("yes", after="1d")).start().advance("1d").status
        == "completed"
    )
    assert Workflow.load(document).task("HUMAN", hangs()).start().status == "waiting"
    run = Workflow.load(document).start().complete("job", {"approved": True})
    assert run.task("job").output == {"approved": True}
    refused = Workflow.load(document).start().fail("job", "declined")
    refused.expect(status="failed", incident="declined")


def test_what_a_person_sends_has_to_fit_the_form() -> None:
    form = {
        "type": "object",
        "required": ["approved"],
        "properties": {"approved": {"type": "boolean"}},
    }
    document = one_task("HUMAN", form=form)
    run = Workflow.load(document).start()
    with pytest.raises(Invalid, match='does not fit the form of task "job": approved: ') as refused:
        run.complete("job", {"approved": "yes"})
    assert refused.value.code == "task.output_invalid"
    run.expect(status="waiting").complete("job", {"approved": True}).expect(status="completed")

    with pytest.raises(Invalid, match='"approved" is a required property'):
        Workflow.load(document).task("job", succeeds({})).start()
    Workflow.load(document).start().fail("job", "human.rejected").expect(incident="human.rejected")


@pytest.mark.parametrize("type", ["HUMAN", "parcels.ship"])
def test_items_are_ended_by_hand_in_their_turn(type: str) -> None:
    work = {"items": ["a", "b", "c"], "concurrency": 1, "task": {"type": type, "name": "ship"}}
    document = {
        "id": "shipping",
        "initial": "shipping",
        "states": {
            "shipping": {"invoke": {"src": "MAP", "input": work, "outputKey": "all", "onDone": "shipped"}},
            "shipped": {"type": "final"},
        },
    }
    run = Workflow.load(document).start()
    with pytest.raises(Unexpected, match=r"found its turn has not come: other items of its MAP are first"):
        run.complete("ship#1", 2)
    run.complete("ship", 1)
    assert run.task("ship#0").status == "succeeded"
    run.complete("ship#1", 2).complete("ship", 3)
    run.expect(status="completed", context={"all": {"errors": [], "results": [1, 2, 3]}})


def test_tasks_without_an_answer_stay_open_for_the_test_to_end() -> None:
    run = ordered()
    assert run.status == "running"
    run.fail("orders.validate", "http.503", "busy", data={"seconds": 9})
    with pytest.raises(Unexpected, match="found it is not due before 2026-01-01T00:00:02"):
        run.complete("orders.validate")
    run.advance("2s").complete("orders.validate", {"ok": 1})
    assert run.configuration == ["review"]


def test_handlers_are_called() -> None:
    registry = Registry()
    seen = []

    def validate(input: Any, context: Any) -> Any:
        seen.append((context.attempt, context.progress))
        context.heartbeat(context.attempt)
        if context.attempt == 1:
            raise RuntimeError("busy")
        return {"ok": len(input["lines"])}

    options = Options(retry={"maxAttempts": 2, "interval": "1m"})
    registry.add(make_handler("orders.validate", validate, options=options))
    registry.add(make_handler("EMAIL", lambda _input: None, built_in=True))
    document = {name: value for name, value in ORDER.items() if name != "defaults"}
    run = Workflow.load(document, handlers=registry).start({"lines": [7]}).settle(advance=True)
    assert seen == [(1, None), (2, 1)]
    assert run.now == START + timedelta(minutes=1)
    assert run.context == {"checked": 1}
    mail = one_task("EMAIL", input={"to": "ada@example.com", "subject": "Hello", "text": "Good morning."})
    assert Workflow.load(mail, handlers=registry).start().status == "running"
    assert Workflow.load(one_task("unknown"), handlers=True).start().status == "running"


def test_tasks_that_are_due_together_run_by_priority() -> None:
    run = Workflow.load(many("0s", "5s", "0s", ranked=True)).task("work", succeeds()).start()
    assert run.context["heard"] == ["job-2", "job-0"]
    assert run.settle(advance=True).context["heard"] == ["job-2", "job-0", "job-1"]


# -- children ----------------------------------------------------------------------------------------------------------


def test_a_child_is_played() -> None:
    workflow = Workflow.load(parent(child="packing", input={"n": 1})).child(
        "packing", succeeds({"parcel": 1})
    )
    run = workflow.start()
    assert run.context["answer"]["output"] == {"parcel": 1}
    assert [child.status for child in run.children] == ["completed"]
    later = Workflow.load(parent(child="packing")).child("packing", succeeds(1, after="1h")).start()
    later.expect(status="waiting").advance("1h").expect(status="completed")


def test_a_child_that_is_played_fails() -> None:
    document = catching(parent(child="packing"), "error.workflow.packing")
    run = Workflow.load(document).child("packing", fails("no.boxes")).start()
    run.expect(configuration=["caught"])
    assert run.context["error"]["data"]["error"]["code"] == "no.boxes"


def test_a_child_is_ended_by_hand() -> None:
    run = Workflow.load(parent(child="packing")).start()
    assert run.child("packing").status == "waiting"
    run.complete_child("packing", {"parcel": 2})
    run.expect(status="completed")
    with pytest.raises(Unexpected, match='expected child "packing" to be waiting\nfound completed'):
        run.fail_child("packing")
    with pytest.raises(Unexpected, match='expected a child of "unpacking"\nfound children of packing'):
        run.child("unpacking")
    broken = Workflow.load(parent(child="packing")).start().fail_child("packing", "no.boxes")
    assert broken.child("packing").error is not None
    assert broken.child("packing").error["code"] == "no.boxes"


def test_a_child_runs_its_own_definition() -> None:
    workflow = Workflow.load(parent())
    assert workflow.definition(json.dumps(COUNTER)) == "counter"
    run = workflow.start()
    run.child("counter").send("ADD", n=4).send("STOP")
    run.expect(status="completed")
    assert workflow.start(definition="counter").configuration == ["counting"]
    with pytest.raises(Unexpected, match="one that runs its own definition"):
        workflow.start().complete_child("counter")


# -- control ------------------------------------------------------------------------------------------------------------


def test_an_incident_and_its_ways_out() -> None:
    document = waiting_with_task(retry={"maxAttempts": 1})
    workflow = Workflow.load(document).task("work", fails("http.503"), succeeds(7))
    run = workflow.start()
    assert run.incident is not None
    assert (run.incident.code, run.incident.detail["error"]["code"]) == ("http.503", "http.503")
    assert "http.503" in run.incident.message
    run.send("ADD", n=1)
    assert run.context["seen"] == []
    run.retry("it is back")
    run.expect(status="waiting", context={"output": 7, "seen": [1]}, incident=None)

    skipped = workflow.start().skip({"by": "hand"}, reason="never mind")
    skipped.expect(context={"output": {"by": "hand"}})
    with pytest.raises(Unexpected, match="expected an open incident"):
        skipped.skip()
    assert workflow.start().restart("working", context={"seen": [9]}).context["seen"] == [9]


def test_control_is_refused_as_the_api_refuses_it() -> None:
    run = Workflow.load(COUNTER).start()
    with pytest.raises(Conflict, match="cannot resume instance"):
        run.resume()
    with pytest.raises(Conflict, match="cannot retry instance"):
        run.retry()
    with pytest.raises(Invalid, match='did you mean "counting"'):
        run.restart("countin")
    with pytest.raises(Invalid, match="belongs to the engine"):
        run.send("error.task.x")
    with pytest.raises(Invalid, match="note: expected text"):
        run.note("")
    run.note("looked at it", by="ada").cancel("enough")
    run.expect(status="cancelled")
    assert run.history.of_type("note")[0].actor == "ada"
    with pytest.raises(Conflict, match="cannot send an event to instance"):
        run.send("ADD", n=1)


def test_what_is_undone_has_nothing_left_to_retry() -> None:
    document = {
        "id": "trip",
        "initial": "flight",
        "states": {
            "flight": {
                "invoke": {
                    "src": "flights.book",
                    "compensate": {"type": "flights.cancel"},
                    "onDone": "paying",
                }
            },
            "paying": {"invoke": {"src": "cards.charge", "onDone": "booked"}},
            "booked": {"type": "final"},
        },
    }
    trip = Workflow.load(document).task("flights.book", succeeds()).task("flights.cancel", succeeds())
    run = trip.task("cards.charge", fails("card.declined", retryable=False)).start()
    run.expect(status="failed", incident="card.declined")
    entries = len(run.history)

    for way in (run.retry, run.skip):
        with pytest.raises(Conflict, match="what it had done is undone") as refused:
            way()
        assert refused.value.code == "instance.compensated"
    assert len(run.history) == entries


def test_a_failed_instance_does_not_go_on_under_a_business_key_that_another_holds() -> None:
    work = Workflow.load(one_task())
    first = work.start(business_key="o-1").fail("job", "gone", retryable=False)
    second = work.start(business_key="o-1")
    assert first.status == "failed"
    for way in (first.retry, first.skip, first.restart):
        with pytest.raises(Conflict, match='business key "o-1" is held by instance') as refused:
            way()
        assert refused.value.code == "instance.business_key_held"
    second.cancel()
    assert first.skip().status == "completed"


def test_pause_step_and_resume() -> None:
    run = Workflow.load(COUNTER).start().pause("month end")
    run.send({"type": "ADD", "n": 1}).send("ADD", n=2)
    assert run.context["seen"] == []
    assert run.step().context["seen"] == [1]
    assert run.resume().context["seen"] == [1, 2]
    assert run.history.of_type("instance.paused")[0].facts == {"reason": "month end"}


def test_what_is_said_together_is_taken_together() -> None:
    run = Workflow.load(COUNTER).start()
    with run.together():
        run.send("ADD", n=1)
        run.cancel()
    run.expect(status="cancelled", context={"seen": []})


# -- being told ----------------------------------------------------------------------------------------------------------


def test_an_expectation_that_fails_says_what_was_found_and_what_happened() -> None:
    run = ordered(fails("http.503"), succeeds({"ok": True}))
    with pytest.raises(Unexpected) as told:
        run.expect(status="completed")
    assert str(told.value).splitlines() == [
        'expected status "completed"',
        'found "running"',
        "",
        'instance of "order": running in ["validating"] at 2026-01-01T00:00:00.000000Z',
        'open task "orders.validate" (orders.validate), pending: it is not due before 2026-01-01T00:00:02.000000Z',
        "last 3 of 3 history entries:",
        *str(run.history).splitlines(),
    ]
    run.settle(advance=True)
    with pytest.raises(Unexpected, match="it takes the events APPROVED\n") as told:
        run.expect(context={"checked": False})
    assert "expected context.checked false\nfound true" in str(told.value)
    assert 'timer "review/2/1" fires at 2026-01-08T00:00:02' in str(told.value)
    with pytest.raises(
        Unexpected, match=r'expected task "orders\.valid"; did you mean "orders\.validate"\?\nfound tasks'
    ):
        run.task("orders.valid")
    assert str(told.value).endswith(f"\n\n{run.story}")
    assert repr(run) == "<Run of order: waiting in ['review']>"


def test_a_failed_instance_tells_its_incident_and_a_held_task_why_it_waits() -> None:
    run = Workflow.load(on_go(assign("x", "${1 / event.n}"))).start().send("GO", n=0)
    with pytest.raises(Unexpected, match=r"incident step\.uncaught: "):
        run.expect(status="waiting")
    held = Workflow.load(one_task()).start().pause()
    with pytest.raises(Unexpected, match="held, because its instance is paused or failed"):
        held.complete("job")


def test_the_last_ten_entries_are_told() -> None:
    run = Workflow.load(COUNTER).start()
    for n in range(8):
        run.send("ADD", n=n)
    with pytest.raises(Unexpected) as told:
        run.expect(output=object())
    assert f"last 10 of {len(run.history)} history entries" in str(told.value)
    assert str(told.value).endswith(str(run.history[-10:]))


def test_what_never_settles_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    document = {"id": "loop", "initial": "a", "states": {"a": {"after": {"0": "b"}, "on": {"END": "c"}},
        "b": {"after": {"0": "a"}}, "c": {"type": "final"}}}  # fmt: skip
    monkeypatch.setattr("signalbox.testing.world.MAX_TURNS", 50)
    with pytest.raises(NeverSettles, match="more to do after 50 turns at one instant"):
        Workflow.load(document).start()


def test_a_clock_that_is_moved_for_ever_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    document = {"id": "tick", "initial": "a", "states": {"a": {"after": {"1": {"target": "a", "reenter": True}}, "on": {"END": "c"}},
        "c": {"type": "final"}}}  # fmt: skip
    monkeypatch.setattr("signalbox.testing.world.MAX_JUMPS", 50)
    assert Workflow.load(document).start().advance(50).now == START + timedelta(milliseconds=50)
    with pytest.raises(NeverSettles, match="more due after 50 moves of the clock"):
        Workflow.load(document).start().advance("1m")


def test_it_needs_neither_a_broker_nor_a_database_nor_a_server() -> None:
    program = "import sys, signalbox.testing; print([m for m in ('celery', 'kombu', 'redis', 'flask', 'alembic') if m in sys.modules])"
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert told.stdout == "[]\n"


# -- loading ------------------------------------------------------------------------------------------------------------


def test_a_definition_written_in_python_passes_the_same_door_as_any_other() -> None:
    with pytest.raises(Invalid, match=r"context\.number: integer beyond"):
        Workflow.load({**ORDER, "context": {"number": 2**53 + 1}})


def test_a_definition_is_loaded_from_a_path_a_text_or_a_document(tmp_path: Path) -> None:
    path = tmp_path / "order.json"
    path.write_text(json.dumps(ORDER))
    for source in (path, str(path), path.read_text(), ORDER):
        assert Workflow.load(source).key == "order"
    with pytest.raises(FileNotFoundError):
        Workflow.load(str(tmp_path / "ordre.json"))
    with pytest.raises(ValueError, match="found naive"):
        Workflow.load(ORDER, at=datetime(2026, 1, 1))  # noqa: DTZ001 - the point


def test_every_problem_of_a_definition_is_told() -> None:
    document = after("1h", lost={"on": {"GO": "nowhere"}})
    document["states"]["early"]["on"]["LEAVE"] = "lft"
    with pytest.raises(InvalidDefinition) as told:
        Workflow.load(document)
    assert len(told.value.problems) >= 2
    assert "did you mean 'left'?" in str(told.value)
    assert "nowhere" in str(told.value)


def test_what_the_door_says_of_the_types_that_come_along_is_told() -> None:
    with pytest.raises(InvalidDefinition, match=r"input\.urll: 'urll' is not known here"):
        Workflow.load(one_task("HTTP", input={"method": "GET", "url": "https://orders.example", "urll": ""}))
    with pytest.raises(InvalidDefinition, match=r'form\.type: expected one of .*, found "objct"'):
        Workflow.load(one_task("HUMAN", form={"type": "objct"}))


def test_what_check_warns_of_is_kept() -> None:
    document = after("1h", lost={"on": {"GO": "done"}})
    [warning] = Workflow.load(document).warnings
    assert "lost" in warning
    assert Workflow.load(one_task()).warnings == []


def test_an_answer_for_a_name_that_nothing_has_is_an_error_after_the_start_too() -> None:
    order = Workflow.load(ORDER).task("orders.validate", hangs())
    order.start({"lines": []})

    with pytest.raises(UnknownName, match=r'task "orders\.validat": no definition names it; did you mean'):
        order.task("orders.validat", succeeds())
    with pytest.raises(UnknownName, match='child "pack": no definition names it; there are none'):
        order.child("pack", succeeds())
    with pytest.raises(UnknownName, match='task "TIMER": no definition names it'):
        order.task("TIMER", succeeds())

    order.definition(parent("pack"))
    order.child("pack", succeeds()).task("orders.validate", succeeds({"ok": True}))
    assert order.start({"lines": []}).configuration == ["review"], "what was refused left nothing behind"


def test_a_misspelt_name_is_told() -> None:
    with pytest.raises(
        UnknownName, match=r'task "orders\.valdate": no definition names it; did you mean "orders\.validate"'
    ):
        Workflow.load(ORDER).task("orders.valdate", succeeds()).start()
    with pytest.raises(UnknownName, match='child "pack": no definition names it; there are none'):
        Workflow.load(ORDER).child("pack", succeeds()).start()
    with pytest.raises(TypeError, match='task "x": expected at least one answer'):
        Workflow.load(ORDER).task("x")
    with pytest.raises(TypeError, match="found 3"):
        Workflow.load(ORDER).task("x", 3)  # type: ignore[arg-type]


def test_an_answer_that_nothing_would_ask_for_is_told() -> None:
    document = on_go(
        {"type": "createTask", "task": {"type": "LOG", "name": "say", "input": {"message": "x"}}},
    )
    with pytest.raises(UnknownName, match='task "LOG": tasks of this type are done by the engine'):
        Workflow.load(document).task("LOG", succeeds()).start()
    both = Workflow.load(parent()).child("counter", succeeds())
    both.definition(COUNTER)
    with pytest.raises(UnknownName, match='child "counter": its definition was added'):
        both.start()
    with pytest.raises(UnknownName, match='definition "cuonter": expected one that was added'):
        Workflow.load(COUNTER).start(definition="cuonter")
    with pytest.raises(WrongAnswer, match='task "sub" waits for a child'):
        Workflow.load(with_task(child="packing")).task("sub", succeeds()).start()
    with pytest.raises(Unexpected, match="found one that waits for its child"):
        Workflow.load(with_task(child="packing")).start().complete("sub")


def test_an_instance_that_has_not_started_is_not_restarted() -> None:
    run = Workflow.load(COUNTER).start(start_after="1h").pause()
    with pytest.raises(Conflict, match="has not started"):
        run.restart()
    run.advance("1h").resume().expect(status="waiting")


def test_names_that_are_made_up_while_it_runs_are_not_checked() -> None:
    document = one_task(name="job-${instance.businessKey}")
    workflow = Workflow.load(document).task("job-7", succeeds())
    assert workflow.start(business_key="7").status == "completed"
    assert workflow.start(business_key="8").status == "running"
