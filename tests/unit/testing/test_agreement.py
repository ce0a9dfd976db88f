"""The kit and the real engine agree: the same script, on SQLite and in memory, has the same histories and rows."""

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any

import pytest

from common.db import Database
from common.db.tables import AttemptOutcome
from common.lifecycle import instance_can
from orchestrator.sweep import expire_due_leases
from signalbox import Permanent, Retryable
from signalbox.testing import Workflow, crashes, succeeds
from task_runner.context import TaskContext
from task_runner.registry import Continue, HandlerError, make_handler
from tests.integration.engine.children import catching, parent, with_task
from tests.integration.engine.documents import COUNTER, after, assign, on_go, one_task, waiting_with_task
from tests.integration.engine.sagas import step, trip
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock
from tests.unit.statechart.charts import document_of
from tests.unit.statechart.test_graph import ONBOARDING
from tests.unit.testing.both import Both
from tests.unit.testing.documents import many

EXACT = {"maxAttempts": 3, "interval": "10s", "jitter": 0}
HELLO = json.loads(files("signalbox.examples").joinpath("hello-workflow.json").read_text())


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[Engine]:
    database = Database.open(sqlite_url)
    yield Engine.on(database)
    database.dispose()


@pytest.fixture
def clock(engine: Engine) -> Iterator[ManualClock]:
    clock = ManualClock(engine.database, datetime(2026, 3, 1, 12, tzinfo=UTC))
    yield clock
    clock.release()


def failing(times: int, code: str = "http.503") -> Any:
    """Fails so many times, then returns the number of the attempt."""

    def work(_input: Any, attempt: int) -> int:
        if attempt <= times:
            raise HandlerError(f"no {attempt}", code=code, data={"n": attempt})
        return attempt

    return work


def test_hello(engine: Engine, clock: ManualClock) -> None:
    both = Both.begin(engine, clock, HELLO, answers={"EMAIL": lambda _input, _n: {"messageId": "m-1"}})
    assert both.run.status == "completed"


@pytest.mark.parametrize(("department", "fails"), [("Engineering", 0), ("Sales", 0), ("Sales", 5)])
def test_the_onboarding_graph(engine: Engine, clock: ManualClock, department: str, fails: int) -> None:
    document = document_of(ONBOARDING, context={"nodes": {}}, defaults={"retry": EXACT})
    answers = {
        "identity.provision": lambda _input, _n: {"accountId": "a-1"},
        "ai.generate_content": lambda _input, _n: {"content": "Hello"},
        "slack.channel_invite": failing(fails),
        "email.send": failing(1),
        "identity.deprovision": lambda _input, _n: None,
    }
    employee = {"email": "a@x.io", "firstName": "A", "department": department}
    both = Both.begin(engine, clock, document, answers=answers, input={"employee": employee})
    both.advance(minutes=2)
    assert both.run.path[-1] == ("failed" if fails else "completed")


@pytest.mark.parametrize("way", ["retry", "skip", "restart", "cancel"])
def test_a_task_that_fails_for_good_and_every_way_out(engine: Engine, clock: ManualClock, way: str) -> None:
    document = waiting_with_task(retry=EXACT)
    both = Both.begin(engine, clock, document, answers={"work": failing(4)})
    both.send("ADD", n=1).advance(seconds=60)
    assert both.run.status == "failed"
    both.send("ADD", n=2)
    if way == "skip":
        both.skip({"by": "hand"})
    else:
        both.say(way)
    both.advance(seconds=60)
    assert both.run.status == {"cancel": "cancelled", "restart": "failed"}.get(way, "waiting")


