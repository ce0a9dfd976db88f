"""History: the database refuses to change it, and whoever changes it all the same is found out."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from common.canonical import read
from common.clock import instant_text
from common.commands.control import cancel_instance
from common.commands.send import add_note
from common.commands.verify import verify_instance
from common.db import Database
from common.errors import LimitExceeded, NotFound
from common.ids import new_id
from common.store import history
from common.store.history import body_digest, chain_hash
from tests.integration.engine.documents import COUNTER, ON_SQLITE, after, assign, on_go, waiting_with_task
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock


@pytest.fixture
def instance_id(engine: Engine) -> str:
    """An instance with a history of four rows."""
    instance_id = engine.start(COUNTER)
    for n in (1, 2, 3):
        engine.send(instance_id, "ADD", n=n)
    engine.settle()
    return instance_id


@pytest.fixture
def migrated_sqlite(sqlite_url: str) -> Iterator[Engine]:
    database = Database.open(sqlite_url)
    engine = Engine.on(database)
    engine.start(COUNTER)
    engine.settle()
    yield engine
    database.dispose()


def verified(engine: Engine, instance_id: str) -> dict[str, Any]:
    with engine.database.reading() as tx:
        return verify_instance(tx, engine.tenant_id, instance_id)


def codes(engine: Engine, instance_id: str) -> list[str]:
    return [problem["code"] for problem in verified(engine, instance_id)["problems"]]


# -- what the database refuses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE history SET actor = 'nobody'",
        "UPDATE history SET actor = actor",
        "UPDATE history SET input = NULL, changes = NULL, salt = NULL",
        "DELETE FROM history",
        "DELETE FROM history WHERE sequence = 4",
    ],
)
def test_the_database_itself_refuses_to_change_history(
    engine: Engine, instance_id: str, statement: str
) -> None:
    with pytest.raises(DBAPIError, match="history is append-only"), engine.database.transaction() as tx:
        tx.exec_driver_sql(statement)
    assert verified(engine, instance_id)["entries"] == 4


def test_the_database_itself_refuses_to_truncate_history(postgres_url: str) -> None:
    database = Database.open(postgres_url)
    engine = Engine.on(database)
    engine.start(COUNTER)
    engine.settle()

    for statement in ("TRUNCATE history", "TRUNCATE instances CASCADE"):
        with pytest.raises(DBAPIError, match="history is append-only"), database.transaction() as tx:
            tx.exec_driver_sql(statement)
    database.dispose()


def test_a_replacing_insert_is_refused_too(engine: Engine, instance_id: str) -> None:
    """SQLite's INSERT OR REPLACE deletes without firing DELETE triggers; PostgreSQL has an upsert."""
    columns = (
        "instance_id, sequence, tenant_id, at, actor, input, changes, salt, digest, previous_hash, hash, tx"
    )
    row = f"SELECT {columns.replace('actor', chr(39) + 'forged' + chr(39))} FROM history WHERE sequence = 1"
    if engine.database.is_sqlite:
        statement = f"INSERT OR REPLACE INTO history ({columns}) {row}"
    else:
        statement = f"INSERT INTO history ({columns}) {row} ON CONFLICT (instance_id, sequence) DO UPDATE SET actor = 'forged'"

    with pytest.raises(DBAPIError), engine.database.transaction() as tx:
        tx.exec_driver_sql(statement)

    assert engine.execute("SELECT count(*) FROM history WHERE actor = 'forged'") == [(0,)]


def test_a_row_cannot_be_replaced_by_its_hidden_number(migrated_sqlite: Engine) -> None:
    engine = migrated_sqlite
    columns = "rowid, instance_id, sequence, tenant_id, at, actor, input, changes, salt, digest, previous_hash, hash, tx"
    row = columns.replace("sequence", "sequence + 90")
    with pytest.raises(DBAPIError, match="REPLACE refused"), engine.database.transaction() as tx:
        tx.exec_driver_sql(
            f"INSERT OR REPLACE INTO history ({columns}) SELECT {row} FROM history WHERE sequence = 1"
        )


# -- what is found out ---------------------------------------------------------------------------------------------


@contextmanager
def unguarded(engine: Engine) -> Iterator[Connection]:
    """What somebody with every right on the database can do: switch the guards off."""
    with engine.database.transaction() as tx:
        if engine.database.is_sqlite:
            for verb in ("update", "delete", "replace"):
                tx.exec_driver_sql(f"DROP TRIGGER history_refuses_{verb}")
        else:
            tx.exec_driver_sql("ALTER TABLE history DISABLE TRIGGER ALL")
        yield tx


