"""Retention: what is over goes, set by set, and leaves a tombstone; what somebody still needs stays."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from common.clock import instant_text
from common.commands.doctor import examine
from common.commands.retention import due_rules, retention_status
from common.commands.send import add_note
from common.db import Database
from common.db.now import read_now
from common.db.tables import inbox, incidents, metadata, tasks
from common.errors import Gone, NotFound
from common.ids import new_id
from common.lifecycle import InstanceStatus
from common.retention import Keeping
from common.store import retention
from orchestrator.retention import Sweeper, sweep
from tests.integration.engine.children import finish, parent, started
from tests.integration.engine.documents import COUNTER, ON_SQLITE, one_task
from tests.integration.store.test_erasure import ended_with_configs
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock
from tests.support.waiting import wait_until

DAYS_30 = Keeping(completed=timedelta(days=30))
FOR_EVER = Keeping()


def swept(engine: Engine, keeping: Keeping = DAYS_30, **more: Any) -> int:
    return sweep(engine.database, keeping, rest=lambda _seconds: False, **more)


def ended(engine: Engine, document: Any = COUNTER, **more: Any) -> str:
    instance_id = engine.start(document, **more)
    engine.settle()
    finish(engine, instance_id)
    return instance_id


def is_there(engine: Engine, instance_id: str) -> bool:
    return bool(engine.execute(f"SELECT 1 FROM instances WHERE id = '{instance_id}'"))


def rows(engine: Engine) -> dict[str, int]:
    """How many rows there are, by table: those of definitions, tenants and processes left out."""
    left_out = {"tenants", "definitions", "api_keys", "handlers", "workers", "tombstones"}
    return {
        name: count
        for name in metadata.tables
        if name not in left_out and (count := int(engine.execute(f"SELECT count(*) FROM {name}")[0][0]))
    }


def test_an_instance_goes_with_everything_when_its_time_is_over(engine: Engine, clock: ManualClock) -> None:
    engine.handler("work", lambda _input, _context: {"a": 1})
    instance_id = engine.start(one_task(), input={"x": 1}, labels={"a": "b"})
    engine.settle()
    head = bytes(engine.execute("SELECT head_hash FROM instances")[0][0])
    clock.advance(timedelta(days=29, hours=23))
    assert swept(engine) == 0
    clock.advance(timedelta(hours=1))

    assert swept(engine) == 1

    assert rows(engine) == {}
    with engine.database.reading() as tx:
        left = retention.find_tombstone(tx, engine.tenant_id, instance_id)
    assert left is not None
    assert (left["definition_key"], left["status"], left["reason"]) == ("one-work", "completed", "retention")
    assert left["head_hash"] == head.hex()
    assert left["deleted_at"] == "2026-03-31T12:00:00.000000Z"
    assert swept(engine) == 0


@ON_SQLITE
def test_a_tombstone_tells_when_it_was_set_not_when_the_sweep_began(
    engine: Engine, clock: ManualClock
) -> None:
    """Its parent may have ended meanwhile, and a child is never deleted before that. SQLite's clock may be set amid a transaction."""
    instance_id = ended(engine)
    clock.advance(timedelta(days=31))
    later: list[str] = []

    def go_on(_c: object, _cursor: object, statement: str, _p: object, _x: object, _many: bool) -> None:
        if "NOT (EXISTS" in statement and not later:  # the choice of who goes
            later.append(instant_text(clock.advance(timedelta(seconds=1))))

    event.listen(engine.database.engine, "before_cursor_execute", go_on)
    try:
        assert swept(engine) == 1
    finally:
        event.remove(engine.database.engine, "before_cursor_execute", go_on)
    with engine.database.reading() as tx:
        left = retention.find_tombstone(tx, engine.tenant_id, instance_id)

    assert left is not None
    assert [left["deleted_at"]] == later


def test_every_table_that_points_at_instances_or_tasks_is_swept(engine: Engine) -> None:
    """A table that comes later is deleted too, or a sweep would be refused by its foreign key for ever."""
    known = {statement.table.name for statement in retention._DELETIONS}
    pointing = {
        table.name
        for table in metadata.tables.values()
        for key in table.foreign_keys
        if key.column.table.name in ("instances", "tasks")
    }
    assert pointing <= known


