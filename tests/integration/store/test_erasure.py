"""Erasure: what was planted everywhere is found nowhere afterwards, and the history still verifies."""

import json
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import DBAPIError

from common.commands.configs import NewConfig, set_config
from common.commands.doctor import examine
from common.commands.erase import erase_instance
from common.commands.send import add_note
from common.commands.verify import verify_instance
from common.config import Limits
from common.db.tables import (
    ConfigScope,
    configs,
    idempotency,
    instance_metadata,
    metadata,
    suggestions,
    used_links,
)
from common.errors import Conflict, NotFound
from common.ids import new_id
from common.lifecycle import InstanceStatus
from common.store import history
from common.store.erasure import TABLES_WITH_BODIES
from orchestrator.retention import sweep_limits
from tests.integration.engine.children import child_of, finish, parent, started
from tests.integration.engine.documents import COUNTER, ON_SQLITE, one_task
from tests.integration.engine.sagas import Ledger, trip
from tests.support.engine import Engine

_numbers = count(1)


def planted() -> str:
    """A value that stands nowhere else: searched for byte by byte."""
    return f"Xq{next(_numbers):03}person"


def erase(engine: Engine, instance_id: str, **more: Any) -> None:
    asked = {"reason": "request 117", "cancel": False, "children": True, **more}
    with engine.database.transaction() as tx:
        erase_instance(tx, engine.tenant_id, instance_id, actor="the admin", **asked)
    engine.settle()


def verified(engine: Engine, instance_id: str) -> dict[str, Any]:
    with engine.database.reading() as tx:
        return verify_instance(tx, engine.tenant_id, instance_id)


def every_value(engine: Engine) -> dict[str, bytes]:
    """All columns of all tables, as bytes, by table."""
    with engine.database.reading() as tx:
        return {
            name: b"\n".join(
                value if isinstance(value, bytes) else str(value).encode()
                for row in tx.execute(text(f"SELECT * FROM {name}"))
                for value in row
            )
            for name in metadata.tables
        }


def found_in(engine: Engine, values: list[str]) -> list[tuple[str, str]]:
    return [
        (table, value)
        for table, held in every_value(engine).items()
        for value in values
        if value.encode() in held
    ]


PERSONAL: dict[str, Any] = {
    "id": "personal",
    "initial": "working",
    "context": {"heard": None},
    "states": {
        "working": {
            "entry": [
                {
                    "type": "createTask",
                    "task": {
                        "type": "work",
                        "name": "call ${input.phone}",
                        "input": "${input}",
                        "idempotencyKey": "${input.phone}",
                    },
                },
                {
                    "type": "createTask",
                    "task": {
                        "type": "fail",
                        "name": "flop",
                        "input": "${input}",
                        "retry": {"maxAttempts": 1},
                    },
                },
                {"type": "raise", "event": {"type": "LATER", "who": "${input.phone}"}, "delay": "1h"},
            ],
            "on": {
                "HEARD": {"actions": [{"type": "assign", "path": "heard", "value": "${event.what}"}]},
                "error.task.flop": {
                    "actions": [{"type": "assign", "path": "problem", "value": "${event.error}"}]
                },
                "STOP": "done",
            },
        },
        "done": {"type": "final"},
    },
    "output": {"heard": "${context.heard}"},
}


def personal_instance(engine: Engine) -> tuple[str, list[str]]:
    """An ended instance that has been told something in every way there is; and what it was told."""
    values = {name: planted() for name in (
        "input", "phone", "context", "label", "key", "event", "output", "error", "data", "progress", "note",
        "metadata", "config", "payload", "why", "comment", "link", "answer", "late",
    )}  # fmt: skip

    def work(input: Any, _context: Any) -> Any:
        return {"said": values["output"], "to": input}

    def fail(_input: Any, _context: Any) -> Any:
        raise ValueError(values["error"] + values["data"])

    engine.handler("work", work)
    engine.handler("fail", fail)
    instance_id = engine.start(
        PERSONAL,
        input={"name": values["input"], "phone": values["phone"]},
        context={"given": values["context"]},
        labels={"subject": values["label"]},
        business_key=values["key"],
    )
    engine.settle()
    engine.send(instance_id, "HEARD", what=values["event"])
    engine.settle()
    with engine.database.transaction() as tx:
        add_note(tx, engine.tenant_id, instance_id, values["note"], actor="test")
    [(task_id,)] = engine.execute(
        f"SELECT id FROM tasks WHERE instance_id = '{instance_id}' AND type = 'work'"
    )
    plant_rows(engine, instance_id, str(task_id), values)
    engine.send(instance_id, "STOP")
    engine.settle()
    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    return instance_id, list(values.values())


