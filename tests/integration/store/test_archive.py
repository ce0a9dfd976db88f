"""Export and import: everything arrives as it was and verifies, nothing arrives twice, and no file is believed."""

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from common.commands.doctor import examine
from common.commands.erase import erase_instance
from common.commands.send import add_note
from common.commands.verify import verify_instance
from common.config import Limits
from common.db import Database
from common.db.tables import metadata
from common.errors import Conflict, Invalid
from common.ids import TenantId, new_id
from common.lifecycle import InstanceStatus
from common.retention import Keeping
from common.store import archive, keys
from common.store.listing import InstanceFilter
from orchestrator.retention import sweep
from signalbox.archive import Exported, Imported, check_lines, export_lines, import_lines
from tests.integration.engine.children import child_of, finish, parent, started
from tests.integration.engine.documents import COUNTER, ON_SQLITE, Document, one_task
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock

TIMED: Document = {
    "id": "timed",
    "initial": "asking",
    "context": {"n": 0},
    "states": {
        "asking": {
            "entry": [
                {"type": "createTask", "task": {"type": "HUMAN", "name": "ask"}},
                {"type": "createTask", "task": {"type": "work", "name": "job", "completionEvent": "DONE"}},
            ],
            "after": {"10d": "late"},
            "on": {
                "ADD": {"actions": [{"type": "assign", "path": "n", "value": "${context.n + 1}"}]},
                "STOP": "late",
            },
        },
        "late": {"type": "final"},
    },
}


@pytest.fixture
def elsewhere(migrated_sqlite_file: Path, tmp_path: Path) -> Iterator[Database]:
    """A second, empty database."""
    path = tmp_path / "elsewhere.db"
    shutil.copyfile(migrated_sqlite_file, path)
    database = Database.open(f"sqlite:///{path}")
    yield database
    database.dispose()


def exported(engine: Engine, **wanted: Any) -> list[bytes]:
    done = Exported()
    lines = list(
        export_lines(engine.database, engine.tenant_id, InstanceFilter(**wanted), schema="test", done=done)
    )
    check_lines(iter(lines))
    return lines


def imported(database: Database, lines: list[bytes], *, tenant: str | None = None) -> Imported:
    done = Imported()
    import_lines(database, iter(lines), tenant=tenant, limits=Limits(), done=done)
    return done


def there(engine: Engine, database: Database) -> Engine:
    """The engine on the database that was imported into."""
    return Engine(database, engine.tenant_id, registry=engine.registry)


def lively(engine: Engine) -> list[str]:
    """One finished, one erased, one paused with everything open, one failed."""
    engine.handler("work", lambda _input, _context: {"ok": True})
    done = engine.start(TIMED, input={"é": "ü"}, labels={"a": "b"}, business_key="k-1")
    engine.settle()
    engine.send(done, "ADD")
    finish(engine, done)
    with engine.database.transaction() as tx:
        add_note(tx, engine.tenant_id, done, "looked at", actor="test")
    erased = engine.start("timed")
    engine.settle()
    finish(engine, erased)
    with engine.database.transaction() as tx:
        asked = {"reason": "r", "cancel": False, "children": True, "actor": "test"}
        erase_instance(tx, engine.tenant_id, erased, **asked)
    paused = engine.start("timed", business_key="k-2")
    engine.settle()
    engine.control("pause", paused)
    engine.settle()
    engine.send(paused, "ADD")
    engine.handler("crash", lambda _input, _context: 1 / 0)
    failed = engine.start(one_task("crash", retry=1))
    engine.settle()
    return [done, erased, paused, failed]


def all_rows(database: Database, tenant_id: str, ids: list[str]) -> list[Any]:
    with database.reading() as tx:
        return [archive.read_all(tx, TenantId(tenant_id), one) for one in ids]


def test_everything_arrives_as_it_was_and_goes_on(engine: Engine, elsewhere: Database) -> None:
    ids = lively(engine)
    lines = exported(engine)

    done = imported(elsewhere, lines)

    assert (done.instances, done.definitions, done.skipped, done.refused) == (4, 2, 0, [])
    assert all_rows(elsewhere, engine.tenant_id, ids) == all_rows(engine.database, engine.tenant_id, ids)
    assert examine(elsewhere)["healthy"]
    with elsewhere.reading() as tx:
        verdicts = [verify_instance(tx, engine.tenant_id, one) for one in ids]
    assert [(one["valid"], one["replayed"]) for one in verdicts] == [
        (True, True),
        (True, False),
        (True, True),
        (True, True),
    ]

    other = there(engine, elsewhere)
    other.control("resume", ids[2])
    other.settle()
    assert other.context(ids[2])["n"] == 1, "the event that waited parked is taken"
    finish(other, ids[2])
    assert other.status(ids[2]) is InstanceStatus.COMPLETED
    assert examine(elsewhere)["healthy"]