def blob(engine: Engine, fill: str) -> str:
    return f"X'{fill * 32}'" if engine.database.is_sqlite else f"'\\x{fill * 32}'::bytea"


TAMPERED = {
    "sequence": ("sequence = 9", "history.gap"),
    "at": (None, "history.header_changed"),
    "actor": ("actor = 'somebody else'", "history.header_changed"),
    "input": ("input = replace(input, '\"n\":3', '\"n\":4')", "history.body_changed"),
    "changes": ("changes = replace(changes, '3', '4')", "history.body_changed"),
    "salt": ("salt = {blob}", "history.body_changed"),
    "digest": ("digest = {blob}", "history.body_changed"),
    "previous_hash": ("previous_hash = {blob}", "history.broken"),
    "hash": ("hash = {blob}", "history.header_changed"),
}


@pytest.mark.breaks_promises
@pytest.mark.parametrize("column", TAMPERED)
@ON_SQLITE
def test_a_change_of_any_column_is_found(engine: Engine, instance_id: str, column: str) -> None:
    change, code = TAMPERED[column]
    before = engine.execute("SELECT * FROM history WHERE sequence = 4")
    with unguarded(engine) as tx:
        if change is None:
            [(at,)] = tx.execute(text("SELECT at FROM history WHERE sequence = 4"))
            tx.execute(
                _SET_AT,
                {
                    "at": at + timedelta(seconds=1)
                    if not isinstance(at, str)
                    else "2001-01-01 00:00:00.000000"
                },
            )
        else:
            tx.exec_driver_sql(
                f"UPDATE history SET {change.format(blob=blob(engine, '5a'))} WHERE sequence = 4"
            )
    assert engine.execute("SELECT * FROM history WHERE sequence IN (4, 9)") != before

    found = verified(engine, instance_id)

    assert found["valid"] is False
    assert code in [problem["code"] for problem in found["problems"]]


_SET_AT = text("UPDATE history SET at = :at WHERE sequence = 4")


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_change_of_any_column_is_found_on_postgresql_too(engine: Engine, instance_id: str) -> None:
    """Each in a savepoint that is rolled back: the one database serves for all."""
    missed = []
    with engine.database.transaction() as tx:
        tx.exec_driver_sql("ALTER TABLE history DISABLE TRIGGER USER")
        for column, (change, code) in TAMPERED.items():
            changed = change or "at = at + interval '1 microsecond'"
            tampering = tx.begin_nested()
            tx.exec_driver_sql(
                f"UPDATE history SET {changed.format(blob=blob(engine, '5a'))} WHERE sequence = 4"
            )
            found = verify_instance(tx, engine.tenant_id, instance_id)["problems"]
            if code not in [problem["code"] for problem in found]:
                missed.append(column)
            tampering.rollback()
        tx.rollback()
    assert missed == []


@pytest.mark.breaks_promises
@ON_SQLITE
def test_a_row_moved_to_another_instance_is_found_on_both(engine: Engine, instance_id: str) -> None:
    other = engine.start("counter")
    engine.settle()
    with unguarded(engine) as tx:
        tx.execute(
            text("UPDATE history SET instance_id = :other WHERE instance_id = :id AND sequence = 4"),
            {"other": other, "id": instance_id},
        )

    assert codes(engine, instance_id) == ["history.head", "replay.snapshot"]
    assert "history.gap" in codes(engine, other)


@pytest.mark.breaks_promises
@pytest.mark.parametrize(("sequence", "code"), [(4, "history.head"), (2, "history.gap"), (1, "history.gap")])
@ON_SQLITE
def test_a_row_taken_out_is_found(engine: Engine, instance_id: str, sequence: int, code: str) -> None:
    with unguarded(engine) as tx:
        tx.exec_driver_sql(f"DELETE FROM history WHERE sequence = {sequence}")

    assert code in codes(engine, instance_id)


