"""Tenants in turn: whoever has a flood of work waiting keeps nobody else's waiting, and a priority is a matter of one's own."""

import math
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from common import courtesy
from common.courtesy import Courtesy
from common.db import Database
from common.ids import InstanceId, TenantId, new_id, new_token
from common.lifecycle import InstanceStatus
from common.store import claims, instances, tasks, turns
from common.store.claims import TaskClaim
from common.store.inbox import Page, ReadyRow
from common.store.turns import FROM_THE_FIRST
from orchestrator.advance import advance_pass
from orchestrator.laps import Sweep
from tests.integration.engine.documents import COUNTER, one_task
from tests.support.engine import Engine
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.usefixtures("unhurried"),
    pytest.mark.breaks_promises,  # rows that no step asked for
]

EARLIER = datetime(2020, 1, 1, tzinfo=UTC)


def with_due_tasks(engine: Engine, tenant: str, count: int, **columns: object) -> Engine:
    """A tenant with so many due tasks, older than whatever comes later."""
    of = Engine.on(engine.database, tenant)
    instance_id = of.start(one_task())
    of.advance()
    of.execute(f"UPDATE tasks SET status = 'running' WHERE instance_id = '{instance_id}'")
    row = {
        "tenant_id": of.tenant_id, "instance_id": instance_id, "type": "work", "name": "work", "status": "pending",
        "run_at": EARLIER, "max_attempts": 1, "completion_event": "A", "failure_event": "B", "input": "null",
        "created_at": EARLIER, "priority": 0, **columns,
    }  # fmt: skip
    with engine.database.transaction() as tx:
        tasks.create(tx, [{**row, "id": new_id(), "key": f"k{new_id()}"} for _ in range(count)])
    return of


def claim(engine: Engine, limit: int, turn_after: TenantId = FROM_THE_FIRST) -> list[TaskClaim]:
    with engine.database.transaction() as tx:
        due = claims.claim_due(
            tx,
            worker=engine.worker,
            token=new_token(),
            types=["other", "work"],
            functions=[],
            limit=limit,
            lease=timedelta(seconds=8),
            turn_after=turn_after,
        )
    return due.claims


def test_a_flood_of_one_tenant_hides_nobody(engine: Engine) -> None:
    flooding = with_due_tasks(engine, "flooding", 5_000)
    quiet = with_due_tasks(engine, "quiet", 3, run_at=EARLIER + timedelta(days=1))

    first = Counter(task.tenant_id for task in claim(engine, 16))

    assert first == {flooding.tenant_id: 13, quiet.tenant_id: 3}
    assert Counter(task.tenant_id for task in claim(engine, 16)) == {flooding.tenant_id: 16}


def test_who_has_less_than_his_share_leaves_it_to_the_others(engine: Engine) -> None:
    flooding = with_due_tasks(engine, "flooding", 50)
    for number in range(9):
        with_due_tasks(engine, f"quiet-{number}", 1)

    first = Counter(task.tenant_id for task in claim(engine, 30))

    assert first.pop(flooding.tenant_id) == 21, "far more than a tenth of the slots"
    assert set(first.values()) == {1}


def test_of_more_tenants_than_slots_everybody_has_his_turn(engine: Engine) -> None:
    many, slots = 11, 4
    waiting = {with_due_tasks(engine, f"tenant-{number}", 10).tenant_id for number in range(many)}
    turn_after = FROM_THE_FIRST

    for _ in range(math.ceil(many / slots)):
        served = {task.tenant_id for task in claim(engine, slots, turn_after)}
        turn_after = turns.next_turn(served, slots, turn_after)
        waiting -= served

    assert not waiting


def test_a_claim_that_begins_in_the_middle_goes_round_to_the_first(engine: Engine) -> None:
    first, last = sorted(with_due_tasks(engine, name, 2).tenant_id for name in ("a", "b"))

    claimed = claim(engine, 10, turn_after=first)

    assert Counter(task.tenant_id for task in claimed) == {first: 2, last: 2}


def test_priorities_hold_within_a_tenant_and_buy_nothing_from_others(engine: Engine) -> None:
    loud = with_due_tasks(engine, "loud", 20, priority=9)
    urgent = with_due_tasks(engine, "loud", 2, priority=10, run_at=EARLIER + timedelta(days=1), type="other")
    humble = with_due_tasks(engine, "humble", 20, priority=-5)

    claimed = claim(engine, 8)

    assert loud.tenant_id == urgent.tenant_id
    assert Counter(task.tenant_id for task in claimed) == {loud.tenant_id: 4, humble.tenant_id: 4}
    assert sum(task.type == "other" for task in claimed) == 2


def test_of_equal_priority_the_oldest_comes_first_whatever_its_type(engine: Engine) -> None:
    with_due_tasks(engine, "one", 5, run_at=EARLIER + timedelta(days=1))
    with_due_tasks(engine, "one", 3, type="other")

    assert [task.type for task in claim(engine, 3)] == ["other"] * 3