def test_permanent_errors_and_codes_that_are_not_tried_again(engine: Engine, clock: ManualClock) -> None:
    def permanent(_input: Any, _attempt: int) -> None:
        raise Permanent("no such card", code="card.unknown")

    retry = {**EXACT, "doNotRetryOn": ["http.*"]}
    document = one_task(retry=retry)
    document["states"]["working"]["entry"].append(
        {"type": "createTask", "task": {"type": "pay", "name": "pay", "retry": EXACT}}
    )
    document["states"]["working"]["on"]["error.task.pay"] = {"actions": [assign("why", "${event.error}")]}
    both = Both.begin(engine, clock, document, answers={"work": failing(9), "pay": permanent})
    assert both.run.incident is not None
    assert both.run.incident.code == "http.503"
    both.skip()
    assert [task.attempts for task in both.run.tasks] == [1, 1]


def test_timers_a_delayed_send_and_what_is_cancelled(engine: Engine, clock: ManualClock) -> None:
    to_self = {"type": "send", "to": "self", "event": {"type": "PING"}, "delay": "5s", "id": "ping"}
    document = after(
        "1m",
        late={"entry": [to_self], "on": {"PING": "pinged", "STOP": "done"}},
        pinged={"after": {"1d": "done"}},
    )
    both = Both.begin(engine, clock, document)
    both.advance(seconds=59).advance(seconds=1).advance(seconds=5)
    assert both.run.path == ["early", "late", "pinged"]
    both.advance(days=1)
    assert both.run.status == "completed"


def test_the_time_of_an_instance_is_over_while_it_is_paused(engine: Engine, clock: ManualClock) -> None:
    both = Both.begin(engine, clock, {**COUNTER, "timeout": "1h"})
    both.say("pause").send("ADD", n=1).advance(hours=1)
    assert both.run.status == "timed_out"


def test_what_waits_parked_is_taken_up_in_its_order(engine: Engine, clock: ManualClock) -> None:
    document = waiting_with_task(retry=EXACT)
    both = Both.begin(engine, clock, document, answers={"work": failing(1)})
    both.say("pause").send("ADD", n=1).advance(minutes=1).send("ADD", n=2)
    assert both.run.context["seen"] == []
    both.say("step").say("step").say("resume").advance(minutes=1)
    assert both.run.context["seen"] == [1, 2]
    both.send("STOP")


def test_commands_overtake_and_what_comes_after_the_end_is_rejected(
    engine: Engine, clock: ManualClock
) -> None:
    both = Both.begin(engine, clock, after("1h"))
    both.together("LEAVE", ("say", "cancel"), "STOP")
    assert both.run.status == "cancelled"
    assert "event.rejected" in both.run.history.types()


@pytest.mark.parametrize("bound", ["scheduleToStart", "scheduleToClose"])
def test_time_outs_that_need_no_runner(engine: Engine, clock: ManualClock, bound: str) -> None:
    both = Both.begin(engine, clock, one_task(timeouts={bound: "30s"}))
    both.say("pause").advance(seconds=10).say("resume").advance(seconds=40)
    assert both.run.status == "failed"
    both.say("retry").advance(seconds=31)


def test_a_try_that_could_not_begin_in_time_is_not_waited_for(engine: Engine, clock: ManualClock) -> None:
    document = one_task(timeouts={"scheduleToClose": "25s"}, retry=EXACT)
    both = Both.begin(engine, clock, document, answers={"work": failing(9)})
    both.advance(seconds=40)
    assert both.run.task("job").attempts == 2


def test_a_child_that_ends(engine: Engine, clock: ManualClock) -> None:
    both = Both.begin(engine, clock, parent(businessKey="c-1", input={"n": 1}), others=(COUNTER,))
    both.send_child("ADD", n=1).send_child("STOP")
    assert both.run.status == "completed"
    assert both.run.context["answer"]["status"] == "completed"


@pytest.mark.parametrize("make", [parent, with_task])
def test_a_child_whose_parent_leaves(engine: Engine, clock: ManualClock, make: Any) -> None:
    both = Both.begin(engine, clock, make(), others=(COUNTER,))
    both.send("LEAVE").send("STOP")
    assert both.run.child("counter").status == "cancelled"


