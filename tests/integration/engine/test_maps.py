"""MAP: items are tasks of their own, their ends are counted, and one event answers."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Connection

from common import faults
from common.commands.incidents import resolve_incident
from common.commands.outcome import report_outcomes
from common.commands.people import complete_task, reject_task
from common.faults import FaultInjected
from common.lifecycle import FINAL, InstanceStatus
from common.people import Person
from task_runner.registry import Permanent
from tests.integration.engine.maps import ending, items_of, join_of, mapping, output_of, statuses, the_map
from tests.support.engine import LIMITS, Engine
from tests.support.waiting import wait_until


def double(input: Any, _context: Any = None) -> Any:
    return {"twice": input * 2}


def picky(input: Any) -> Any:
    """Fails for what is negative."""
    if input < 0:
        raise Permanent(f"{input} is negative", code="work.negative")
    return input


def test_every_item_is_worked_and_one_event_answers(engine: Engine) -> None:
    engine.handler("work", double)
    instance_id = engine.start(mapping(), input={"items": [1, 2, 3]})
    engine.settle()

    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    assert engine.context(instance_id)["answer"] == {
        "results": [{"twice": 2}, {"twice": 4}, {"twice": 6}],
        "errors": [],
    }
    assert items_of(engine) == [(0, "succeeded"), (1, "succeeded"), (2, "succeeded")]
    assert join_of(engine) == (3, 0, True)
    entry = ending(engine, instance_id)
    assert entry["items"] == {"failed": 0, "open": 0, "succeeded": 3, "total": 3}
    assert len(entry["itemsDigest"]) == 64
    told = [one for one in engine.entry_types(instance_id) if one.startswith("task.")]
    assert told == ["task.created", "task.succeeded"]


def test_a_map_is_running_while_a_runner_has_work(engine: Engine) -> None:
    engine.handler("work", double)
    instance_id = engine.start(mapping(), input={"items": [1]})
    engine.advance()

    assert engine.status(instance_id) is InstanceStatus.RUNNING
    assert the_map(engine)["status"] == "running"


def test_the_first_failure_ends_it_and_the_rest_is_cancelled(engine: Engine) -> None:
    engine.handler("work", picky)
    instance_id = engine.start(mapping(), input={"items": [1, -2, 3]})
    engine.advance()
    claims = {claim.key[-1]: claim for claim in engine.claim()}
    engine.report(engine.call(claims["1"]))
    engine.advance()

    assert engine.status(instance_id) is InstanceStatus.WAITING
    error = engine.context(instance_id)["error"]
    assert (error["code"], error["data"]["index"]) == ("map.item_failed", 1)
    assert error["data"]["error"]["code"] == "work.negative"
    assert statuses(engine) == ["cancelled", "failed", "cancelled"]
    assert ending(engine, instance_id)["items"] == {"failed": 1, "open": 2, "succeeded": 0, "total": 3}

    assert engine.report(engine.call(claims["0"]), engine.call(claims["2"])).late == 2
    assert join_of(engine) == (0, 1, True)
    engine.advance()
    assert "task.late" not in engine.entry_types(instance_id)


def test_what_ends_between_the_decision_and_its_step_counts_nothing(engine: Engine) -> None:
    engine.handler("work", picky)
    instance_id = engine.start(mapping(), input={"items": [-1, 2]})
    engine.advance()
    first, second = sorted(engine.claim(), key=lambda claim: claim.key)
    engine.report(engine.call(first))
    assert engine.report(engine.call(second)).succeeded == 1

    assert join_of(engine) == (0, 1, True)
    engine.settle()
    assert statuses(engine) == ["failed", "succeeded"]
    assert engine.context(instance_id)["error"]["code"] == "map.item_failed"


def test_a_group_of_results_counts_all_of_them(engine: Engine) -> None:
    engine.handler("work", picky)
    engine.start(mapping(), input={"items": [5, -2, -3]})
    engine.advance()
    engine.report(*[engine.call(claim) for claim in engine.claim()])

    assert the_map(engine)["status"] == "failed"
    assert join_of(engine) == (1, 2, True)


@pytest.mark.parametrize(("items", "states"), [([], ["done"])])
def test_nothing_to_do_is_done_at_once(engine: Engine, items: list[Any], states: list[str]) -> None:
    instance_id = engine.start(mapping(), input={"items": items})
    engine.advance()

    assert engine.snapshot(instance_id)["configuration"] == states
    assert engine.context(instance_id)["answer"] == {"results": [], "errors": []}
    assert engine.execute("SELECT id FROM tasks") == []


# -- turns -------------------------------------------------------------------------------------------------------------


def test_only_so_many_run_at_once_and_each_end_lets_the_next_begin(engine: Engine) -> None:
    engine.handler("work", double)
    instance_id = engine.start(mapping(concurrency=2), input={"items": [0, 1, 2, 3, 4]})
    engine.advance()

    first = sorted(engine.claim(), key=lambda claim: claim.key)
    assert [claim.key[-2:] for claim in first] == ["#0", "#1"]
    assert engine.claim() == []
    engine.report(engine.call(first[1]))
    assert [claim.key[-2:] for claim in engine.claim()] == ["#2"]
    engine.report(engine.call(first[0]))
    assert [claim.key[-2:] for claim in engine.claim()] == ["#3"]
    assert engine.claim() == []
    assert engine.status(instance_id) is InstanceStatus.RUNNING


def test_two_hundred_items_a_few_at_a_time(engine: Engine) -> None:
    engine.handler("work", lambda input: input)
    instance_id = engine.start(mapping(concurrency=7), input={"items": list(range(200))})
    engine.settle()

    assert engine.context(instance_id)["answer"]["results"] == list(range(200))


def test_ten_thousand_items(engine: Engine) -> None:
    engine.handler("work", lambda input: input)
    instance_id = engine.start(mapping(concurrency=5_000), input={"items": list(range(10_000))})
    engine.advance()
    while claims := engine.claim(2_500):
        engine.report(*[engine.call(claim) for claim in claims])
    engine.advance()

    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    assert engine.context(instance_id)["answer"]["results"] == list(range(10_000))
    assert join_of(engine) == (10_000, 0, True)


# -- withdrawing -------------------------------------------------------------------------------------------------------


def test_leaving_the_state_cancels_every_item(engine: Engine) -> None:
    engine.handler("work", double)
    instance_id = engine.start(mapping(concurrency=1), input={"items": [1, 2, 3]})
    engine.advance()
    [claim] = engine.claim()
    engine.send(instance_id, "LEAVE")
    engine.advance()

    assert (the_map(engine)["status"], statuses(engine)) == ("cancelled", ["cancelled"] * 3)
    assert engine.report(engine.call(claim)).late == 1
    engine.send(instance_id, "STOP")
    engine.settle()
    assert engine.status(instance_id) is InstanceStatus.COMPLETED


def test_asked_for_and_left_within_one_batch_stores_no_item(engine: Engine) -> None:
    instance_id = engine.start(mapping(), input={"items": [1, 2, 3]})
    engine.send(instance_id, "LEAVE")
    engine.advance()

    assert (the_map(engine)["status"], items_of(engine)) == ("cancelled", [])
    assert engine.execute("SELECT task_id FROM joins") == []


def test_a_pause_holds_items_and_their_turns(engine: Engine) -> None:
    engine.handler("work", double)
    instance_id = engine.start(mapping(concurrency=1), input={"items": [1, 2, 3]})
    engine.advance()
    [claim] = engine.claim()
    engine.control("pause", instance_id)
    engine.advance()
    assert engine.report(engine.call(claim)).succeeded == 1
    assert engine.claim() == []

    engine.control("resume", instance_id)
    engine.settle()
    assert engine.context(instance_id)["answer"]["results"] == [{"twice": 2}, {"twice": 4}, {"twice": 6}]


def test_a_cancelled_instance_leaves_no_item_open(engine: Engine) -> None:
    engine.handler("work", double)
    instance_id = engine.start(mapping(concurrency=2), input={"items": list(range(5))})
    engine.advance()
    engine.claim()
    engine.control("cancel", instance_id)
    engine.settle()

    assert statuses(engine) == ["cancelled"] * 5
    assert engine.status(instance_id) is InstanceStatus.CANCELLED


# -- what items return -------------------------------------------------------------------------------------------------


def test_results_are_put_together_from_what_is_stored(engine: Engine) -> None:
    engine.handler("work", lambda input: {"b": input, "a": ["ü", None, 1.5]})
    engine.start(mapping(), input={"items": ["x"]})
    engine.settle()

    assert the_map(engine)["output"] == '{"errors":[],"results":[{"a":["ü",null,1.5],"b":"x"}]}'
    assert output_of(engine)["results"] == [{"a": ["ü", None, 1.5], "b": "x"}]


def test_results_that_are_too_large_together_fail_the_map(engine: Engine) -> None:
    engine.handler("work", lambda _input: "x" * 300_000)
    instance_id = engine.start(mapping(), input={"items": [1, 2, 3, 4]})
    engine.settle()

    error = engine.context(instance_id)["error"]
    assert error["code"] == "output.too_large"
    assert error["data"]["allowed"] == 1_000_000
    assert statuses(engine) == ["succeeded"] * 4


# -- another try -------------------------------------------------------------------------------------------------------


def test_an_item_is_tried_again_by_its_own_policy(engine: Engine) -> None:
    tries: list[int] = []

    def shaky(input: int) -> int:
        tries.append(input)
        if len(tries) == 1:
            raise OSError("not yet")
        return input

    engine.handler("work", shaky)
    retry = {"maxAttempts": 2, "interval": 1, "jitter": 0}
    engine.start(mapping({"type": "work", "input": "${item}", "retry": retry}), input={"items": [7]})
    engine.advance()
    [claim] = engine.claim()
    assert engine.report(engine.call(claim)).retried == 1
    assert join_of(engine) == (0, 0, False)
    wait_until(engine.work, what="the second try")
    assert (tries, join_of(engine)) == ([7, 7], (1, 0, True))


def test_a_retry_keeps_what_succeeded_and_tries_the_rest_again(engine: Engine) -> None:
    is_well = []

    def picky_once(input: int) -> int:
        if input < 0 and not is_well:
            raise Permanent("negative")
        return input

    engine.handler("work", picky_once)
    document = mapping(catches=False, concurrency=2)
    instance_id = engine.start(document, input={"items": [1, -2, 3, 4]})
    engine.settle()
    assert engine.status(instance_id) is InstanceStatus.FAILED
    assert statuses(engine) == ["succeeded", "failed", "pending", "pending"]

    is_well.append(True)
    engine.control("retry", instance_id)
    engine.settle()

    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    assert engine.context(instance_id)["answer"] == {"results": [1, -2, 3, 4], "errors": []}
    assert join_of(engine) == (4, 0, True)


def test_a_retry_takes_in_what_ended_after_the_failure(engine: Engine) -> None:
    engine.handler("work", picky)
    instance_id = engine.start(mapping(catches=False), input={"items": [1, -2]})
    engine.advance()
    claims = sorted(engine.claim(), key=lambda claim: claim.key)
    engine.report(engine.call(claims[1]))
    engine.advance()
    assert engine.report(engine.call(claims[0])).succeeded == 1
    assert join_of(engine) == (0, 1, True)

    engine.control("retry", instance_id)
    engine.advance()
    assert join_of(engine) == (1, 0, False)
    assert statuses(engine) == ["succeeded", "pending"]


def test_a_retry_where_nothing_is_left_to_do_ends_as_before(engine: Engine) -> None:
    engine.handler("work", lambda _input: "x" * 600_000)
    instance_id = engine.start(mapping(catches=False), input={"items": [1, 2]})
    engine.settle()
    engine.control("retry", instance_id)
    engine.settle()

    assert engine.status(instance_id) is InstanceStatus.FAILED
    assert the_map(engine)["status"] == "failed"


def test_a_map_that_is_given_up_leaves_no_item(engine: Engine) -> None:
    engine.handler("work", picky)
    instance_id = engine.start(mapping(catches=False, concurrency=1), input={"items": [-1, 2, 3]})
    engine.settle()
    assert statuses(engine) == ["failed", "pending", "pending"]
    [incident] = engine.execute("SELECT id FROM incidents")
    with engine.database.transaction() as tx:
        resolve_incident(
            tx,
            engine.tenant_id,
            incident[0],
            way="skip",
            output="none",
            reason=None,
            actor="test",
            limits=LIMITS,
        )
    engine.settle()

    assert statuses(engine) == ["failed", "cancelled", "cancelled"]
    assert engine.context(instance_id)["answer"] == "none"


# -- people and polls --------------------------------------------------------------------------------------------------


def test_people_vote_by_a_quorum(engine: Engine) -> None:
    vote = {"type": "HUMAN", "name": "vote", "assignee": "${item}"}
    document = mapping(vote, join={"quorum": 2})
    instance_id = engine.start(document, input={"items": ["user:ann", "user:bob", "user:cyd"]})
    engine.advance()
    assert engine.status(instance_id) is InstanceStatus.WAITING
    rows = engine.execute("SELECT id, assignee FROM tasks WHERE type = 'HUMAN' ORDER BY item_index")
    for task_id, person in rows[:2]:
        with engine.database.transaction() as tx:
            about = (tx, engine.tenant_id, task_id)
            assert complete_task(*about, by=Person(person), output={"yes": True}, limits=LIMITS) is None
    engine.advance()

    assert engine.context(instance_id)["answer"]["results"] == [{"yes": True}, {"yes": True}, None]
    assert statuses(engine) == ["succeeded", "succeeded", "cancelled"]
    decided = [one["person"] for one in engine.entries(instance_id) if one["type"] == "human.decided"]
    assert decided == ["user:ann", "user:bob"]


def test_people_are_asked_in_turn(engine: Engine) -> None:
    engine.start(mapping({"type": "HUMAN", "name": "vote"}, concurrency=1), input={"items": [1, 2]})
    engine.advance()
    assert statuses(engine) == ["running", "pending"]
    [(task_id,)] = engine.execute("SELECT id FROM tasks WHERE type = 'HUMAN' AND status = 'running'")
    with engine.database.transaction() as tx:
        reject = {"reason": "no", "limits": LIMITS}
        assert reject_task(tx, engine.tenant_id, task_id, by=Person("user:ann"), **reject) is None
    engine.advance()

    assert the_map(engine)["status"] == "failed"
    assert statuses(engine) == ["failed", "cancelled"]


def test_an_item_may_be_asked_again_and_again(engine: Engine) -> None:
    seen: list[int] = []

    def look(input: int) -> dict[str, bool]:
        seen.append(input)
        return {"ready": seen.count(input) > 1}

    engine.handler("look", look)
    given = {"task": {"type": "look", "input": "${item}"}, "until": "output.ready", "interval": 100}
    poll = {"type": "POLL", "input": {**given, "checkFirst": True}}
    instance_id = engine.start(mapping(poll), input={"items": [1, 2]})
    wait_until(lambda: engine.settle() or engine.status(instance_id) in FINAL, what="the second look")

    assert sorted(seen) == [1, 1, 2, 2]
    assert engine.context(instance_id)["answer"]["results"] == [{"ready": True}] * 2


# -- crashes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [False, True])
def test_a_crash_before_the_commit_of_a_report_counts_nothing(engine: Engine, last: bool) -> None:
    engine.handler("work", lambda input: input)
    instance_id = engine.start(mapping(), input={"items": [1, 2]})
    engine.advance()
    first, second = sorted(engine.claim(), key=lambda claim: claim.key)
    if last:
        engine.report(engine.call(first))
    before = join_of(engine)
    outcome = engine.call(second if last else first)

    def report_and_die(tx: Connection) -> None:
        report_outcomes(tx, [outcome])
        raise FaultInjected

    with pytest.raises(FaultInjected):
        engine.database.run(report_and_die)
    assert join_of(engine) == before
    assert the_map(engine)["status"] == "running"

    assert engine.report(outcome).succeeded == 1
    assert engine.report(outcome).succeeded == 0, "a repeat counts nothing"
    engine.report(engine.call(first), engine.call(second))
    engine.settle()
    assert (join_of(engine), engine.status(instance_id)) == ((2, 0, True), InstanceStatus.COMPLETED)


def test_a_crash_of_the_step_that_asks_leaves_nothing_of_it(engine: Engine) -> None:
    engine.handler("work", lambda input: input)
    instance_id = engine.start(mapping(), input={"items": [1, 2]})

    def die() -> None:
        raise FaultInjected

    faults.arm("before_commit", die)
    with pytest.raises(FaultInjected):
        engine.advance()
    faults.disarm()
    assert engine.execute("SELECT id FROM tasks") == []

    engine.settle()
    assert engine.context(instance_id)["answer"]["results"] == [1, 2]