@pytest.mark.parametrize(
    ("written", "days", "goes"),
    [
        ({"completed": "2d"}, 3, True),
        ({"completed": "2d"}, 1, False),
        ({"default": "2d"}, 3, True),
        ({"cancelled": "2d"}, 3, False),
        ({"cancelled": "2d"}, 31, True),  # the settings hold where the definition says nothing
        ({"completed": "forever"}, 3_650, False),
        ({"default": "forever", "completed": 60_000}, 1, True),
    ],
)
@ON_SQLITE
def test_a_definition_has_the_first_word(
    engine: Engine, clock: ManualClock, written: dict[str, Any], days: int, goes: bool
) -> None:
    ended(engine, {**COUNTER, "retention": written})
    clock.advance(timedelta(days=days))
    assert swept(engine) == (1 if goes else 0)


def test_each_way_of_ending_has_its_own_time_and_failures_stay(engine: Engine, clock: ManualClock) -> None:
    completed, cancelled, failed = ended(engine), engine.start(COUNTER), engine.start(one_task(retry=1))
    engine.handler("work", lambda _input, _context: 1 / 0)
    engine.control("cancel", cancelled)
    engine.settle()
    assert engine.status(failed) is InstanceStatus.FAILED
    clock.advance(timedelta(days=400))

    assert swept(engine, FOR_EVER) == 0
    assert swept(engine, Keeping(cancelled=timedelta(days=1))) == 1
    assert [is_there(engine, one) for one in (completed, cancelled, failed)] == [True, False, True]
    assert swept(engine, Keeping(timedelta(days=1), timedelta(days=1), timedelta(days=1))) == 1
    assert is_there(engine, failed)


def test_what_waits_in_the_inbox_and_what_has_an_open_incident_stays(
    engine: Engine, clock: ManualClock
) -> None:
    noted, broken = ended(engine), ended(engine)
    clock.advance(timedelta(days=31))
    with engine.database.transaction() as tx:
        add_note(tx, engine.tenant_id, noted, "still of interest", actor="test")
        row = {
            "id": new_id(),
            "tenant_id": engine.tenant_id,
            "instance_id": broken,
            "code": "x",
            "message": "y",
        }
        tx.execute(incidents.insert(), {**row, "sequence": 1, "status": "open", "opened_at": read_now(tx)})

    assert swept(engine) == 0

    engine.settle()
    engine.execute("DELETE FROM incidents")
    assert swept(engine) == 2


# -- families ------------------------------------------------------------------------------------------------------


def test_a_child_stays_as_long_as_its_parent_has_not_ended(engine: Engine, clock: ManualClock) -> None:
    engine.apply(COUNTER)
    document = parent(wait=False, cancelWithParent=False)
    parent_id, child_id = started(engine, document)
    finish(engine, child_id)
    clock.advance(timedelta(days=40))
    assert swept(engine) == 0
    assert examine(engine.database)["healthy"]

    engine.send(parent_id, "LEAVE")
    engine.settle()
    finish(engine, parent_id)
    assert swept(engine) == 1
    assert (is_there(engine, parent_id), is_there(engine, child_id)) == (True, False)
    clock.advance(timedelta(days=30))
    assert swept(engine) == 1
    assert not is_there(engine, parent_id)


def test_a_parent_waits_for_a_child_that_is_kept_longer(engine: Engine, clock: ManualClock) -> None:
    engine.apply({**COUNTER, "retention": {"default": "100d"}})
    parent_id, child_id = started(engine, parent())
    finish(engine, child_id)
    assert engine.status(parent_id) is InstanceStatus.COMPLETED
    clock.advance(timedelta(days=40))
    assert swept(engine) == 0
    clock.advance(timedelta(days=61))

    assert swept(engine) == 2

    assert rows(engine) == {}


# -- many -----------------------------------------------------------------------------------------------------------