def test_the_limits_of_its_open_tasks_stand_where_it_arrives(engine: Engine, elsewhere: Database) -> None:
    """They are no part of an instance, and without them its tasks would run all at once."""
    engine.handler("work", lambda _input, _context: None)
    limited = one_task(limit={"key": "crm", "maxRunning": 1})
    ids = [engine.start(limited) for _ in range(3)]
    engine.advance()
    for one in ids:
        engine.control("pause", one)
    engine.advance()

    imported(elsewhere, exported(engine))

    other = there(engine, elsewhere)
    for one in ids:
        other.control("resume", one)
    other.advance()
    assert len(other.claim()) == 1


def test_the_way_back_and_an_import_that_is_said_again(
    engine: Engine, migrated_sqlite_file: Path, tmp_path: Path
) -> None:
    """From SQLite into either database; what was broken off goes on where it was."""
    path = tmp_path / "source.db"
    shutil.copyfile(migrated_sqlite_file, path)
    source = Engine.on(Database.open(f"sqlite:///{path}"), tenant="theirs")
    ids = lively(source)
    lines = exported(source)
    with pytest.raises(Invalid, match="it has no end"):
        imported(engine.database, lines[:4])

    done = imported(engine.database, lines)

    assert (done.instances, done.skipped, done.refused) == (4 - done.skipped, done.skipped, [])
    assert done.skipped >= 1
    again = imported(engine.database, lines)
    assert (again.instances, again.skipped) == (0, 4)
    assert all_rows(engine.database, source.tenant_id, ids) == all_rows(
        source.database, source.tenant_id, ids
    )
    source.database.dispose()


def test_a_family_arrives_parents_first(engine: Engine, elsewhere: Database) -> None:
    engine.apply(COUNTER)
    parent_id, child_id = started(engine, parent())
    finish(engine, child_id)
    lines = exported(engine)
    assert [json.loads(line)["id"] for line in lines if b'"kind":"instance"' in line] == [parent_id, child_id]
    assert imported(elsewhere, lines).instances == 2
    assert child_of(there(engine, elsewhere), parent_id) == child_id


@ON_SQLITE
def test_a_child_without_its_parent_and_what_still_moves_are_refused(
    engine: Engine, elsewhere: Database
) -> None:
    engine.apply(COUNTER)
    _, child_id = started(engine, parent())
    finish(engine, child_id)
    waiting = engine.start("counter")
    engine.settle()
    done = imported(elsewhere, exported(engine, ids=[child_id, waiting]))
    assert [(one["id"], one["code"]) for one in done.refused] == [
        (child_id, "import.parent"),
        (waiting, "import.live"),
    ]
    assert examine(elsewhere)["instances"] == 0


@ON_SQLITE
def test_a_task_that_a_runner_holds_does_not_arrive_twice(engine: Engine, elsewhere: Database) -> None:
    engine.handler("work", lambda _input, _context: None)
    instance_id = engine.start(one_task())
    engine.advance()
    [claim] = engine.claim()
    engine.control("pause", instance_id)
    engine.advance()
    assert [one["code"] for one in imported(elsewhere, exported(engine)).refused] == ["import.live"]
    engine.report(engine.succeeded(claim))
    engine.advance()
    assert imported(elsewhere, exported(engine)).instances == 1


def test_filters_choose_and_other_tenants_stay_out(engine: Engine) -> None:
    other = Engine.on(engine.database, tenant="other")
    other.start(COUNTER)
    mine = [engine.start(COUNTER, labels={"a": str(n)}) for n in range(3)]
    engine.settle()

    def chosen(**wanted: Any) -> list[str]:
        return [
            body["id"] for body in map(json.loads, exported(engine, **wanted)) if body["kind"] == "instance"
        ]

    assert chosen() == mine
    assert chosen(labels=[("a", "1")]) == [mine[1]]
    assert chosen(ids=[mine[2]]) == [mine[2]]
    assert chosen(definition_key="nothing") == []
    assert chosen(statuses=[InstanceStatus.PAUSED]) == []


# -- tenants ---------------------------------------------------------------------------------------------------------


