"""Tasks that are leased as they are created: to who offered, once, and never past a limit; what is not heard of is found."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from common import courtesy
from common.commands.limits import set_limit
from common.commands.verify import verify_instance
from common.ids import InstanceId
from common.lifecycle import InstanceStatus
from common.queues.offers import Offer
from common.store import keys
from orchestrator.sweep import expire_due_leases
from task_runner.registry import Options
from task_runner.run import Runner
from tests.integration.engine.documents import ONE_TASK, one_task
from tests.support.engine import Engine
from tests.support.post import Post
from tests.support.runners import MakeRunner
from tests.support.waiting import wait_until

SLOTS = 4


@pytest.fixture
def post(engine: Engine) -> Post:
    return Post(engine)


@pytest.fixture
def make_offering(make_runner: MakeRunner, post: Post) -> Callable[[], Runner]:
    """Make a runner whose offers are heard."""
    return lambda: make_runner(slots=SLOTS, say=post.say)


def hungry(make_offering: Callable[[], Runner]) -> Runner:
    """A runner that has found nothing to claim, and so has made its offer."""
    runner = make_offering()
    assert runner.claim(until=0.0).counts["claimed"] == 0
    return runner


def rows(engine: Engine) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in engine.execute("SELECT status, attempt, lost, max_attempts FROM tasks")]


def attempts(engine: Engine) -> list[str | None]:
    return [row[0] for row in engine.execute("SELECT outcome FROM attempts ORDER BY started_at")]


def ends(engine: Engine, instance_id: InstanceId) -> bool:
    engine.advance()
    return engine.status(instance_id) is InstanceStatus.COMPLETED


def test_a_task_is_leased_to_who_offered_and_ends_as_any_other(
    engine: Engine, post: Post, make_offering: Callable[[], Runner]
) -> None:
    engine.handler("work", lambda _input: {"made": "here"})
    runner = hungry(make_offering)
    instance_id = engine.start(ONE_TASK)

    engine.advance()
    assert rows(engine) == [("running", 1, 0, 3)]
    assert engine.execute("SELECT lease_owner FROM tasks") == [(engine.worker,)] or engine.database.is_sqlite
    assert runner.claim(until=0.0).counts["claimed"] == 0, "there is nothing to claim"
    post.deliver(runner)

    wait_until(lambda: ends(engine, instance_id), what="the instance to end")
    assert attempts(engine) == ["succeeded"]
    with engine.database.reading() as tx:
        found = verify_instance(tx, engine.tenant_id, instance_id)
    assert found["valid"], found
    [ended] = [one for one in engine.entries(instance_id) if one["type"] == "task.succeeded"]
    assert ended["attemptsDigest"]


def test_a_handler_with_a_policy_of_its_own_is_tried_as_often_as_that_says(
    engine: Engine, post: Post, make_offering: Callable[[], Runner]
) -> None:
    tried: list[int] = []

    def work(_input: Any) -> None:
        tried.append(1)
        raise RuntimeError("no")

    engine.handler("work", work, Options(retry={"maxAttempts": 1}))
    runner = hungry(make_offering)
    instance_id = engine.start(ONE_TASK)
    engine.advance()
    assert rows(engine) == [("running", 1, 0, 1)]

    post.deliver(runner)

    wait_until(lambda: rows(engine) == [("failed", 1, 0, 1)], what="the task to fail")
    engine.advance()
    assert engine.status(instance_id) is InstanceStatus.FAILED
    assert tried == [1]


def test_calls_that_come_twice_or_late_call_nobody_twice(
    engine: Engine, post: Post, make_offering: Callable[[], Runner]
) -> None:
    called: list[int] = []
    go_on = threading.Event()

    def work(_input: Any) -> None:
        called.append(1)
        go_on.wait(10)

    engine.handler("work", work)
    runner = hungry(make_offering)
    instance_id = engine.start(ONE_TASK)
    engine.advance()
    hints = list(post.handed)
    runner.take_up(hints * 2)
    wait_until(lambda: called == [1], what="the handler to be called")
    runner.take_up(hints)
    go_on.set()
    wait_until(lambda: ends(engine, instance_id), what="the instance to end")

    runner.take_up(hints)

    assert called == [1]
    assert attempts(engine) == ["succeeded"]


def test_what_is_leased_to_another_is_not_taken_up(
    engine: Engine, post: Post, make_offering: Callable[[], Runner]
) -> None:
    engine.handler("work", lambda _input: None)
    runner = hungry(make_offering)
    engine.start(ONE_TASK)
    engine.advance()
    engine.execute("UPDATE tasks SET lease_owner = '00000000-0000-7000-8000-000000000001'")

    post.deliver(runner)

    assert runner.held == 0


def test_a_late_call_takes_up_nothing_that_a_claim_here_has_just_taken(
    engine: Engine, post: Post, make_offering: Callable[[], Runner]
) -> None:
    """Nobody waits for anybody there: the claim's commit is over, and what it took not yet held."""
    engine.handler("work", lambda _input: None)
    runner = hungry(make_offering)
    engine.start(ONE_TASK)
    engine.advance()
    engine.execute("UPDATE tasks SET lease_expires_at = created_at")
    expire_due_leases(engine.database)
    engine.execute("UPDATE tasks SET run_at = created_at")
    assert len(engine.claim_unlimited()) == 1

    post.deliver(runner)

    assert runner.held == 0
    assert rows(engine)[0][0] == "running"