def test_who_has_to_wait_hides_nobody_behind_them(engine: Engine, clock: ManualClock) -> None:
    engine.apply(COUNTER)
    first = [ended(engine, "counter") for _ in range(4)]
    with engine.database.transaction() as tx:
        for one in first[:3]:
            add_note(tx, engine.tenant_id, one, "wait", actor="test")
    clock.advance(timedelta(days=31))
    assert swept(engine, batch=2) == 1
    assert [is_there(engine, one) for one in first] == [True, True, True, False]
    engine.settle()
    assert swept(engine, batch=2) == 3


def test_any_number_sweeps_at_once_and_each_instance_goes_once(engine: Engine, clock: ManualClock) -> None:
    engine.apply(COUNTER)
    ids = [ended(engine, "counter") for _ in range(30)]
    clock.advance(timedelta(days=31))
    counts: list[int] = []
    others = [
        threading.Thread(target=lambda: counts.append(swept(engine, batch=3)), daemon=True) for _ in range(3)
    ]
    for one in others:
        one.start()
    for one in others:
        one.join(60)

    assert len(counts) == 3
    assert swept(engine) + sum(counts) == len(ids)
    assert engine.execute("SELECT count(*) FROM tombstones")[0][0] == len(ids)
    assert rows(engine) == {}


def test_who_sweeps_rests_after_each_look_too(engine: Engine, clock: ManualClock) -> None:
    """Passes follow each other while something falls due, and each looks at every version: with ten thousand, half of a core for ever."""
    ended(engine)
    clock.advance(timedelta(days=31))
    rests: list[float] = []

    def rest(seconds: float) -> bool:
        rests.append(seconds)
        return False

    assert sweep(engine.database, DAYS_30, rest=rest) == 1

    assert len(rests) == 3, "a look, what it found, and a look that found nothing"
    assert min(rests) > 0.0