def test_a_child_that_fails_is_caught(engine: Engine, clock: ManualClock) -> None:
    child = one_task(retry={"maxAttempts": 1})
    caught = catching(parent(child="one-work"), "error.workflow.one-work")
    both = Both.begin(engine, clock, caught, others=(child,), answers={"work": failing(1)})
    assert both.run.configuration == ["caught"]


def test_a_parent_that_catches_nothing_waits_with_its_failed_child(
    engine: Engine, clock: ManualClock
) -> None:
    child = one_task(retry={"maxAttempts": 1})
    both = Both.begin(engine, clock, parent(child="one-work"), others=(child,), answers={"work": failing(1)})
    assert (both.run.status, both.run.child("one-work").status) == ("waiting", "failed")
    both.say("cancel")
    assert both.run.child("one-work").status == "cancelled"


def test_a_child_of_a_version_that_is_not_there_and_a_key_that_is_held(
    engine: Engine, clock: ManualClock
) -> None:
    both = Both.begin(engine, clock, parent(version=7), others=(COUNTER,))
    assert both.run.status == "failed"
    both.say("retry").skip({"n": 1})


def test_children_that_nobody_waits_for(engine: Engine, clock: ManualClock) -> None:
    start = {"type": "startWorkflow", "definitionKey": "counter", "wait": False, "cancelWithParent": False}
    document = on_go({**start, "businessKey": "same"})
    both = Both.begin(engine, clock, document, others=(COUNTER,))
    both.send("GO").send("GO").send_child("STOP")
    assert "child.completed" not in both.run.history.types()
    assert both.run.incident is not None
    assert both.run.incident.code == "instance.business_key_held"


def test_events_between_instances(engine: Engine, clock: ManualClock) -> None:
    to_counter = {"definitionKey": "counter", "businessKey": "c-1"}
    tell = {"type": "send", "to": to_counter, "event": {"type": "ADD", "n": 3}}
    start = {"type": "startWorkflow", "definitionKey": "counter", "businessKey": "c-1"}
    document = on_go(tell)
    document["states"]["idle"]["on"]["BEGIN"] = {"actions": [start]}
    document["states"]["idle"]["on"]["error.communication"] = {"actions": [assign("lost", "${event.target}")]}
    both = Both.begin(engine, clock, document, others=(COUNTER,))
    both.send("GO").send("BEGIN").send("GO")
    assert both.run.context["lost"] == to_counter
    assert both.run.child("counter").context["seen"] == [3]


def test_the_same_work_is_done_once(engine: Engine, clock: ManualClock) -> None:
    wanted = {"type": "pay", "name": "pay", "idempotencyKey": "order-1", "completionEvent": "PAID"}
    document = on_go({"type": "createTask", "task": {**wanted, "retry": EXACT}}, context={"heard": []})
    heard = assign("heard", "${context.heard + [event.output]}")
    document["states"]["idle"]["on"]["PAID"] = {"actions": [heard]}
    both = Both.begin(engine, clock, document, answers={"pay": failing(1)})
    both.send("GO").send("GO").advance(seconds=10).send("GO")
    assert both.run.context["heard"] == [2, 2, 2]
    assert len(both.run.tasks) == 1


def test_a_step_that_fails_and_its_ways_out(engine: Engine, clock: ManualClock) -> None:
    divide = assign("quotient", "${8 / event.n}")
    both = Both.begin(engine, clock, on_go(divide))
    both.send("GO", n=0).send("GO", n=2)
    assert both.run.status == "failed"
    both.say("retry").skip()
    assert both.run.context == {"quotient": 4}


def test_a_task_that_waits_for_a_child_and_is_withdrawn(engine: Engine, clock: ManualClock) -> None:
    both = Both.begin(engine, clock, with_task(), others=(COUNTER,))
    both.send("DROP")
    assert both.run.child("counter").status == "cancelled"
    both.send("STOP") if both.run.status == "running" else both.say("cancel")


def test_delayed_tasks(engine: Engine, clock: ManualClock) -> None:
    both = Both.begin(engine, clock, many("0s", "5s", "0s"), answers={"work": lambda _input, _n: None})
    both.advance(seconds=5)
    assert both.run.context["heard"] == ["job-0", "job-2", "job-1"]