def plant_rows(engine: Engine, instance_id: str, task_id: str, values: dict[str, str]) -> None:
    """What no definition of this test brings about: rows of people, of AI, of callers."""
    now, tenant_id = engine.now(), engine.tenant_id
    mine = {"tenant_id": tenant_id, "instance_id": instance_id}
    touched = {"updated_at": now, "updated_by": "test"}
    with engine.database.transaction() as tx:
        tx.execute(
            insert(instance_metadata),
            {**mine, "key": "k", "value": json.dumps(values["metadata"]), **touched},
        )
        config = {
            "id": new_id(),
            "tenant_id": tenant_id,
            "scope": "instance",
            "scope_id": instance_id,
            "module": "m",
        }
        tx.execute(insert(configs), {**config, "key": "k", "value": json.dumps(values["config"]), **touched})
        suggested = {
            "task_id": task_id,
            "event": "STOP",
            "payload": json.dumps(values["payload"]),
            "reason": values["why"],
        }
        decided = {
            "status": "rejected",
            "decided_at": now,
            "decided_by": "test",
            "comment": values["comment"],
        }
        tx.execute(insert(suggestions), {"id": new_id(), **mine, **suggested, **decided, "created_at": now})
        tx.execute(
            insert(used_links), {**mine, "digest": b"d" * 32, "person": values["link"], "used_at": now}
        )
        for about in (instance_id, None):
            answer = json.dumps({"body": {"id": instance_id, "input": values["answer"]}, "headers": {}})
            kept = {"principal": "p", "key": str(about), "digest": b"d" * 32, "status": 201, "answer": answer}
            times = {"created_at": now, "expires_at": now + timedelta(days=1)}
            tx.execute(insert(idempotency), {"tenant_id": tenant_id, **kept, **times, "instance_id": about})
        told = {"error": json.dumps({"code": "late", "message": values["late"]}), "task": task_id}
        tx.execute(text("UPDATE attempts SET error = :error WHERE task_id = :task"), told)
        progress = {"progress": json.dumps(values["progress"]), "task": task_id}
        tx.execute(text("UPDATE attempts SET progress = :progress WHERE task_id = :task"), progress)
        tx.execute(
            text("UPDATE tasks SET progress = :progress, state = :progress WHERE id = :task"), progress
        )


def test_what_was_planted_everywhere_is_found_nowhere(engine: Engine) -> None:
    instance_id, values = personal_instance(engine)
    held = {value for _, value in found_in(engine, values)}
    assert held == set(values), "each value was stored"

    erase(engine, instance_id)

    assert found_in(engine, values) == []
    found = verified(engine, instance_id)
    assert (found["valid"], found["replayed"], found["problems"]) == (True, False, [])
    assert found["erased"] == found["entries"] - 1
    assert examine(engine.database)["healthy"]
    assert engine.snapshot(instance_id)["configuration"] == ["done"]
    with engine.database.reading() as tx:
        last = list(history.read_chain(tx, engine.tenant_id, instance_id))[-1]
    assert last.actor == "the admin"
    assert json.loads(last.changes or "") == [{"reason": "request 117", "type": "instance.erased"}]


def test_keys_and_events_that_were_made_of_data_go_too(engine: Engine) -> None:
    secret = planted()
    engine.handler("work", lambda _input: None)
    document = one_task(
        name="job",
        completionEvent="DONE.${input}",
        failureEvent="FAILED.${input}",
        limit={"key": "of-${input}", "maxRunning": 1},
    )
    instance_id = engine.start(document | {"concurrency": {"key": "${input}", "max": 1}}, input=secret)
    waiting = engine.start(str(document["id"]), input=secret)
    engine.settle()
    assert {table for table, _ in found_in(engine, [secret])} >= {"instances", "tasks", "limits"}

    for one in (waiting, instance_id):
        erase(engine, one, cancel=True)
    assert found_in(engine, [secret]) == [("limits", secret)]
    assert sweep_limits(engine.database, rest=lambda _seconds: False) == 1
    assert found_in(engine, [secret]) == []


def test_names_that_the_definition_writes_out_stay(engine: Engine) -> None:
    instance_id, _ = personal_instance(engine)
    erase(engine, instance_id)
    rows = engine.execute(f"SELECT type, name FROM tasks WHERE instance_id = '{instance_id}' ORDER BY type")
    assert [tuple(row) for row in rows] == [("fail", "flop"), ("work", "work")]