def test_a_lost_call_is_found_by_the_look(
    engine: Engine, make_offering: Callable[[], Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("task_runner.offering.LOOK_AFTER", 0.0)
    engine.handler("work", lambda _input: None)
    runner = hungry(make_offering)
    instance_id = engine.start(ONE_TASK)
    engine.advance()

    assert runner.claim(until=0.0).counts["claimed"] == 1

    wait_until(lambda: ends(engine, instance_id), what="the instance to end")


def test_more_than_there_is_room_for_is_given_back_uncounted(
    engine: Engine, post: Post, make_offering: Callable[[], Runner]
) -> None:
    go_on = threading.Event()
    engine.handler("work", lambda _input: go_on.wait(10))
    runner = hungry(make_offering)
    for hint in (post.offers[0], post.offers[0]):  # as two orchestrators would use it, one each
        engine.advancing.offers.hear([hint.to_bytes()])
        for _ in range(SLOTS):
            engine.start(ONE_TASK)
            engine.advance()
    assert [row[0] for row in rows(engine)] == ["running"] * 2 * SLOTS

    post.deliver(runner)
    wait_until(lambda: attempts(engine).count("released") == SLOTS, what="what is too much to be given back")
    go_on.set()

    given_back = [row for row in rows(engine) if row[0] == "pending"]
    assert given_back == [("pending", 0, 0, 3)] * SLOTS


def test_a_drain_gives_back_what_was_leased_after_its_last_word(
    engine: Engine, post: Post, make_offering: Callable[[], Runner]
) -> None:
    engine.handler("work", lambda _input: None)
    runner = hungry(make_offering)
    for _ in range(2):
        engine.start(ONE_TASK)
    engine.advance()
    runner.end_offers()
    assert post.offers[-1].credit == 0
    post.deliver(runner)

    released = runner.drain(1)

    assert released == 2
    assert [row[:3] for row in rows(engine)] == [("pending", 0, 0)] * 2
    engine.start(ONE_TASK)
    engine.advance()
    assert [row[0] for row in rows(engine)] == ["pending"] * 3, "nobody offers any more"


def test_a_runner_that_died_with_what_was_handed_to_it_loses_it_by_its_lease(
    engine: Engine, post: Post, make_offering: Callable[[], Runner]
) -> None:
    engine.handler("work", lambda _input: None)
    hungry(make_offering)
    instance_id = engine.start(ONE_TASK)
    engine.advance()
    post.handed.clear()
    engine.execute("UPDATE tasks SET lease_expires_at = '2000-01-01 00:00:00.000000'")

    expire_due_leases(engine.database)

    assert rows(engine) == [("pending", 0, 1, 3)]
    assert attempts(engine) == ["lost"]
    engine.settle()
    assert engine.status(instance_id) is InstanceStatus.COMPLETED


def test_nothing_is_leased_past_a_limit(engine: Engine, make_offering: Callable[[], Runner]) -> None:
    engine.handler("work", lambda _input: None)
    hungry(make_offering)
    with engine.database.transaction() as tx:
        set_limit(tx, engine.tenant_id, "type:EMAIL", max_running=1, rate=None, actor="test")
        set_limit(tx, engine.tenant_id, "type:work", max_running=1, rate=None, actor="test")
    engine.start(ONE_TASK)

    engine.advance()

    assert [row[0] for row in rows(engine)] == ["pending"]


def test_nothing_that_names_a_limit_is_leased(engine: Engine, make_offering: Callable[[], Runner]) -> None:
    engine.handler("work", lambda _input: None)
    hungry(make_offering)
    engine.start(one_task(limit={"key": "crm", "maxRunning": 1}))

    engine.advance()

    assert [row[0] for row in rows(engine)] == ["pending"]


@pytest.mark.parametrize("of", ["another type", "a key", "another tenant"])
def test_limits_of_others_keep_nothing_from_being_leased(
    engine: Engine, post: Post, make_offering: Callable[[], Runner], of: str
) -> None:
    engine.handler("work", lambda _input: None)
    with engine.database.transaction() as tx:
        tenant_id = keys.ensure_tenant(tx, "others") if of == "another tenant" else engine.tenant_id
        key = {"another type": "type:EMAIL", "a key": "key:crm", "another tenant": "type:work"}[of]
        set_limit(tx, tenant_id, key, max_running=1, rate=None, actor="test")
    runner = hungry(make_offering)
    assert [one.credit for one in post.offers] == [SLOTS // 2], "the other half is for who gets a place"
    instance_id = engine.start(ONE_TASK)

    engine.advance()
    assert rows(engine) == [("running", 1, 0, 3)]
    post.deliver(runner)

    wait_until(lambda: ends(engine, instance_id), what="the instance to end")


def test_who_gets_a_place_finds_a_slot_however_much_is_handed_over(
    engine: Engine, post: Post, make_offering: Callable[[], Runner]
) -> None:
    """Limited tasks, and others that come without an end: of the slots the others get half, then half of what is left, but never the last."""
    go_on = threading.Event()
    engine.handler("work", lambda _input: go_on.wait(20))
    with engine.database.transaction() as tx:
        set_limit(tx, engine.tenant_id, "key:crm", max_running=1, rate=None, actor="test")
    runner = hungry(make_offering)
    key = engine.apply(ONE_TASK)
    try:
        for _ in range(3):
            for _ in range(SLOTS):
                engine.start(key)
            engine.advance()
            post.deliver(runner)
            runner._handed._offering._told_at = 0.0001  # it is time to offer what it has now
            runner._handed.offer()
        assert runner.held == SLOTS - 1
        assert [one.credit for one in post.offers] == [2, 1, 1], "told anew, and nothing of the last one"

        engine.start(one_task(limit={"key": "crm", "maxRunning": 1}))
        engine.advance()
        runner.claim(until=0.0)

        running = engine.execute(
            "SELECT count(*) FROM tasks WHERE limit_key IS NOT NULL AND status = 'running'"
        )
        assert [tuple(row) for row in running] == [(1,)]
    finally:
        go_on.set()


@pytest.mark.parametrize("why", ["delayed", "cancelled", "once"])
def test_what_nobody_may_start_now_is_not_leased(
    engine: Engine, make_offering: Callable[[], Runner], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "orchestrator.locked.STEP_BUDGET", 30.0
    )  # both rows in one batch, on a slow machine too
    engine.handler("work", lambda _input: None)
    hungry(make_offering)
    task: dict[str, Any] = {"type": "work", "name": "work", "completionEvent": "DONE"}
    if why == "delayed":
        task["delay"] = "PT1H"
    elif why == "once":
        task["onLost"] = "fail"
    document = {
        "id": "once",
        "initial": "working",
        "states": {
            "working": {
                "entry": [{"type": "createTask", "task": task}],
                "on": {"DONE": "done", "STOP": "done"},
            },
            "done": {"type": "final"},
        },
    }
    instance_id = engine.start(document)
    if why == "cancelled":
        engine.send(instance_id, "STOP")
    engine.advance()

    assert rows(engine)[0][:2] == (
        {"delayed": "pending", "cancelled": "cancelled", "once": "pending"}[why],
        0,
    )


def test_who_has_more_to_claim_offers_nothing(
    engine: Engine, post: Post, make_offering: Callable[[], Runner]
) -> None:
    go_on = threading.Event()
    engine.handler("work", lambda _input: go_on.wait(10))
    for _ in range(2 * SLOTS):
        engine.start(ONE_TASK)
    engine.advance()
    runner = make_offering()

    assert runner.claim(until=0.0).counts["claimed"] == SLOTS
    assert post.offers == []
    go_on.set()
    wait_until(lambda: runner.held == 0, what="the first to end")
    runner.claim(until=0.0)
    wait_until(lambda: runner.held == 0, what="the others to end")
    runner.claim(until=0.0)

    assert post.offers[-1].credit >= SLOTS


@pytest.mark.parametrize("tenant", ["quiet", "flooding"])
def test_a_flood_is_not_claimed_while_somebody_else_was_just_served(
    engine: Engine, post: Post, make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch, tenant: str
) -> None:
    monkeypatch.setattr(
        courtesy, "REST_SECONDS", 30.0
    )  # until no more may be rested, however busy the machine is
    engine.handler("work", lambda _input: {})
    flooding = Engine.on(engine.database, "flooding")
    for _ in range(4 * SLOTS):
        flooding.start(ONE_TASK)
    engine.advance()
    rung_in: list[float] = []
    runner = make_runner(slots=SLOTS, say=post.say, ring_in=rung_in.append)
    assert runner.claim(until=0.0).counts["claimed"] == SLOTS
    wait_until(lambda: runner.held == 0, what="the first to end")
    for_all = Offer(engine.worker, timedelta(seconds=30), {"work": None}, {"work": None}, credit=SLOTS)
    engine.advancing.offers.hear([for_all.to_bytes()])  # said before anybody had more than could be claimed
    Engine.on(engine.database, tenant).start(ONE_TASK)
    engine.advance()

    post.deliver(runner)
    claimed = runner.claim(until=0.0).counts["claimed"]

    if tenant == "flooding":
        assert claimed > 0, "nobody waits for himself"
        assert rung_in == []
        return
    assert claimed == 0
    assert 0 < rung_in[0] <= 30.0
    wait_until(lambda: runner.claim(until=0.0).counts["claimed"] > 0, what="the flood to be claimed again")