@ON_SQLITE
def test_a_tenant_keeps_its_id_and_may_get_another_name(engine: Engine, elsewhere: Database) -> None:
    finish(engine, engine.start(COUNTER))
    lines = exported(engine)
    with elsewhere.transaction() as tx:
        other = keys.ensure_tenant(tx, "default")
    with pytest.raises(Conflict, match="--tenant NAME") as refused:
        imported(elsewhere, lines)
    assert refused.value.code == "import.tenant"

    done = imported(elsewhere, lines, tenant="moved")

    assert (done.tenant_id, done.instances) == (engine.tenant_id, 1)
    assert done.tenant_id != other
    with pytest.raises(Conflict, match='is "moved" here'):
        imported(elsewhere, lines, tenant="default")


# -- hostile files ----------------------------------------------------------------------------------------------------


def changed(lines: list[bytes], change: Callable[[Any], None]) -> list[bytes]:
    """The file with its instance changed, and everything else as it was."""
    found = []
    for line in lines:
        body = json.loads(line)
        if body["kind"] == "instance":
            change(body)
        found.append(json.dumps(body).encode() + b"\n")
    return found


def _set(table: str, column: str, value: Any) -> Callable[[Any], None]:
    def change(body: Any) -> None:
        body["rows"][table][0][column] = value

    return change


HOSTILE: dict[str, tuple[Callable[[Any], None], str]] = {
    "an entry told otherwise": (_set("history", "changes", "[]"), "import.invalid"),
    "another actor": (_set("history", "actor", "nobody"), "import.invalid"),
    "another snapshot": (_set("instances", "snapshot", '{"status":"done"}'), "import.invalid"),
    "another output": (_set("instances", "output", '"more"'), "import.invalid"),
    "another status": (_set("instances", "status", "cancelled"), "import.invalid"),
    "no such status": (_set("instances", "status", "waiting"), "import.live"),
    "a row left out": (lambda body: body["rows"]["history"].pop(), "import.invalid"),
    "another instance's row": (_set("history", "instance_id", new_id()), "import.row"),
    "another instance's id": (lambda body: body.update(id=new_id()), "import.row"),
    "an id that is none": (lambda body: body.update(id="x"), "import.row"),
    "text that is no JSON": (_set("instances", "output", "{"), "import.row"),
    "a NUL": (_set("history", "actor", "a\0b"), "import.row"),
    "a number as text": (_set("instances", "sequence", "2"), "import.row"),
    "a time that is none": (_set("instances", "created_at", "soon"), "import.row"),
    "bytes that are none": (_set("history", "salt", "xyz"), "import.row"),
    "labels that are none": (_set("instances", "labels", {"a": 1}), "import.row"),
    "a null where none may be": (_set("instances", "configuration", None), "import.refused"),
    "a column of another version": (lambda body: body["rows"]["instances"][0].update(more=1), "import.row"),
    "a table of another version": (lambda body: body["rows"].update(more=[]), "import.row"),
    "rows that are none": (lambda body: body["rows"].update(tasks={}), "import.row"),
    "two of them": (
        lambda body: body["rows"]["instances"].append(body["rows"]["instances"][0]),
        "import.row",
    ),
    "another definition": (lambda body: body["definition"].update(checksum="0" * 64), "import.definition"),
    "no definition": (lambda body: body.pop("definition"), "import.definition"),
}


@pytest.mark.parametrize("name", HOSTILE)
@ON_SQLITE
def test_a_changed_instance_is_refused_whole(engine: Engine, elsewhere: Database, name: str) -> None:
    finish(engine, engine.start(COUNTER))
    change, code = HOSTILE[name]

    done = imported(elsewhere, changed(exported(engine), change))

    assert [one["code"] for one in done.refused] == [code], done.refused
    assert examine(elsewhere)["instances"] == 0
    with elsewhere.reading() as tx:
        left = {
            name: tx.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar_one() for name in metadata.tables
        }
    assert {name for name, count in left.items() if count} <= {"tenants", "definitions"}


def _none_of(*tables: str) -> Callable[[Any], None]:
    return lambda body: body["rows"].update({table: [] for table in tables})


def _ended(table: str, status: str) -> Callable[[Any], None]:
    ended = {"status": status, "finished_at": "2026-01-01T00:00:00Z"}
    return lambda body: body["rows"][table][0].update(ended)