def test_a_repeat_of_an_answered_request_is_told_and_another_tenants_answer_stays(engine: Engine) -> None:
    instance_id, _ = personal_instance(engine)
    other = Engine.on(engine.database, tenant="other")
    with engine.database.transaction() as tx:
        times = {"created_at": engine.now(), "expires_at": engine.now() + timedelta(days=1)}
        kept = {
            "principal": "p",
            "key": "k",
            "digest": b"d" * 32,
            "status": 200,
            "answer": f'"{instance_id}"',
        }
        tx.execute(insert(idempotency), {"tenant_id": other.tenant_id, **kept, **times})

    erase(engine, instance_id)

    rows = engine.execute("SELECT tenant_id, status, answer FROM idempotency")
    assert {(str(row[0]), row[1]) for row in rows} == {(engine.tenant_id, 410), (other.tenant_id, 200)}
    assert all("answer.erased" in row[2] for row in rows if row[1] == 410)


def test_what_another_tenant_has_set_for_a_key_that_reads_like_the_id_stays(engine: Engine) -> None:
    """A tenant may call its own instances by the ids that another tenant's have."""
    other = Engine.on(engine.database, tenant="other")
    instance_id = ended_with_configs(engine, other)

    erase(engine, instance_id)

    [(tenant_id,)] = engine.execute("SELECT tenant_id FROM configs")
    assert str(tenant_id) == other.tenant_id


def ended_with_configs(engine: Engine, other: Engine) -> str:
    """An ended instance for whose id both tenants have set a value."""
    instance_id = engine.start(COUNTER)
    engine.settle()
    finish(engine, instance_id)
    value = NewConfig("m", "k", 1, ConfigScope.INSTANCE, instance_id, None)
    with engine.database.transaction() as tx:
        for tenant_id in (engine.tenant_id, other.tenant_id):
            set_config(tx, tenant_id, value, actor="test", limits=Limits())
    return instance_id


def test_what_comes_after_an_erasure_is_erased_by_another_one(engine: Engine) -> None:
    instance_id, values = personal_instance(engine)
    erase(engine, instance_id)
    again = planted()
    with engine.database.transaction() as tx:
        add_note(tx, engine.tenant_id, instance_id, again, actor="test")
    engine.settle()
    assert found_in(engine, [again]) == [("history", again)]
    assert engine.snapshot(instance_id)["configuration"] == ["done"]

    erase(engine, instance_id)

    assert found_in(engine, [*values, again]) == []
    assert verified(engine, instance_id)["valid"]


def test_what_was_accepted_before_is_erased_in_the_same_batch(engine: Engine) -> None:
    """Start, event, cancel and erasure are consumed by one pass."""
    secret = planted()
    instance_id = engine.start(COUNTER, input=secret, labels={"l": secret})
    engine.send(instance_id, "ADD", n=secret)
    erase(engine, instance_id, cancel=True)
    engine.settle()

    assert engine.status(instance_id) is InstanceStatus.CANCELLED
    assert found_in(engine, [secret]) == []
    assert verified(engine, instance_id)["valid"]


@ON_SQLITE
@pytest.mark.parametrize("frozen", ["pause", "fail"])
def test_who_has_not_ended_is_refused_or_cancelled_first(engine: Engine, frozen: str) -> None:
    secret = planted()

    def crash(_input: Any, _context: Any) -> Any:
        raise ValueError(secret)

    engine.handler("work", crash)
    instance_id = engine.start(
        one_task(retry={"maxAttempts": 1}) if frozen == "fail" else COUNTER, input=secret
    )
    engine.settle()
    if frozen == "pause":
        engine.control("pause", instance_id)
        engine.settle()
    with pytest.raises(Conflict, match="cancel it first") as refused:
        erase(engine, instance_id)
    assert refused.value.code == "instance.not_ended"
    assert found_in(engine, [secret])

    erase(engine, instance_id, cancel=True)

    assert engine.status(instance_id) is InstanceStatus.CANCELLED
    assert found_in(engine, [secret]) == []


@ON_SQLITE
def test_another_tenant_and_a_wrong_id_find_nobody(engine: Engine) -> None:
    instance_id, values = personal_instance(engine)
    other = Engine.on(engine.database, tenant="other")
    for asked in (instance_id, new_id(), "no-id"):
        with pytest.raises(NotFound):
            erase(other, asked)
    assert found_in(engine, values)


# -- families ------------------------------------------------------------------------------------------------------