def test_a_step_limit_and_a_start_later(engine: Engine, clock: ManualClock) -> None:
    both = Both.begin(engine, clock, {**COUNTER, "maxSteps": 3})
    both.send("ADD", n=1).send("ADD", n=2).send("ADD", n=3)
    assert both.run.incident is not None
    assert both.run.incident.code == "limit.steps"
    both.say("restart", context={"seen": [0]})


# -- maps ------------------------------------------------------------------------------------------------------------


def negative_fails(input: Any, _attempt: int) -> Any:
    if input < 0:
        raise Permanent("negative")
    return input * 2


def mapping(*, catches: bool = True, **input: Any) -> dict[str, Any]:
    answers = {"onDone": "done", **({"onError": "lost"} if catches else {})}
    task = {"type": "work", "input": "${item}", "retry": EXACT}
    invoke = {"src": "MAP", "input": {"items": "${input.items}", "task": task, **input}, **answers}
    return {
        "id": "mapping",
        "initial": "working",
        "states": {
            "working": {"invoke": invoke, "on": {"LEAVE": "lost"}},
            "lost": {"on": {"BACK": "working"}},
            "done": {"type": "final"},
        },
    }


@pytest.mark.parametrize("items", [[], [1], [1, 2, 3], [1, -2, 3], [-1, -2]], ids=str)
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"onError": "waitAll"},
        {"join": "any"},
        {"join": {"quorum": 2}},
        {"join": {"quorum": 2}, "onError": "waitAll"},
        {"concurrency": 1},
        {"concurrency": 1, "join": "any"},
    ],
    ids=str,
)
def test_maps_of_every_kind(
    engine: Engine, clock: ManualClock, items: list[int], more: dict[str, Any]
) -> None:
    both = Both.begin(
        engine, clock, mapping(**more), answers={"work": negative_fails}, input={"items": items}
    )
    both.advance(minutes=1)
    assert both.run.status in ("completed", "waiting", "failed")


@pytest.mark.parametrize("concurrency", [None, 1])
def test_a_map_that_is_left_paused_and_asked_for_again(
    engine: Engine, clock: ManualClock, concurrency: int | None
) -> None:
    document = mapping(concurrency=concurrency)
    both = Both.begin(engine, clock, document, input={"items": [1, 2, 3]})
    both.say("pause").say("resume").send("LEAVE").send("BACK")
    both.together("LEAVE", "BACK", "LEAVE")
    assert [task.status for task in both.run.tasks if task.type == "MAP"] == ["cancelled"] * 3


def test_a_map_that_is_retried_and_given_up(engine: Engine, clock: ManualClock) -> None:
    both = Both.begin(
        engine, clock, mapping(catches=False, concurrency=2), answers={"work": negative_fails},
        input={"items": [1, -2, 3, 4]},
    )  # fmt: skip
    both.advance(minutes=1)
    assert both.run.status == "failed"
    both.say("retry").advance(minutes=1)
    both.skip({"given": "up"})
    assert both.run.status == "completed"


@pytest.mark.parametrize("concurrency", [None, 1])
def test_a_map_over_workflows(engine: Engine, clock: ManualClock, concurrency: int | None) -> None:
    document = mapping(concurrency=concurrency, onError="waitAll")
    given = document["states"]["working"]["invoke"]["input"]
    del given["task"]
    given["workflow"] = {"definitionKey": "${item}"}
    both = Both.begin(engine, clock, document, others=(COUNTER,), input={"items": ["counter", "counter"]})
    both.say("pause").say("resume")
    both.send_child("STOP")
    both.send("LEAVE").advance(minutes=1)
    both.send("BACK")
    both.send_child("STOP")
    if concurrency is not None:
        both.send_child("STOP")
        assert both.run.status == "completed"


