"""Starting: once per business key while it is held, from an active definition, now or at a time."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select

from common.commands.control import cancel_instance
from common.commands.start import Start, Started, start_instance
from common.config import Limits
from common.db import Database, tables
from common.db.tables import DefinitionStatus
from common.errors import Conflict, Invalid, LimitExceeded, NotFound, SignalboxError
from common.ids import new_id
from common.lifecycle import InstanceStatus
from common.store import definitions
from common.store.listing import read_instance
from tests.integration.engine.documents import COUNTER, ON_SQLITE, assign, on_go, one_task
from tests.support.engine import LIMITS, Engine
from tests.support.executed import statements
from tests.support.manual_clock import ManualClock


def ask(engine: Engine, limits: Limits = LIMITS, **request: Any) -> Started:
    with engine.database.transaction() as tx:
        return start_instance(
            tx,
            engine.tenant_id,
            Start(**{"definition_key": "counter", **request}),
            actor="test",
            limits=limits,
        )


def refused(engine: Engine, kind: type[SignalboxError], **request: Any) -> SignalboxError:
    before = engine.execute("SELECT count(*) FROM instances")
    with pytest.raises(kind) as caught:
        ask(engine, **request)
    assert engine.execute("SELECT count(*) FROM instances") == before, "a refusal stores nothing"
    return caught.value


@pytest.fixture
def counter(engine: Engine) -> Engine:
    engine.apply(COUNTER)
    return engine


def test_a_live_business_key_answers_with_the_instance_that_holds_it(counter: Engine) -> None:
    first = ask(counter, business_key="order-1")
    counter.settle()

    again = ask(counter, business_key="order-1", input={"other": True})

    assert (first.created, again.created) == (True, False)
    assert again.instance_id == first.instance_id
    assert counter.execute("SELECT count(*) FROM inbox") == [(0,)], "and starts nothing a second time"


def test_an_ended_instance_gives_its_business_key_up(counter: Engine) -> None:
    first = ask(counter, business_key="order-1")
    counter.send(first.instance_id, "STOP")
    counter.settle()

    again = ask(counter, business_key="order-1")

    assert again.created
    assert again.instance_id != first.instance_id


@ON_SQLITE
def test_a_business_key_belongs_to_its_definition_and_tenant(counter: Engine, database: Database) -> None:
    one_task_key = counter.apply(one_task())
    other = Engine.on(database, tenant="other")
    other.apply(COUNTER)

    started = [
        ask(counter, business_key="order-1"),
        ask(counter, definition_key=one_task_key, business_key="order-1"),
        ask(other, business_key="order-1"),
    ]

    assert [one.created for one in started] == [True, True, True]


@ON_SQLITE
def test_on_conflict_reject_names_the_holder(counter: Engine) -> None:
    held = ask(counter, business_key="order-1").instance_id

    error = refused(counter, Conflict, business_key="order-1", on_conflict="reject")

    assert error.code == "instance.business_key_held"
    assert error.fields["instanceId"] == held


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    barrier = Barrier(count)

    def one(n: int) -> Any:
        barrier.wait(10)
        return work(n)

    with ThreadPoolExecutor(count) as threads:
        return [done.result(30) for done in [threads.submit(one, n) for n in range(count)]]


def test_starts_at_once_with_one_business_key_make_one_instance(counter: Engine) -> None:
    for turn in range(5):
        started = at_once(4, lambda _n, key=f"order-{turn}": ask(counter, business_key=key))

        assert len({one.instance_id for one in started}) == 1
        assert sorted(one.created for one in started) == [False, False, False, True]
    counter.settle()


def test_a_start_that_waits_for_another_is_the_first_when_that_one_rolls_back(postgres_url: str) -> None:
    database = Database.open(postgres_url)
    engine = Engine.on(database)
    engine.apply(COUNTER)
    inserted, go_on = Barrier(2), Barrier(2)

    def give_up() -> None:
        with database.transaction() as tx:
            request = Start(definition_key="counter", business_key="order-1")
            start_instance(tx, engine.tenant_id, request, actor="test", limits=LIMITS)
            inserted.wait(10)
            go_on.wait(10)
            tx.rollback()

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(give_up)
        inserted.wait(10)
        second = threads.submit(ask, engine, business_key="order-1")
        go_on.wait(10)
        first.result(10)
        assert second.result(10).created
    assert engine.execute("SELECT count(*) FROM instances") == [(1,)]
    database.dispose()


@ON_SQLITE
def test_a_rolled_back_start_leaves_nothing(counter: Engine) -> None:
    def start_and_fail(tx: Connection) -> None:
        start_instance(tx, counter.tenant_id, Start(definition_key="counter"), actor="test", limits=LIMITS)
        raise LookupError

    with pytest.raises(LookupError):
        counter.database.run(start_and_fail)

    assert counter.execute("SELECT (SELECT count(*) FROM instances) + (SELECT count(*) FROM inbox)") == [(0,)]


@ON_SQLITE
def test_an_unknown_definition_is_not_found(counter: Engine) -> None:
    assert refused(counter, NotFound, definition_key="conuter").code == "definition.not_found"
    assert refused(counter, NotFound, version=7).code == "definition.not_found"
    for unknown in (new_id(), "no-id"):
        assert (
            refused(counter, NotFound, definition_key=None, definition_id=unknown).code
            == "definition.not_found"
        )


@ON_SQLITE
def test_another_tenant_s_definition_is_not_found(counter: Engine, database: Database) -> None:
    other = Engine.on(database, tenant="other")
    definition_id = counter.execute("SELECT id FROM definitions")[0][0]

    assert refused(other, NotFound).code == "definition.not_found"
    assert (
        refused(other, NotFound, definition_key=None, definition_id=str(definition_id)).code
        == "definition.not_found"
    )


@ON_SQLITE
def test_a_definition_that_is_not_active_says_what_it_is(counter: Engine) -> None:
    with counter.database.transaction() as tx:
        definitions.set_status(tx, counter.tenant_id, "counter", 1, definitions.DefinitionStatus.INACTIVE)

    error = refused(counter, Conflict)

    assert error.code == "definition.not_active"
    assert 'definition "counter" version 1 is inactive' in error.message


@ON_SQLITE
def test_the_active_version_is_started_and_instances_stay_on_theirs(counter: Engine) -> None:
    first = ask(counter).instance_id
    counter.settle()
    counter.apply(COUNTER | {"description": "the second version"})

    second = ask(counter).instance_id
    counter.settle()

    versions = dict(counter.execute("SELECT id, definition_version FROM instances"))
    assert {str(id_): version for id_, version in versions.items()} == {first: 1, second: 2}


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"definition_key": None}, "either definitionKey or definitionId"),
        ({"definition_id": new_id()}, "either definitionKey or definitionId"),
        ({"definition_key": None, "definition_id": new_id(), "version": 1}, "already names one version"),
        ({"business_key": ""}, "businessKey"),
        ({"business_key": "x" * 501}, "businessKey"),
        ({"business_key": "nul \x00"}, "NUL"),
        ({"priority": 101}, "priority"),
        ({"priority": -101}, "priority"),
        ({"labels": {"a": 1}}, "labels"),
        ({"labels": {str(n): "x" for n in range(51)}}, "labels"),
        ({"labels": {"a": "\ud800"}}, "surrogate"),
        ({"input": {"a": float("nan")}}, "not a JSON number"),
        ({"context": {"a": object()}}, "is not JSON"),
        ({"start_at": datetime(2026, 3, 1)}, "startAt: expected an instant with an offset"),  # noqa: DTZ001
    ],
)
@ON_SQLITE
def test_a_start_that_cannot_be_is_refused_at_the_door(
    counter: Engine, request_: dict[str, Any], said: str
) -> None:
    assert said in refused(counter, Invalid, **request_).message


@ON_SQLITE
def test_input_and_context_are_bounded_in_bytes(counter: Engine) -> None:
    limits = Limits(max_event_bytes=1_000)
    room = 1_000 - len('{"context":null,"input":""}')

    assert ask(counter, limits, input="é" * (room // 2)).created
    error = refused(counter, LimitExceeded, limits=limits, input="é" * (room // 2 + 1))
    assert error.fields == {"limit": "max_event_bytes", "allowed": 1_000}


def test_input_context_labels_and_priority_reach_the_instance(engine: Engine) -> None:
    document = on_go(assign("got", "${input.n + context.base}"), context={"base": 1, "kept": True})
    instance_id = engine.start(
        document, input={"n": 41}, context={"base": 1}, labels={"team": "blue"}, priority=7
    )
    engine.settle()
    engine.send(instance_id, "GO")
    engine.settle()

    assert engine.context(instance_id) == {"base": 1, "kept": True, "got": 42}
    assert engine.execute("SELECT priority FROM instances") == [(7,)]
    assert '"blue"' in str(engine.execute("SELECT CAST(labels AS TEXT) FROM instances")[0][0])


def test_tasks_are_claimed_by_the_priority_of_their_instance(engine: Engine) -> None:
    engine.handler("work", lambda _input: None)
    low = engine.start(one_task(), priority=-1)
    middle, high = engine.start("one-work"), engine.start("one-work", priority=9)
    engine.advance()

    claimed = [claim.instance_id for _ in range(3) for claim in engine.claim(limit=1)]

    assert claimed == [high, middle, low]


def test_a_start_at_a_time_waits_for_it(clock: ManualClock, counter: Engine) -> None:
    started = ask(counter, start_at=clock.now() + timedelta(hours=1), business_key="later")
    counter.settle()
    assert counter.status(started.instance_id) is InstanceStatus.PENDING
    assert ask(counter, business_key="later").instance_id == started.instance_id

    clock.advance(timedelta(minutes=59, seconds=59))
    counter.settle()
    assert counter.status(started.instance_id) is InstanceStatus.PENDING

    clock.advance(timedelta(seconds=1))
    counter.settle()
    assert counter.status(started.instance_id) is InstanceStatus.WAITING
    assert counter.snapshot(started.instance_id)["instance"]["startedAt"] == "2026-03-01T13:00:00.000000Z"


@ON_SQLITE
def test_a_start_at_a_time_that_is_past_starts_at_once(clock: ManualClock, counter: Engine) -> None:
    started = ask(counter, start_at=clock.now() - timedelta(days=1))
    counter.settle()

    assert counter.status(started.instance_id) is InstanceStatus.WAITING


def test_a_start_that_was_cancelled_before_its_time_never_comes(clock: ManualClock, counter: Engine) -> None:
    instance_id = ask(counter, start_at=clock.now() + timedelta(hours=1)).instance_id
    with counter.database.transaction() as tx:
        cancel_instance(tx, counter.tenant_id, instance_id, reason=None, actor="test")
    counter.settle()
    clock.advance(timedelta(hours=2))
    counter.settle()

    assert counter.status(instance_id) is InstanceStatus.CANCELLED
    assert counter.entry_types(instance_id) == ["instance.cancelled"]
    assert counter.execute("SELECT status FROM timers") == [("cancelled",)]


# -- what it costs, and what is remembered for it -----------------------------------------------------------------


def set_status(engine: Engine, version: int, status: DefinitionStatus) -> None:
    """As another process does it, of which this one hears nothing."""
    with engine.database.transaction() as tx:
        definitions.set_status(tx, engine.tenant_id, "counter", version, status)


@pytest.mark.parametrize("business_key", [None, "order-2"])
def test_a_start_is_one_statement(counter: Engine, business_key: str | None) -> None:
    ask(counter)

    with statements(counter.database) as seen:
        ask(counter, business_key=business_key)

    # SQLite, where a statement costs no round trip: BEGIN, the definition with the clock, and a row for each table.
    assert len(seen) == (4 if counter.database.is_sqlite else 1), seen


@ON_SQLITE
def test_a_start_is_as_cheap_where_many_definitions_say_the_same(counter: Engine) -> None:
    """With 2,000 tenants, each with the same one, what was kept of 1,024 was never that of who started next."""
    with counter.database.transaction() as tx:
        [said] = tx.execute(select(tables.definitions)).mappings()
        keys = [f"counter-{number}" for number in range(1_100)]
        tx.execute(insert(tables.definitions), [{**said, "id": new_id(), "key": key} for key in keys])

    def start_all(keys: Sequence[str]) -> list[str]:
        with statements(counter.database) as seen, counter.database.transaction() as tx:
            for key in keys:
                start_instance(tx, counter.tenant_id, Start(definition_key=key), actor="test", limits=LIMITS)
        return seen

    start_all(keys)
    of_few = start_all(keys[-10:])

    assert len(start_all(keys[:10])) == len(of_few)


def test_a_start_tells_what_whoever_reads_it_would_see(counter: Engine) -> None:
    asked = {
        "input": {"b": 1.0, "a": ["ü"]},
        "labels": {"team": "x"},
        "priority": 7,
        "business_key": "order-3",
    }
    for _ in range(2):  # afresh, then as remembered
        started = ask(counter, **asked)

        with counter.database.reading() as tx:
            assert started.record == read_instance(tx, counter.tenant_id, started.instance_id)
        asked["business_key"] = "order-4"


def test_a_version_that_is_not_active_any_more_is_started_by_nobody_who_remembers_it(counter: Engine) -> None:
    ask(counter)
    set_status(counter, 1, DefinitionStatus.INACTIVE)

    error = refused(counter, Conflict)

    assert error.code == "definition.not_active"
    assert "version 1 is inactive" in str(error)
    set_status(counter, 1, DefinitionStatus.ACTIVE)
    assert ask(counter).created


def test_the_version_that_has_become_the_active_one_is_started(counter: Engine) -> None:
    ask(counter)
    counter.apply({**COUNTER, "description": "the second"})

    started = [ask(counter).record, ask(counter).record]

    assert [one and one.definition_version for one in started] == [2, 2]


def test_the_schema_of_the_version_that_was_active_before_refuses_nothing(engine: Engine) -> None:
    engine.apply({**COUNTER, "input": {"type": "object", "required": ["name"]}})
    ask(engine, input={"name": "Ada"})
    assert refused(engine, Invalid).code == "input.invalid"
    set_status(engine, 1, DefinitionStatus.INACTIVE)
    engine.apply({**COUNTER, "input": {"type": "object", "required": ["number"]}})

    assert ask(engine, input={"number": 1}).created
    assert refused(engine, Invalid, input={"name": "Ada"}).code == "input.invalid"


def test_another_tenants_definition_is_remembered_for_nobody_else(
    counter: Engine, database: Database
) -> None:
    ask(counter)
    with counter.database.reading() as tx:
        known = definitions.find_facts(tx, counter.tenant_id, "counter")
    assert known is not None
    ask(counter, definition_key=None, definition_id=known.id)
    other = Engine.on(database, tenant="other")

    assert refused(other, NotFound).code == "definition.not_found"
    assert (
        refused(other, NotFound, definition_key=None, definition_id=known.id).code == "definition.not_found"
    )


def test_a_later_start_is_a_timer_also_of_what_is_remembered(counter: Engine, clock: ManualClock) -> None:
    ask(counter)
    counter.settle()

    later = ask(counter, start_at=clock.now() + timedelta(hours=1))
    at_once = ask(counter, start_at=clock.now())

    rows = counter.execute("SELECT instance_id FROM inbox")
    assert [str(row[0]) for row in rows] == [at_once.instance_id]
    assert counter.execute("SELECT count(*) FROM timers WHERE status = 'armed'") == [(1,)]
    assert later.record is not None
    assert later.record.started_at is None