def test_children_are_erased_with_their_parent_and_with_them_alone(engine: Engine) -> None:
    secret = planted()
    engine.apply(COUNTER)
    parent_id, child_id = started(engine, parent(input="${input}"), input=secret)
    with pytest.raises(Conflict, match="cancel it first"):
        erase(engine, parent_id)
    engine.send(child_id, "STOP")
    engine.settle()

    erase(engine, parent_id, children=False)
    assert {table for table, _ in found_in(engine, [secret])} >= {"history", "instances"}

    erase(engine, parent_id)
    assert found_in(engine, [secret]) == []
    assert verified(engine, child_id)["valid"]
    assert "instance.erased" in engine.entry_types(child_id)


def test_a_child_that_goes_on_alone_is_refused_or_cancelled_too(engine: Engine) -> None:
    secret = planted()
    engine.apply(COUNTER)
    document = parent(input="${input}", wait=False, cancelWithParent=False)
    parent_id = engine.start(document, input=secret)
    engine.settle()
    child_id = child_of(engine, parent_id)
    engine.control("cancel", parent_id)
    engine.settle()
    with pytest.raises(Conflict, match=f"with its children: {child_id} is waiting") as refused:
        erase(engine, parent_id)
    assert refused.value.fields["unfinished"] == [child_id]

    erase(engine, parent_id, cancel=True)

    assert engine.status(child_id) is InstanceStatus.CANCELLED
    assert found_in(engine, [secret]) == []


@ON_SQLITE
def test_who_is_erased_twice_at_once_loses_nothing_of_the_first_word(engine: Engine) -> None:
    secret = planted()
    engine.apply(COUNTER)
    parent_id, child_id = started(engine, parent(input="${input}"), input=secret)
    engine.send(child_id, "STOP")
    engine.settle()

    for children in (True, False):
        with engine.database.transaction() as tx:
            asked = {"reason": None, "cancel": False, "children": children}
            erase_instance(tx, engine.tenant_id, parent_id, actor="the admin", **asked)
    engine.settle()

    assert found_in(engine, [secret]) == []
    assert "instance.erased" in engine.entry_types(child_id)


def test_a_living_family_is_cancelled_and_erased_from_its_root(engine: Engine) -> None:
    secret = planted()
    engine.apply(COUNTER)
    parent_id, child_id = started(engine, parent(input="${input}"), input=secret)

    erase(engine, parent_id, cancel=True)

    assert {engine.status(one) for one in (parent_id, child_id)} == {InstanceStatus.CANCELLED}
    assert found_in(engine, [secret]) == []


# -- beside compensation -------------------------------------------------------------------------------------------


def test_who_undoes_first_is_erased_when_that_has_ended(engine: Engine) -> None:
    """The cancel that comes with it begins the undoing, which takes tasks: the erasure waits for their end."""
    secret = planted()
    ledger = Ledger(engine)
    instance_id = engine.start(trip(wait=True), input=secret)
    engine.settle()

    erase(engine, instance_id, cancel=True)

    assert ledger.lines[-2:] == ["undo.hotel", "undo.flight"]
    assert engine.status(instance_id) is InstanceStatus.CANCELLED
    assert found_in(engine, [secret]) == []
    assert engine.entry_types(instance_id) == ["instance.erased"]
    assert verified(engine, instance_id)["valid"]


def test_an_erasure_outlives_an_undoing_that_fails(engine: Engine) -> None:
    secret = planted()
    ledger = Ledger(engine)
    ledger.failing.add("undo.hotel")
    instance_id = engine.start(trip(wait=True), input=secret)
    engine.settle()
    erase(engine, instance_id, cancel=True)
    assert engine.status(instance_id) is InstanceStatus.FAILED
    assert found_in(engine, [secret])

    ledger.failing.clear()
    engine.control("retry", instance_id)
    engine.settle()

    assert engine.status(instance_id) is InstanceStatus.CANCELLED
    assert found_in(engine, [secret]) == []


def test_while_it_undoes_the_erasure_waits_and_nothing_is_wrong(engine: Engine) -> None:
    secret = planted()
    Ledger(engine)
    instance_id = engine.start(trip(wait=True), input=secret)
    engine.settle()
    with engine.database.transaction() as tx:
        asked = {"reason": None, "cancel": True, "children": True}
        erase_instance(tx, engine.tenant_id, instance_id, actor="the admin", **asked)
    engine.advance()
    assert engine.status(instance_id) is InstanceStatus.COMPENSATING
    assert examine(engine.database)["problems"] == []

    engine.control("cancel", instance_id, compensate=False)
    engine.settle()
    assert found_in(engine, [secret]) == []


