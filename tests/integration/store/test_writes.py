"""Rows of several tables written at once: all or none, each counted, in the order in which they came."""

from typing import Any

import pytest

from common.db.rows import Unmatched, Writes
from common.db.tables import InboxType, inbox, instances
from common.ids import new_id
from common.store import inbox as store
from tests.integration.engine.documents import COUNTER
from tests.support.engine import Engine

MATCH = (("id", "id"), ("sequence", "read_sequence"))


@pytest.fixture
def instance_id(engine: Engine) -> str:
    started = engine.start(COUNTER)
    engine.advance()
    return started


def row(engine: Engine, instance_id: str, n: int) -> dict[str, Any]:
    body = f'{{"n":{n},"type":"ADD"}}'
    return store.new_row(engine.tenant_id, instance_id, InboxType.EVENT, body, "test", engine.now())  # type: ignore[arg-type]


def sequence(engine: Engine) -> int:
    [(found,)] = engine.execute("SELECT sequence FROM instances")
    return int(found)


def test_rows_of_several_tables_go_in_together_and_in_order(engine: Engine, instance_id: str) -> None:
    with engine.database.transaction() as tx:
        writes = Writes(tx)
        writes.update(instances, [{"id": instance_id, "read_sequence": 1, "priority": 7}], match=MATCH)
        store.put(writes, [row(engine, instance_id, n) for n in range(30)])
        writes.run()

    assert engine.execute("SELECT priority FROM instances") == [(7,)]
    engine.advance()
    assert engine.context(instance_id) == {"seen": list(range(30))}


def test_an_update_that_finds_another_row_is_unmatched_and_nothing_stays(
    engine: Engine, instance_id: str
) -> None:
    def write() -> None:
        with engine.database.transaction() as tx:
            writes = Writes(tx)
            store.put(writes, [row(engine, instance_id, 1)])
            rows = [
                {"id": instance_id, "read_sequence": 99, "priority": 7},
                {"id": new_id(), "read_sequence": 1, "priority": 7},
            ]
            writes.update(instances, rows, match=MATCH)
            writes.run()

    with pytest.raises(Unmatched, match="expected to write 2 rows, found 0"):
        write()

    assert engine.execute("SELECT count(*) FROM inbox") == [(0,)]


def test_rows_that_are_gone_are_unmatched(engine: Engine, instance_id: str) -> None:
    def write() -> None:
        with engine.database.transaction() as tx:
            writes = Writes(tx)
            writes.delete(inbox, [4711, 4712])
            writes.run()

    with pytest.raises(Unmatched, match="expected to write 2 rows, found 0"):
        write()


def test_nothing_to_write_asks_nobody(engine: Engine) -> None:
    with engine.database.transaction() as tx:
        writes = Writes(tx)
        store.put(writes, [])
        store.consume(writes, [])
        writes.run()