@pytest.mark.breaks_promises
@ON_SQLITE
def test_a_row_rewritten_with_all_its_hashes_is_found_by_the_next_and_by_the_replay(
    engine: Engine, instance_id: str
) -> None:
    """A forger who knows the algorithm: the chain goes on from the old hash, and the snapshot was made by the old event."""
    with engine.database.reading() as tx:
        row = list(history.read_chain(tx, engine.tenant_id, instance_id))[2]
    forged_input = (row.input or "").replace('"n":2', '"n":9')
    forged_changes = (row.changes or "").replace("2]", "9]")
    digest = body_digest(row.salt or b"", forged_input, forged_changes)
    hash_ = chain_hash(
        row.tenant_id, row.instance_id, row.sequence, row.at, row.actor, digest, row.previous_hash
    )
    with unguarded(engine) as tx:
        tx.execute(
            text("UPDATE history SET input = :i, changes = :c, digest = :d, hash = :h WHERE sequence = 3"),
            {"i": forged_input, "c": forged_changes, "d": digest, "h": hash_},
        )

    found = verified(engine, instance_id)

    assert [(p["code"], p.get("sequence")) for p in found["problems"]] == [
        ("history.broken", 4),
        ("replay.changes", 4),
    ]


@pytest.mark.breaks_promises
@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("snapshot = replace(snapshot, '[1,2,3]', '[1,2,4]')", "replay.snapshot"),
        ("status = 'running'", "replay.status"),
        ("sequence = 3", "history.head"),
        ("head_hash = {blob}", "history.head"),
        ("configuration = '[\"stopped\"]'", "replay.configuration"),
        ("output = '7'", "replay.output"),
        ("input = '7'", "replay.input"),
    ],
)
@ON_SQLITE
def test_a_change_of_what_the_history_explains_is_found(
    engine: Engine, instance_id: str, change: str, code: str
) -> None:
    engine.execute(f"UPDATE instances SET {change.format(blob=blob(engine, '5a'))}")
    assert code in codes(engine, instance_id)


@pytest.mark.breaks_promises
@pytest.mark.parametrize("garbage", ["no JSON", "{}", '{"type":"unknown","kernel":1}', "[]"])
@ON_SQLITE
def test_garbage_in_the_history_is_found_and_not_fallen_over(
    engine: Engine, instance_id: str, garbage: str
) -> None:
    with unguarded(engine) as tx:
        tx.execute(text("UPDATE history SET input = :garbage WHERE sequence = 2"), {"garbage": garbage})

    assert codes(engine, instance_id) == ["history.body_changed", "replay.failed"]


@pytest.mark.breaks_promises
@pytest.mark.parametrize(
    "document", ["no JSON", "[]", '{"id":"counter","initial":"nowhere","states":{"x":{}}}']
)
@ON_SQLITE
def test_a_document_that_no_longer_compiles_is_found_and_not_fallen_over(
    engine: Engine, instance_id: str, document: str
) -> None:
    with engine.database.transaction() as tx:
        tx.execute(text("UPDATE definitions SET document = :document"), {"document": document})

    assert codes(engine, instance_id)[0] in ("replay.definition", "replay.failed")


@pytest.mark.breaks_promises
@ON_SQLITE
def test_another_document_under_the_same_definition_is_found(engine: Engine, instance_id: str) -> None:
    engine.execute("UPDATE definitions SET checksum = 'other'")
    assert codes(engine, instance_id) == ["replay.definition"]


@pytest.mark.breaks_promises
def test_a_body_that_is_gone_without_an_erasure_is_found(engine: Engine, instance_id: str) -> None:
    """The database lets bodies of an ended instance go, for erasures; without one, what no replay shows any more could be changed."""
    engine.send(instance_id, "STOP")
    engine.settle()
    engine.execute("UPDATE history SET input = NULL, changes = NULL, salt = NULL WHERE sequence = 3")
    engine.execute("UPDATE instances SET output = '7'")

    found = verified(engine, instance_id)
    assert (found["valid"], found["replayed"], found["erased"]) == (False, False, 1)
    assert [(problem["code"], problem["sequence"]) for problem in found["problems"]] == [
        ("history.body_gone", 3)
    ]


@ON_SQLITE
def test_only_its_own_tenant_can_verify_an_instance(engine: Engine, instance_id: str) -> None:
    other = Engine.on(engine.database, tenant="other")
    for asked in (instance_id, new_id(), "no-id"):
        with pytest.raises(NotFound):
            verified(other, asked)


# -- how it is made ------------------------------------------------------------------------------------------------


@ON_SQLITE
def test_the_chain_is_made_of_stored_bytes_and_starts_from_32_zero_bytes(
    engine: Engine, instance_id: str
) -> None:
    with engine.database.reading() as tx:
        rows = list(history.read_chain(tx, engine.tenant_id, instance_id))

    previous = bytes(32)
    for row in rows:
        assert row.previous_hash == previous
        assert row.salt is not None
        assert row.digest == body_digest(row.salt, row.input or "", row.changes or "")
        assert instant_text(row.at).endswith("Z")
        previous = row.hash
    assert len({row.salt for row in rows}) == len(rows), "a salt of its own for each row"
    assert [row.sequence for row in rows] == [1, 2, 3, 4]