def test_what_is_not_due_or_not_ours_takes_nobodys_turn(engine: Engine) -> None:
    later = datetime(2999, 1, 1, tzinfo=UTC)
    for number in range(6):
        with_due_tasks(engine, f"later-{number}", 3, run_at=later)
        with_due_tasks(engine, f"elsewhere-{number}", 3, type="unknown")
    busy = with_due_tasks(engine, "busy", 12)

    assert Counter(task.tenant_id for task in claim(engine, 10)) == {busy.tenant_id: 10}
    assert len(claim(engine, 10)) == 2
    assert claim(engine, 10) == []


def flood_of_starts(engine: Engine, count: int, tenant: str) -> tuple[Engine, list[InstanceId]]:
    of = Engine.on(engine.database, tenant)
    key = of.apply(COUNTER)
    return of, [of.start(key) for _ in range(count)]


def test_a_flood_of_events_of_one_tenant_hides_nobody(engine: Engine) -> None:
    flooding, started = flood_of_starts(engine, 300, "flooding")
    quiet, two = flood_of_starts(engine, 2, "quiet")
    sweep = Sweep()

    done = advance_pass(engine.advancing, sweep)

    assert InstanceStatus.WAITING in {quiet.status(one) for one in two}
    assert done.instances < 100, "others come in between, so the batches are small"
    done = advance_pass(engine.advancing, sweep)
    assert {quiet.status(one) for one in two} == {InstanceStatus.WAITING}
    assert done.more
    engine.advance()
    assert {flooding.status(one) for one in started} == {InstanceStatus.WAITING}


def test_who_comes_while_a_flood_is_stepped_is_in_the_next_batch(engine: Engine) -> None:
    """Also with what follows: a lap of the flood's takes a minute, and one of a quiet tenant's is over with each batch."""
    flood_of_starts(engine, 400, "flooding")
    quiet, (one,) = flood_of_starts(engine, 1, "quiet")
    sweep = Sweep()
    advance_pass(engine.advancing, sweep)

    for number in range(3):
        quiet.send(one, "ADD", n=number)
        advance_pass(engine.advancing, sweep)

    assert quiet.context(one)["seen"] == [0, 1, 2]
    engine.advance()


def test_a_flood_rests_while_somebody_who_was_served_may_come_back(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        courtesy, "REST_SECONDS", 30.0
    )  # until no more may be rested, however busy the machine is
    flooding, started = flood_of_starts(engine, 600, "flooding")
    sweep = Sweep(courtesy=Courtesy())
    while not sweep.volumes.is_flood(flooding.tenant_id):
        assert advance_pass(engine.advancing, sweep).instances == 100, "alone it waits for nobody"
    quiet, (one,) = flood_of_starts(engine, 1, "quiet")

    served, rests = (advance_pass(engine.advancing, sweep) for _ in range(2))

    assert (served.instances, quiet.status(one)) == (1, InstanceStatus.WAITING), "nobody else is in its batch"
    assert (rests.instances, rests.more) == (0, False)
    assert 0 < rests.rest <= 30.0
    quiet.send(one, "ADD", n=7)
    advance_pass(engine.advancing, sweep)
    assert quiet.context(one)["seen"] == [7], "who comes back does not wait for the end of a rest"
    wait_until(lambda: advance_pass(engine.advancing, sweep).instances > 0, what="the flood to go on")
    engine.advance()
    assert {flooding.status(one) for one in started} == {InstanceStatus.WAITING}


def test_a_flood_does_not_rest_where_others_may_wait_outside_of_its_page() -> None:
    flooding, quiet = TenantId("a"), TenantId("b")
    sweep = Sweep(courtesy=Courtesy())
    assert sweep.courtesy is not None
    sweep.volumes.note({flooding: 1_000})
    row = ReadyRow(id=1, tenant_id=flooding, instance_id=InstanceId("one"), accepted_at=EARLIER)

    sweep.courtesy.note()
    assert sweep.choose(Page([row])).rest > 0
    sweep.courtesy.note()
    assert sweep.choose(Page([row], last_tenant=flooding)).rest == 0
    sweep.turn_after = quiet
    sweep.courtesy.note()
    assert sweep.choose(Page([row])).rest == 0


def test_more_tenants_than_a_page_has_room_for_come_in_rounds(engine: Engine) -> None:
    everybody = [flood_of_starts(engine, 2, f"tenant-{number}") for number in range(103)]
    sweep = Sweep()

    first = advance_pass(engine.advancing, sweep)
    second = advance_pass(engine.advancing, sweep)

    assert (first.more, second.more) == (True, True)
    assert all(of.status(started[0]) is InstanceStatus.WAITING for of, started in everybody)
    engine.advance()
    assert all(of.status(one) is InstanceStatus.WAITING for of, started in everybody for one in started)


def test_an_instance_that_is_held_ends_no_drain_unseen_and_keeps_none_going(postgres_url: str) -> None:
    database = Database.open(postgres_url)
    engine = Engine.on(database)
    _, (held,) = flood_of_starts(engine, 1, "held")
    other, started = flood_of_starts(engine, 30, "other")
    with database.transaction() as tx:
        assert instances.lock_ready(tx, [held])
        done = engine.advance()

        assert not done.more
        assert {other.status(one) for one in started} == {InstanceStatus.WAITING}
    database.dispose()


def test_one_tenant_alone_has_whole_batches(engine: Engine) -> None:
    flood_of_starts(engine, 120, "alone")

    assert advance_pass(engine.advancing, Sweep()).instances == 100
    engine.advance()