def test_the_sweeper_of_a_process_ends_when_told(engine: Engine, clock: ManualClock) -> None:
    instance_id = ended(engine)
    clock.advance(timedelta(days=31))
    sweeper = Sweeper(engine.database, DAYS_30, look_seconds=0.05)
    sweeper.start()
    wait_until(lambda: not is_there(engine, instance_id), what="the instance is gone")
    sweeper.end(wait=10)
    assert not sweeper._thread.is_alive()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_note_that_meets_a_sweep_is_told_that_the_instance_is_gone(
    engine: Engine, clock: ManualClock
) -> None:
    """The insert waits for the sweep's lock, finds what it points at gone, and is run again from its look."""
    instance_id = ended(engine)
    clock.advance(timedelta(days=31))
    [rule] = rules(engine)
    raised: list[BaseException] = []

    def note() -> None:
        try:
            engine.database.run(lambda tx: add_note(tx, engine.tenant_id, instance_id, "hello", actor="test"))
        except Gone as error:
            raised.append(error)

    with engine.database.transaction() as tx:
        done = retention.sweep_batch(tx, rule, None, reason="retention")
        assert done.deleted == 1
        writer = threading.Thread(target=note, daemon=True)
        writer.start()
        waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO inbox%%'"
        wait_until(lambda: bool(engine.execute(waits)), what="the note waits for the sweep")
    writer.join(20)

    assert [error.code for error in raised] == ["instance.deleted"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_an_instance_that_somebody_writes_to_is_passed_over(engine: Engine, clock: ManualClock) -> None:
    busy, free = ended(engine), ended(engine, "counter")
    clock.advance(timedelta(days=31))
    with engine.database.transaction() as tx:
        add_note(tx, engine.tenant_id, busy, "not committed yet", actor="test")
        assert swept(engine) == 1
    assert (is_there(engine, busy), is_there(engine, free)) == (True, False)


def rules(engine: Engine, keeping: Keeping = DAYS_30) -> list[retention.Rule]:
    with engine.database.reading() as tx:
        return retention.rules_with_due(tx, due_rules(tx, keeping, now=read_now(tx)))


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_nothing_due_is_found_by_the_index(engine: Engine) -> None:
    """With nothing due a look is one probe of the index for each rule, however many have finished."""
    ended(engine)
    with engine.database.transaction() as tx:
        tx.execute(text("SET LOCAL enable_seqscan = off"))
        plan = "\n".join(
            row[0]
            for row in tx.execute(
                text(
                    "EXPLAIN SELECT 1 FROM instances WHERE definition_id = (SELECT id FROM definitions LIMIT 1)"
                    " AND status = 'completed' AND finished_at IS NOT NULL AND finished_at <= now()"
                    " ORDER BY finished_at, id LIMIT 100"
                )
            )
        )
    assert "ix_instances_finished" in plan
    assert "Sort" not in plan


# -- what the database lets happen -------------------------------------------------------------------------------------


def test_the_database_refuses_to_delete_history_without_a_tombstone_and_to_touch_one(
    engine: Engine, clock: ManualClock
) -> None:
    ended(engine)
    ended(engine, "counter")
    with pytest.raises(DBAPIError, match="history is append-only"):
        engine.execute("DELETE FROM history")
    clock.advance(timedelta(days=31))
    assert swept(engine) == 2
    for statement in ("DELETE FROM tombstones", "UPDATE tombstones SET reason = 'x'"):
        with pytest.raises(DBAPIError, match="tombstones are append-only"):
            engine.execute(statement)


# -- what is told --------------------------------------------------------------------------------------------------


def test_what_another_tenant_has_set_for_a_key_that_reads_like_the_id_stays(
    engine: Engine, clock: ManualClock
) -> None:
    other = Engine.on(engine.database, tenant="other")
    ended_with_configs(engine, other)
    clock.advance(timedelta(days=31))

    assert swept(engine) == 1

    [(tenant_id,)] = engine.execute("SELECT tenant_id FROM configs")
    assert str(tenant_id) == other.tenant_id


def test_figures_are_those_of_ones_own_tenant(engine: Engine, clock: ManualClock) -> None:
    other = Engine.on(engine.database, tenant="other")
    ended(engine)
    ended(other)
    clock.advance(timedelta(days=31))
    assert told(engine, engine.tenant_id)["due"] == 1
    assert told(engine, None)["due"] == 2
    assert swept(engine) == 2
    found = told(engine, engine.tenant_id)
    assert (found["due"], found["deleted"], found["lastDeletedAt"]) == (0, 1, "2026-04-01T12:00:00.000000Z")
    assert found["keptDays"] == {"completed": 30.0, "cancelled": None, "timed_out": None}


def told(engine: Engine, tenant_id: Any) -> dict[str, Any]:
    with engine.database.reading() as tx:
        return dict(retention_status(tx, DAYS_30, tenant_id=tenant_id))


def test_a_late_result_of_a_deleted_instance_changes_nothing(engine: Engine, clock: ManualClock) -> None:
    engine.handler("work", lambda _input, _context: None)
    instance_id = engine.start(one_task())
    engine.advance()
    [claim] = engine.claim()
    engine.control("cancel", instance_id)
    engine.advance()
    clock.advance(timedelta(days=2))
    assert swept(engine, Keeping(cancelled=timedelta(days=1))) == 1

    engine.report(engine.succeeded(claim, "late"))

    assert rows(engine) == {}
    with engine.database.reading() as tx:
        assert tx.execute(inbox.select()).first() is None
        assert tx.execute(tasks.select()).first() is None


def test_an_event_for_a_deleted_instance_is_gone_and_elsewhere_not_found(
    engine: Engine, clock: ManualClock
) -> None:
    instance_id = ended(engine)
    clock.advance(timedelta(days=31))
    swept(engine)
    with pytest.raises(Gone) as gone:
        engine.send(instance_id, "ADD", n=1)
    assert gone.value.fields["instanceStatus"] == "completed"
    other = Engine.on(engine.database, tenant="other")
    with pytest.raises(NotFound) as unknown:
        other.send(instance_id, "ADD", n=1)
    assert unknown.value.code == "instance.not_found"


def test_a_database_that_is_opened_by_old_settings_keeps_everything(database: Database) -> None:
    """Without a setting and without a word of a definition nothing of the instances is even looked at."""
    with database.reading() as tx:
        assert due_rules(tx, FOR_EVER, now=read_now(tx)) == []