@ON_SQLITE
def test_the_recorded_input_is_everything_that_the_step_read(engine: Engine, instance_id: str) -> None:
    recorded = read(engine.execute("SELECT input FROM history WHERE sequence = 2")[0][0])

    assert set(recorded) == {"body", "definition", "env", "kernel", "type"}
    assert set(recorded["env"]) == {"now", "config", "seed"}
    assert recorded["body"] == {"type": "ADD", "n": 1}
    assert recorded["env"]["seed"] == f"{instance_id}:2"


def test_replaying_gives_the_snapshot_after_every_kind_of_event(clock: ManualClock, engine: Engine) -> None:
    """The examination after the test replays each history; here they hold every type of inbox row."""
    outcomes = iter([{"ok": 1}, ValueError("no"), {"ok": 2}])

    def work(_input: Any) -> Any:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    engine.handler("work", work)
    document = waiting_with_task(retry={"maxAttempts": 1})
    document["states"]["working"]["on"]["error.*"] = {"actions": [assign("error", "${event.error}")]}
    tasks = [engine.start(document), engine.start("waiting-work"), engine.start("waiting-work")]
    timed = engine.start(after("1m"))
    sender = engine.start(on_go({"type": "send", "to": {"instanceId": new_id()}, "event": "X"}))
    rolls = engine.start(on_go(assign("rolled", "${[uuid(), random(), string(now)]}")) | {"id": "rolls"})
    broken = engine.start(on_go(assign("x", "${1 / 0}")) | {"id": "broken"})
    engine.settle()
    clock.advance(timedelta(minutes=2))
    for instance_id in (sender, rolls, broken):
        engine.send(instance_id, "GO")
    engine.settle()
    late = engine.start("waiting-work")
    engine.advance()
    engine.handler("work", work)
    [claim] = engine.claim()
    with engine.database.transaction() as tx:
        add_note(tx, engine.tenant_id, timed, "seen", actor="ann")
        cancel_instance(tx, engine.tenant_id, late, reason="enough", actor="ann")
        cancel_instance(tx, engine.tenant_id, broken, reason=None, actor="ann")
    engine.advance()
    engine.report(engine.succeeded(claim))
    engine.settle()

    types = {row[0] for row in engine.execute("SELECT DISTINCT input FROM history")}
    seen = {read(recorded)["type"] for recorded in types}
    assert seen == {"start", "event", "task", "task.late", "timer", "undelivered", "note", "cancel"}
    for instance_id in (*tasks, timed, sender, rolls, broken, late):
        found = verified(engine, instance_id)
        assert (found["valid"], found["replayed"]) == (True, True)


def test_the_database_refuses_a_second_row_of_one_sequence(engine: Engine, instance_id: str) -> None:
    with engine.database.reading() as tx:
        row = list(history.read_chain(tx, engine.tenant_id, instance_id))[-1]
    again = history.chained(
        row.tenant_id,
        row.instance_id,
        row.sequence,
        at=row.at,
        actor="x",
        input="{}",
        changes="[]",
        previous_hash=row.hash,
    )
    with pytest.raises(IntegrityError), engine.database.transaction() as tx:
        history.append(tx, [again])


# -- how much of a long one is read ---------------------------------------------------------------------------------


def test_a_history_of_any_length_is_verified_a_few_rows_at_a_time(engine: Engine) -> None:
    """Its events may have a megabyte each, so all of it at once would be the memory of a whole process."""
    instance_id = engine.start(COUNTER)
    size, events = 200_000, 3 * history.CHAIN_PORTION
    for n in range(events):
        engine.send(instance_id, "PASSED_BY", ballast="x" * size, n=n)
    engine.settle()
    tracemalloc.start()
    try:
        found = verified(engine, instance_id)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert found == {"valid": True, "entries": events + 1, "replayed": True, "erased": 0, "problems": []}
    assert peak < size * events, "less than all rows together, of which Python has a copy or two"


def test_a_history_that_takes_too_long_to_verify_says_how_far_it_came(
    engine: Engine, instance_id: str
) -> None:
    with engine.database.reading() as tx, pytest.raises(LimitExceeded) as caught:
        verify_instance(tx, engine.tenant_id, instance_id, within=0.0)

    assert caught.value.fields["limit"] == "max_verify_seconds"
    assert "found one of 4 rows, of which 1 were by then" in str(caught.value)
