"""Compiled charts: read once, the 256 used last are kept, and a document that does not compile stops nobody."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import Connection, event, text

from common.canonical import dumps
from common.db import Database
from common.ids import new_id
from common.store.keys import ensure_tenant
from orchestrator import charts as module
from orchestrator.charts import Charts
from statechart import load

GOOD = dumps({"id": "d", "initial": "a", "states": {"a": {}}})
LARGE = dumps({"id": "d", "initial": "a", "states": {"a": {}}, "context": {"text": "x" * 1_000}})


def another(number: int, document: str = GOOD) -> str:
    """A document that says something else."""
    return document.replace('"id":"d"', f'"id":"d{number}"')


BROKEN = [
    "[]",
    "no JSON",
    "null",
    '{"id":"d"',
    '{"id":"d","initial":"nowhere","states":{"a":{}}}',
    dumps("x" * 10),
]


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    database = Database.open(sqlite_url)
    yield database
    database.dispose()


def stored(tx: Connection, *documents: str) -> list[str]:
    tenant = ensure_tenant(tx, "default")
    ids = []
    for number, document in enumerate(documents, start=1):
        ids.append(new_id())
        tx.execute(
            text(
                "INSERT INTO definitions (id, tenant_id, key, version, status, document, checksum, created_by, created_at)"
                " VALUES (:id, :tenant, 'd', :version, 'draft', :document, 'sum', 'test', '2026-01-01 00:00:00')"
            ),
            {"id": ids[-1], "tenant": tenant, "version": number, "document": document},
        )
    return ids


def reads(database: Database) -> list[int]:
    """Counts the statements that read definitions."""
    counted: list[int] = []

    def count(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("SELECT definitions"):
            counted.append(1)

    event.listen(database.engine, "before_cursor_execute", count)
    return counted


def test_a_definition_is_read_and_compiled_once(database: Database) -> None:
    charts, counted = Charts(), reads(database)
    with database.transaction() as tx:
        [id_] = stored(tx, GOOD)
        first = charts.fetch(tx, [id_, id_])
        second = charts.fetch(tx, [id_])

    assert first[id_].chart is second[id_].chart is not None
    assert first[id_].checksum == "sum"
    assert len(counted) == 1


@pytest.mark.parametrize("document", BROKEN)
def test_a_document_that_does_not_compile_says_why_and_the_others_do(
    database: Database, document: str
) -> None:
    with database.transaction() as tx:
        broken, good = stored(tx, document, GOOD)
        found = Charts().fetch(tx, [broken, good])

    assert found[broken].chart is None
    assert found[broken].problem
    assert found[good].chart is not None


def test_those_used_last_are_kept(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 2)
    charts, counted = Charts(), reads(database)
    with database.transaction() as tx:
        first, second, third = stored(tx, *map(another, range(3)))
        for asked in (first, second, first, third):  # the second is the one that was not used for longest
            charts.fetch(tx, [asked])
        assert len(counted) == 3
        charts.fetch(tx, [first, third])
        assert len(counted) == 3
        charts.fetch(tx, [second])
        assert len(counted) == 4


def test_of_large_ones_fewer_are_kept(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """256 of 700,000 characters each took 2.9 GB of an orchestrator: whoever may apply definitions could have it killed for want of memory."""
    monkeypatch.setattr(module, "KEPT_CHARACTERS", len(LARGE) + len(GOOD) + 1)
    charts, counted = Charts(), reads(database)
    with database.transaction() as tx:
        large, good, other = stored(tx, LARGE, GOOD, another(1, LARGE))
        for asked in (large, good, large, good, other):
            charts.fetch(tx, [asked])
        assert len(counted) == 3
        charts.fetch(tx, [good, other])
        assert len(counted) == 3
        charts.fetch(tx, [large])
        assert len(counted) == 4


def test_one_that_is_larger_than_all_that_is_kept_is_kept_alone(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_CHARACTERS", 1)
    charts, counted = Charts(), reads(database)
    with database.transaction() as tx:
        [id_] = stored(tx, LARGE)
        for _ in range(3):
            charts.fetch(tx, [id_])
    assert len(counted) == 1


def test_a_batch_may_have_more_definitions_than_are_kept(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT", 2)
    with database.transaction() as tx:
        ids = stored(tx, *map(another, range(5)))
        assert set(Charts().fetch(tx, ids)) == set(ids)


def test_several_threads_may_ask_at_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 2)
    charts, together = Charts(), Barrier(4)
    with database.transaction() as tx:
        ids = stored(tx, *map(another, range(4)))

    def ask(offset: int) -> None:
        together.wait(10)
        for turn in range(20):
            with database.reading() as tx:
                asked = [ids[(offset + turn) % 4], ids[turn % 4]]
                assert set(charts.fetch(tx, asked)) == set(asked)

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(ask, offset) for offset in range(4)]:
            done.result(20)


def test_definitions_that_say_the_same_share_a_chart(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand tenants that each apply the same one: a batch of a hundred of them would compile each again and again."""
    monkeypatch.setattr(module, "KEPT", 1)
    charts, counted, compiled = Charts(), reads(database), []
    monkeypatch.setattr(module, "load", lambda said: (compiled.append(said), load(said))[1])
    with database.transaction() as tx:
        ids = stored(tx, GOOD, GOOD, GOOD)
        tx.execute(text("UPDATE definitions SET checksum = 'other' WHERE id = :id"), {"id": ids[2]})
        for _ in range(2):
            for id_ in ids:
                charts.fetch(tx, [id_])
        found = charts.fetch(tx, ids)

    assert len(compiled) == 1
    assert len(counted) == len(ids)
    assert len({id(one.chart) for one in found.values()}) == 1
    assert [found[id_].checksum for id_ in ids] == ["sum", "sum", "other"], (
        "each says what stands beside its own"
    )


@pytest.mark.parametrize("document", BROKEN)
def test_what_does_not_compile_is_kept_as_well(database: Database, document: str) -> None:
    charts, counted = Charts(), reads(database)
    with database.transaction() as tx:
        [id_] = stored(tx, document)
        first, second = charts.fetch(tx, [id_]), charts.fetch(tx, [id_])

    assert first == second
    assert len(counted) == 1