def test_a_map_over_workflows_that_is_tried_again(engine: Engine, clock: ManualClock) -> None:
    document = mapping(catches=False)
    given = document["states"]["working"]["invoke"]["input"]
    del given["task"]
    given["workflow"] = {"definitionKey": "${item}"}
    both = Both.begin(engine, clock, document, others=(COUNTER,), input={"items": ["counter", "counter"]})
    both.send_item(1, "ADD")
    assert both.run.status == "failed"
    both.say("retry")
    assert [child.status for child in both.run.children] == ["waiting", "failed"]
    both.cancel_item(1)
    both.say("retry")
    assert [child.status for child in both.run.children] == ["waiting", "cancelled", "waiting"]
    both.send_item(1, "STOP").send_item(0, "STOP")
    assert both.run.status == "completed"


def test_a_map_that_runs_out_of_time(engine: Engine, clock: ManualClock) -> None:
    document = mapping(concurrency=1)
    document["states"]["working"]["invoke"]["timeout"] = "30s"
    both = Both.begin(engine, clock, document, input={"items": [1, 2]})
    both.advance(minutes=1)
    assert both.run.configuration == ["lost"]


# -- attempts that are under way -------------------------------------------------------------------------------------


def test_a_result_that_comes_too_late(engine: Engine, clock: ManualClock) -> None:
    document = one_task()
    document["states"]["working"] = {"invoke": {"src": "work", "onDone": "done"}, "on": {"LEAVE": "left"}}
    document["states"]["left"] = {"on": {"STOP": "done"}}
    both = Both(engine, clock, Workflow.load(document, at=clock.now()))
    both.run = both.workflow.task("work", succeeds({"n": 1}, after="5s")).start()
    engine.registry.add(make_handler("work", lambda _input: {"n": 1}))
    both.instance_id = str(engine.start(document))
    engine.advance()
    [claim] = engine.claim()

    both.send("LEAVE")
    clock.advance(timedelta(seconds=5))
    assert engine.report(engine.call(claim)).late == 1
    both.run.advance("5s")
    both.agreed()


def test_workers_that_die(engine: Engine, clock: ManualClock) -> None:
    document = one_task()
    both = Both(engine, clock, Workflow.load(document, at=clock.now()))
    both.run = both.workflow.task("work", crashes()).start()
    engine.registry.add(make_handler("work", lambda _input: None))
    both.instance_id = str(engine.start(document))
    engine.advance()
    for _ in range(3):
        assert len(engine.claim()) == 1
        clock.advance(timedelta(milliseconds=8_001))
        assert expire_due_leases(engine.database) == 1
    both.run.advance("1m")
    clock.advance(timedelta(minutes=1) - timedelta(milliseconds=3 * 8_001))
    engine.advance()
    assert [entry["type"] for entry in engine.entries(both.instance_id)] == both.run.history.types()
    [real], [played] = both.real(), both.played()
    assert real["tasks"][0][3:7] == played["tasks"][0][3:7] == ["failed", 1, 2, 3]


def in_turns(last: int, after: timedelta, fails_first: bool = False) -> Any:
    """Goes on until its turn `last`; with `fails_first`, each turn fails at its first attempt."""

    def work(_input: Any, context: TaskContext) -> Any:
        turn = (context.state or {"turn": 0})["turn"] + 1
        if fails_first and context.attempt == 1:
            raise HandlerError(f"no turn {turn} yet", code="http.503")
        return {"turns": turn} if turn == last else Continue({"turn": turn}, after)

    return work


@pytest.mark.parametrize("fails_first", [False, True])
def test_work_that_goes_on_in_further_attempts(engine: Engine, clock: ManualClock, fails_first: bool) -> None:
    document = waiting_with_task(retry=EXACT, timeouts={"scheduleToStart": "1m"})
    work = in_turns(4, timedelta(minutes=5), fails_first)
    both = Both.begin(engine, clock, document, handlers={"work": work})
    both.advance(minutes=7)
    both.say("pause").advance(minutes=20).say("resume").advance(minutes=20)
    assert both.run.task("job").output == {"turns": 4}
    assert both.run.task("job").outcomes.count(AttemptOutcome.CONTINUED) == 3