HALF: dict[str, tuple[InstanceStatus, Callable[[Any], None], str]] = {
    "its tasks left out": (InstanceStatus.PAUSED, _none_of("tasks", "attempts"), "import.invalid"),
    "a task that has ended": (InstanceStatus.PAUSED, _ended("tasks", "cancelled"), "import.invalid"),
    "its timers left out": (InstanceStatus.PAUSED, _none_of("timers"), "import.invalid"),
    "a timer that has fired": (InstanceStatus.PAUSED, _ended("timers", "fired"), "import.invalid"),
    "a timer of no type": (InstanceStatus.PAUSED, _set("timers", "inbox_type", "soon"), "import.row"),
    "another count": (InstanceStatus.PAUSED, _set("instances", "open_tasks", 0), "import.invalid"),
    "an inbox of garbage": (InstanceStatus.PAUSED, _set("inbox", "type", "child"), "import.invalid"),
    "its incident left out": (InstanceStatus.FAILED, _none_of("incidents"), "import.invalid"),
}


@pytest.mark.parametrize("name", HALF)
@ON_SQLITE
def test_what_could_not_go_on_here_is_refused_although_its_history_verifies(
    engine: Engine, elsewhere: Database, name: str
) -> None:
    status, change, code = HALF[name]
    lively(engine)

    done = imported(elsewhere, changed(exported(engine, statuses=(status,)), change))

    assert [one["code"] for one in done.refused] == [code], done.refused
    assert examine(elsewhere)["instances"] == 0


@ON_SQLITE
def test_a_torn_file_is_found_before_anything_is_imported(engine: Engine) -> None:
    finish(engine, engine.start(COUNTER))
    lines = exported(engine)
    for torn in (
        lines[:-1],
        [*lines[:1], *lines[2:]],
        [*lines, lines[1]],
        [*lines[:2], lines[2].replace(b"completed", b"cancelled"), lines[3]],
    ):
        with pytest.raises(Invalid):
            check_lines(iter(torn))


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"hello\n",
        b"[]\n",
        b'{"kind": "instance"}\n',
        b'{"kind": "signalbox.export", "format": 2, "tenant": {"id": "x", "name": "y"}}\n',
        b'{"kind": "signalbox.export", "format": 1, "tenant": {"id": "x", "name": "y"}}\n',
        b'{"kind": "signalbox.export", "format": 1, "tenant": {"id": "0199a3c5-7f1e-7c42-9b63-2f4d8e6a1b90", "name": 7}}\n',
        b'{"kind": "signalbox.export", "format": 1}\n',
    ],
)
def test_another_file_is_none_of_ours(elsewhere: Database, head: bytes) -> None:
    with pytest.raises(Invalid) as refused:
        imported(elsewhere, [head])
    assert refused.value.code in ("import.header", "import.line")
    with elsewhere.reading() as tx:
        assert keys.list_tenants(tx) == {}


def test_an_id_that_another_tenant_has_is_refused_and_not_told_of(
    engine: Engine, elsewhere: Database
) -> None:
    finish(engine, engine.start(COUNTER))
    lines = exported(engine)
    imported(elsewhere, lines)
    stolen = [line.replace(engine.tenant_id.encode(), new_id().encode()) for line in lines[:1]] + lines[1:]
    done = imported(elsewhere, stolen, tenant="thief")
    assert [one["code"] for one in done.refused] == ["import.refused"]


@ON_SQLITE
def test_a_definition_that_is_another_one_here_is_refused(engine: Engine, elsewhere: Database) -> None:
    finish(engine, engine.start(COUNTER))
    lines = exported(engine)
    with elsewhere.transaction() as tx:
        archive.insert_tenant(tx, engine.tenant_id, "default")
    there(engine, elsewhere).apply({**COUNTER, "description": "another"})
    assert [one["code"] for one in imported(elsewhere, lines).refused] == ["import.definition"] * 2


def test_what_was_deleted_here_does_not_come_back(engine: Engine, clock: ManualClock) -> None:
    instance_id = engine.start(COUNTER)
    finish(engine, instance_id)
    lines = exported(engine)
    clock.advance(timedelta(days=2))
    sweep(engine.database, Keeping(completed=timedelta(days=1)), rest=lambda _seconds: False)
    assert [one["code"] for one in imported(engine.database, lines).refused] == ["import.deleted"]


def test_an_instance_that_has_gone_on_since_is_refused(engine: Engine) -> None:
    instance_id = engine.start(COUNTER)
    finish(engine, instance_id)
    lines = exported(engine)
    with engine.database.transaction() as tx:
        add_note(tx, engine.tenant_id, instance_id, "more", actor="test")
    engine.settle()
    assert [one["code"] for one in imported(engine.database, lines).refused] == ["import.exists"]
