"""Whose turn it is: a giant inbox, a slow instance, or one that somebody else holds hides nobody behind it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection

from common.db import Database
from common.db.now import read_now
from common.ids import InstanceId
from common.lifecycle import InstanceStatus
from common.store import inbox, instances
from common.store.ready import lock_and_read
from orchestrator.advance import advance_pass, advance_ready
from orchestrator.laps import Lap, Sweep
from orchestrator.locked import STEP_BUDGET
from tests.integration.engine.documents import COUNTER, ON_POSTGRESQL, ON_SQLITE, assign, on_go
from tests.support.engine import Engine
from tests.support.slowdown import assert_within


def flood(engine: Engine, instance_id: InstanceId, count: int, body: str = '{"n":1,"type":"NOBODY"}') -> None:
    """Accept many events at once, as `send` would one by one."""
    with engine.database.transaction() as tx:
        row = {
            "tenant_id": engine.tenant_id,
            "instance_id": instance_id,
            "lane": inbox.ORDINARY,
            "type": "event",
            "body": body,
            "source": "test",
            "accepted_at": read_now(tx),
        }
        inbox.put(tx, [row] * count)


@contextmanager
def held(database: Database, instance_id: InstanceId) -> Iterator[Connection]:
    """Hold an instance as another orchestrator does while it steps it."""
    with database.transaction() as tx:
        assert [one.id for one in instances.lock_ready(tx, [instance_id])] == [instance_id]
        yield tx


def waiting(engine: Engine, instance_id: InstanceId) -> int:
    rows = engine.execute(f"SELECT count(*) FROM inbox WHERE instance_id = '{instance_id}'")
    return int(rows[0][0])


@pytest.mark.usefixtures("unhurried")
def test_a_giant_inbox_hides_nobody(engine: Engine) -> None:
    giant = engine.start(COUNTER)
    engine.advance()
    flood(engine, giant, 3_000)
    last = engine.start("counter")
    sweep = Sweep()

    advance_ready(engine.advancing, until=time.monotonic() - 1, sweep=sweep)
    passes = 1
    while engine.status(last) is InstanceStatus.PENDING:
        advance_ready(engine.advancing, until=time.monotonic() - 1, sweep=sweep)
        passes += 1

    assert passes <= 5, "one for the giant, the others walk past its three pages"
    assert waiting(engine, giant) >= 2_800, "who had his turn in this sweep has no other"
    engine.execute(f"DELETE FROM inbox WHERE instance_id = '{giant}'")  # the rest proves nothing more


def test_an_instance_that_somebody_else_holds_hides_nobody(postgres_url: str) -> None:
    database = Database.open(postgres_url)
    engine = Engine.on(database)
    locked = engine.start(COUNTER)
    engine.advance()
    flood(engine, locked, 2_500)
    last = engine.start("counter")

    with held(database, locked):
        engine.advance()

        assert engine.status(last) is InstanceStatus.WAITING
        assert waiting(engine, locked) == 2_500
    database.dispose()


@pytest.mark.usefixtures("unhurried")
def test_rows_behind_the_first_hundred_instances_are_reached_in_one_sweep(engine: Engine) -> None:
    started = [engine.start(COUNTER), *(engine.start("counter") for _ in range(120))]
    sweep = Sweep()

    first = advance_pass(engine.advancing, sweep)
    assert first.more
    second = advance_pass(engine.advancing, sweep)

    assert (first.instances, second.instances) == (100, 21)
    assert {engine.status(one) for one in started} == {InstanceStatus.WAITING}


@ON_SQLITE
def test_a_pass_takes_at_most_200_rows_of_one_instance(engine: Engine) -> None:
    giant = engine.start(COUNTER)
    engine.advance()
    flood(engine, giant, 250)

    done = advance_pass(engine.advancing, Sweep())

    assert done.steps <= 200
    engine.advance()
    assert waiting(engine, giant) == 0


def slow_document() -> dict[str, object]:
    """A GO that costs some 10,000 operations: milliseconds."""
    numbers = list(range(80))
    expression = "${context.numbers.all(a, context.numbers.all(b, a + b >= 0))}"
    return on_go(assign("ok", expression), context={"numbers": numbers})


def test_slow_steps_give_way_before_the_locks_get_old(engine: Engine) -> None:
    """200 slow events in one transaction would hold the instance until the database ends the session, for ever."""
    slow = engine.start(slow_document())
    engine.advance()
    flood(engine, slow, 200, body='{"type":"GO"}')

    began = time.perf_counter()
    done = advance_pass(engine.advancing, Sweep())
    took = time.perf_counter() - began

    assert 1 <= done.steps < 200
    assert_within(took, STEP_BUDGET * 10)
    assert waiting(engine, slow) == 200 - done.steps
    engine.execute(f"DELETE FROM inbox WHERE instance_id = '{slow}'")


@ON_SQLITE
def test_who_was_locked_but_not_reached_in_time_is_next(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = [engine.start(COUNTER), engine.start("counter"), engine.start("counter")]
    monkeypatch.setattr("orchestrator.locked.STEP_BUDGET", 0.0)  # time is over after each step
    sweep = Sweep()

    done = [advance_ready(engine.advancing, until=time.monotonic() - 1, sweep=sweep).steps for _ in range(3)]

    assert done == [1, 1, 1]
    assert {engine.status(one) for one in started} == {InstanceStatus.WAITING}


@ON_SQLITE
def test_what_comes_to_an_instance_that_had_its_turn_ends_no_drain_unseen(engine: Engine) -> None:
    """A drain that goes on with an older sweep has passed its rows by; it must not say that nothing is left."""
    instance_id = engine.start(COUNTER)
    sweep = Sweep({engine.tenant_id: Lap(after=10_000, seen={instance_id})})

    done = advance_ready(engine.advancing, until=time.monotonic() + 10, sweep=sweep)

    assert not done.more
    assert engine.status(instance_id) is InstanceStatus.WAITING


@ON_POSTGRESQL
def test_a_short_inbox_of_one_tenant_is_stepped_by_one_look_past_whom_somebody_holds(engine: Engine) -> None:
    """No turn has to be chosen; a second look finds nothing and so ends the sweep."""
    ids = [engine.start(COUNTER), *(engine.start("counter") for _ in range(4))]
    sweep = Sweep()

    with held(engine.database, ids[2]):
        assert advance_pass(engine.advancing, sweep).instances == 4
        assert advance_pass(engine.advancing, sweep).more is False
    assert {one: engine.status(one) for one in ids} == dict.fromkeys(ids, InstanceStatus.WAITING) | {
        ids[2]: InstanceStatus.PENDING
    }
    assert sweep.laps == {}
    assert advance_pass(engine.advancing, sweep).instances == 1


@ON_POSTGRESQL
@pytest.mark.parametrize(
    ("of_one", "of_other", "is_all"), [(64, 0, True), (65, 0, False), (2, 1, True), (3, 1, False)]
)
def test_a_long_inbox_and_one_of_several_tenants_have_turns_chosen(
    engine: Engine, of_one: int, of_other: int, is_all: bool
) -> None:
    other = Engine.on(engine.database, "another")
    for one, count in ((engine, of_one), (other, of_other)):
        key = one.apply(COUNTER)
        for _ in range(count):
            one.start(key)

    with engine.database.transaction() as tx:
        ready = lock_and_read(tx, portion=3)
    assert ready.is_all is is_all
    assert len(ready.locked) == len(ready.rows) == (of_one + of_other if is_all else 0)
    assert [one.id for one in ready.locked] == sorted(one.instance_id for one in ready.rows)

    engine.advance()
    assert engine.execute("SELECT count(*) FROM inbox") == [(0,)]


def test_what_a_resume_takes_up_again_comes_before_what_is_newer_however_old_its_ids_are(
    engine: Engine,
) -> None:
    """A look that began near the newest row, to pass by what is consumed, let a newer event overtake parked ones."""
    one, other = engine.start(COUNTER), engine.start("counter")
    sweep = Sweep()

    def advance() -> None:
        advance_ready(engine.advancing, until=time.monotonic() + 30, sweep=sweep)

    advance()
    engine.control("pause", one)
    engine.send(one, "ADD", n=1)
    engine.send(one, "ADD", n=2)
    advance()
    for _ in range(25):  # each few enough to be seen by one look, and together many ids
        flood(engine, other, 60)
        advance()
    engine.control("resume", one)
    engine.send(one, "ADD", n=3)
    advance()

    assert engine.context(one)["seen"] == [1, 2, 3]