def test_work_that_goes_on_for_too_long(engine: Engine, clock: ManualClock) -> None:
    document = one_task(timeouts={"scheduleToClose": "12m"})
    both = Both.begin(engine, clock, document, handlers={"work": in_turns(9, timedelta(minutes=5))})
    both.advance(hours=1)
    assert both.run.incident is not None
    assert both.run.incident.code == "task.schedule_to_close_timeout"


def polled(**members: Any) -> dict[str, Any]:
    given = {"task": {"type": "check", "retry": EXACT}, "until": "output.n >= 3", "interval": "1m", **members}
    return waiting_with_task("POLL", input=given)


@pytest.mark.parametrize(
    ("members", "polls", "code"),
    [
        ({}, 3, None),
        ({"checkFirst": True}, 3, None),
        ({"maxAttempts": 2}, 4, "poll.exhausted"),
        ({"timeout": "90s"}, 2, "poll.timed_out"),
        ({"until": "output"}, 1, "poll.until"),
    ],
)
def test_polls(
    engine: Engine, clock: ManualClock, members: dict[str, Any], polls: int, code: str | None
) -> None:
    asked: list[str] = []

    def check(_input: Any, context: TaskContext) -> Any:
        asked.append(context.task_id)
        calls = asked.count(context.task_id)
        if calls in (2, 3):
            raise HandlerError("not now", code="http.503")
        return {"n": calls - (2 if calls > 3 else 0)}

    both = Both.begin(engine, clock, polled(**members), handlers={"check": check})
    both.advance(minutes=5)
    if code is not None:
        assert both.run.incident is not None
        assert both.run.incident.code == code
        if code == "poll.exhausted":
            both.say("retry").advance(minutes=5)
    view = both.run.task("job")
    assert (view.type, view.polls) == ("POLL", polls if code != "poll.exhausted" else 3)


# -- any script at all ---------------------------------------------------------------------------------------------


BUSY = {
    "id": "busy",
    "context": {"seen": []},
    "type": "parallel",
    "timeout": "2h",
    "defaults": {"retry": EXACT},
    "states": {
        "work": {
            "initial": "resting",
            "states": {
                "resting": {"on": {"GO": "working", "CHILD": "parenting"}, "after": {"40s": "working"}},
                "working": {
                    "invoke": {"src": "work", "onDone": "resting", "timeouts": {"scheduleToClose": "35s"}},
                    "on": {"LEAVE": "resting"},
                },
                "parenting": {
                    "entry": [{"type": "startWorkflow", "definitionKey": "counter"}],
                    "on": {"done.workflow.counter": "resting", "LEAVE": "resting"},
                },
            },
        },
        "count": {
            "initial": "open",
            "states": {
                "open": {
                    "entry": [{"type": "raise", "event": "TICK", "delay": "25s"}],
                    "on": {
                        "TICK": {"target": "open", "reenter": True},
                        "ADD": {"actions": [assign("seen", "${context.seen + [10 / event.n]}")]},
                    },
                }
            },
        },
    },
}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("goes_on", [False, True])
def test_any_script(engine: Engine, clock: ManualClock, seed: int, goes_on: bool) -> None:
    chosen = random.Random(seed)
    work = {"handlers": {"work": in_turns(3, timedelta(seconds=7), fails_first=seed % 2 == 0)}}
    if not goes_on:
        work = {"answers": {"work": failing(seed % 4)}}
    both = Both.begin(engine, clock, BUSY, others=(COUNTER,), **work)
    for _ in range(20):
        verbs = [verb for verb in VERBS if instance_can(verb, both.run.status)]
        match chosen.choice(["send", "send", "advance", "advance", "child", "say"]):
            case "send" if instance_can("send", both.run.status):
                both.send(chosen.choice(["GO", "LEAVE", "CHILD", "ADD"]), n=chosen.randrange(5))
            case "child" if both.run.children and both.run.children[-1].status == "waiting":
                both.send_child(chosen.choice(["ADD", "STOP"]), n=1)
            case "say" if verbs and chosen.random() < 0.6:
                both.say(chosen.choice(verbs))
            case _:
                both.advance(seconds=chosen.choice([1, 10, 25, 60]))