def test_a_child_that_undoes_first_is_erased_with_its_parent(engine: Engine) -> None:
    secret = planted()
    Ledger(engine)
    engine.apply(trip(wait=True))
    parent_id, child_id = started(engine, parent("trip", input="${input}"), input=secret)

    erase(engine, parent_id, cancel=True)

    assert {engine.status(one) for one in (parent_id, child_id)} == {InstanceStatus.CANCELLED}
    assert found_in(engine, [secret]) == []


# -- what was on its way ---------------------------------------------------------------------------------------------


def test_the_answer_of_a_child_that_ends_after_its_parent_was_erased_brings_nothing_back(
    engine: Engine,
) -> None:
    secret = planted()
    engine.apply(COUNTER)
    document = parent(input="${input}", cancelWithParent=False)
    parent_id, _ = started(engine, document, input=secret)

    erase(engine, parent_id, cancel=True)

    assert found_in(engine, [secret]) == []
    report = verified(engine, parent_id)
    assert (report["valid"], report["erased"]) == (True, report["entries"] - 1)


def test_a_result_that_is_behind_the_erasure_brings_nothing_back(engine: Engine) -> None:
    secret = planted()
    engine.handler("work", lambda _input: None)
    instance_id = engine.start(one_task())
    engine.advance()
    [claim] = engine.claim()
    with engine.database.transaction() as tx:
        asked = {"reason": None, "cancel": True, "children": True}
        erase_instance(tx, engine.tenant_id, instance_id, actor="the admin", **asked)
    engine.report(engine.succeeded(claim, {"said": secret}))
    assert found_in(engine, [secret]), "the result was accepted behind the erasure"
    engine.settle()

    assert engine.status(instance_id) is InstanceStatus.CANCELLED
    assert found_in(engine, [secret]) == []
    assert verified(engine, instance_id)["valid"]


def test_what_it_sent_as_it_ended_and_nobody_took_brings_nothing_back(engine: Engine) -> None:
    secret = planted()
    goodbye = {"type": "send", "to": {"instanceId": new_id()}, "event": {"type": "BYE", "of": "${input}"}}
    document = {"id": "polite", "initial": "a", "states": {"a": {"on": {"GO": "a"}, "exit": [goodbye]}}}
    instance_id = engine.start(document, input=secret)
    engine.settle()

    erase(engine, instance_id, cancel=True)

    assert found_in(engine, [secret]) == []
    assert verified(engine, instance_id)["valid"]


# -- what the database lets happen -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "input = NULL",
        "changes = '[]'",
        "input = NULL, changes = NULL, salt = NULL, actor = 'nobody'",
        "input = NULL, changes = NULL, salt = NULL, digest = hash",
        "input = NULL, changes = NULL, salt = NULL, sequence = sequence + 1000",
    ],
)
def test_the_database_lets_bodies_go_and_refuses_every_other_change(engine: Engine, change: str) -> None:
    instance_id = engine.start(COUNTER)
    engine.send(instance_id, "STOP")
    engine.settle()
    with pytest.raises(DBAPIError, match="history is append-only"), engine.database.transaction() as tx:
        tx.exec_driver_sql(f"UPDATE history SET {change}")
    assert verified(engine, instance_id)["replayed"]


# -- bytes on the disk ---------------------------------------------------------------------------------------------


def bytes_of(database: Path) -> bytes:
    """The bytes of a SQLite file, and of all that it has beside it."""
    return b"".join(path.read_bytes() for path in database.parent.glob(f"{database.name}*"))


@ON_SQLITE
def test_a_vacuum_takes_the_bytes_out_of_the_file_and_its_log(engine: Engine, database_url: str) -> None:
    instance_id, values = personal_instance(engine)
    erase(engine, instance_id)

    assert engine.database.vacuum(TABLES_WITH_BODIES)

    held = bytes_of(Path(database_url.removeprefix("sqlite:///")))
    assert len(held) > 100_000
    assert [value for value in values if value.encode() in held] == []


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_full_vacuum_takes_the_bytes_out_of_the_heap(engine: Engine) -> None:
    instance_id, values = personal_instance(engine)
    erase(engine, instance_id)

    assert engine.database.vacuum(TABLES_WITH_BODIES)

    engine.execute("CHECKPOINT")  # writes the new files, and lets the old ones go
    files = engine.execute(
        "SELECT pg_read_binary_file(pg_relation_filepath(oid)) FROM pg_class WHERE relkind IN ('r', 't', 'i')"
    )
    held = b"".join(bytes(row[0]) for row in files)
    assert b"request 117" in held
    assert [value for value in values if value.encode() in held] == []