VERBS = ("pause", "resume", "step", "retry", "restart")


def test_a_try_does_not_come_before_its_failure_allows_it(engine: Engine, clock: ManualClock) -> None:
    def busy(_input: Any, attempt: int) -> str:
        if attempt < 3:
            raise Retryable("busy", code="http.429", after=timedelta(seconds=30 * attempt))
        return "done"

    retry = {"interval": "1s", "maxInterval": "40s", "jitter": 0}
    both = Both.begin(engine, clock, one_task(retry=retry), answers={"work": busy})
    for seconds, attempts in ((29, 1), (1, 2), (39, 2), (1, 3)):
        both.advance(seconds=seconds)
        assert both.run.task("job").attempts == attempts
    assert both.run.status == "completed"


@pytest.mark.parametrize("way", ["waits", "leaves", "pauses"])
def test_a_task_of_people_in_time(engine: Engine, clock: ManualClock, way: str) -> None:
    due = {
        "in": "3h",
        "remind": ["1h", "2h"],
        "escalate": {"after": "1h", "assignee": "boss", "candidates": ["x"]},
    }
    document = waiting_with_task("HUMAN", assignee="ada", due=due)
    both = Both.begin(engine, clock, document)
    both.advance(hours=2)
    if way == "leaves":
        both.send("STOP")
    elif way == "pauses":
        both.say("pause").advance(hours=4).say("resume")
    both.advance(hours=4)
    assert both.run.status == ("completed" if way == "leaves" else "waiting")


BOOKING = {"do.flight": lambda _input, _n: {"receipt": 1}, "do.hotel": lambda _input, _n: {"receipt": 2}}
UNDOING = {
    "undo.flight": lambda _input, _n: None,
    "undo.hotel": failing(1),
    "do.car": failing(9),
    "undo.car": failing(0),
}


@pytest.mark.parametrize("wait", [True, False])
def test_what_was_done_is_undone_on_both_sides(engine: Engine, clock: ManualClock, wait: bool) -> None:
    both = Both.begin(engine, clock, trip(wait=wait), answers={**BOOKING, **UNDOING})
    if wait:
        both.say("cancel")
    assert both.run.status == "failed"
    assert both.run.incident is not None
    assert both.run.incident.code == "compensation.failed"
    both.advance(seconds=5)
    both.say("retry")
    assert both.run.status == ("cancelled" if wait else "failed")
    assert len(both.run.history.of_type("compensation.task.done")) == 2


def test_a_compensation_is_skipped_or_given_up_on_both_sides(engine: Engine, clock: ManualClock) -> None:
    both = Both.begin(engine, clock, trip(wait=True), answers={**BOOKING, **UNDOING})
    both.say("compensate").skip()
    assert both.run.status == "cancelled"


def test_a_cancel_without_compensation_on_both_sides(engine: Engine, clock: ManualClock) -> None:
    both = Both.begin(engine, clock, trip(wait=True), answers={**BOOKING, **UNDOING})
    both.say("cancel", compensate=False)
    assert both.run.status == "cancelled"
    assert [task.name for task in both.run.tasks] == ["do.flight", "do.hotel"]


def test_work_that_was_taken_back_is_told_on_both_sides(engine: Engine, clock: ManualClock) -> None:
    document = trip()
    document["states"]["hotel"] = step("hotel", "car", covers="attempted", input={})
    document["states"]["hotel"]["invoke"]["src"] = "nobody"
    answers = {name: answer for name, answer in {**BOOKING, **UNDOING}.items() if name != "do.hotel"}
    both = Both.begin(engine, clock, document, answers=answers)
    both.say("cancel")
    assert both.run.status == "cancelled"
    assert [task.name for task in both.run.tasks] == ["do.flight", "nobody", "undo.flight"]
