"""Configuration that steps read: resolved in one statement a batch, recorded, and replayed as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from common.commands.configs import NewConfig, set_config
from common.commands.verify import verify_instance
from common.config import Limits
from common.db.tables import ConfigScope
from common.lifecycle import InstanceStatus
from tests.integration.engine.documents import COUNTER, ON_SQLITE
from tests.support.engine import Engine

READER: dict[str, Any] = {
    "id": "reader",
    "initial": "open",
    "config": {"orders": {"limit": 1}},
    "context": {"seen": []},
    "states": {
        "open": {
            "on": {
                "LOOK": {
                    "actions": [
                        {"type": "assign", "path": "seen", "value": "${context.seen + [config.orders.limit]}"}
                    ]
                },
                "CLOSE": {"target": "closed", "guard": "config.orders.closes == true"},
            }
        },
        "closed": {"type": "final"},
    },
}


def configure(
    engine: Engine, key: str, value: Any, scope: str = "module", scope_id: str | None = None
) -> None:
    with engine.database.transaction() as tx:
        wanted = NewConfig("orders", key, value, ConfigScope(scope), scope_id)
        set_config(tx, engine.tenant_id, wanted, actor="test", limits=Limits())


def look(engine: Engine, instance_id: str) -> Any:
    engine.send(instance_id, "LOOK")
    engine.settle()
    return engine.context(instance_id)["seen"][-1]


def is_verified(engine: Engine, instance_id: str) -> bool:
    with engine.database.reading() as tx:
        verdict = verify_instance(tx, engine.tenant_id, instance_id)
    assert verdict["problems"] == []
    return bool(verdict["valid"] and verdict["replayed"])


@contextmanager
def config_statements(engine: Engine) -> Iterator[list[str]]:
    """The statements that read configuration meanwhile."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if "FROM configs" in statement:
            seen.append(statement)

    event.listen(engine.database.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine.database.engine, "before_cursor_execute", note)


def test_the_narrowest_value_holds_and_a_changed_one_from_the_next_step_on(engine: Engine) -> None:
    instance_id = engine.start(READER, business_key="order-7")
    other = engine.start("reader")
    assert look(engine, instance_id) == 1

    configure(engine, "limit", 10, "tenant")
    assert look(engine, instance_id) == 10
    configure(engine, "limit", 20)
    assert look(engine, instance_id) == 20
    configure(engine, "limit", 30, "instance", "order-7")
    assert look(engine, instance_id) == 30
    configure(engine, "limit", 40, "instance", str(other))

    assert (look(engine, instance_id), look(engine, other)) == (30, 40)
    assert engine.context(instance_id)["seen"] == [1, 10, 20, 30, 30]
    assert is_verified(engine, instance_id)
    assert is_verified(engine, other)


def test_another_tenants_values_are_not_read(engine: Engine) -> None:
    configure(Engine.on(engine.database, "other"), "limit", 99)

    assert look(engine, engine.start(READER)) == 1


def test_a_batch_reads_configuration_once_and_only_where_a_chart_names_any(engine: Engine) -> None:
    configure(engine, "limit", 20)
    readers = [engine.start(READER)] + [engine.start("reader", business_key=f"o-{n}") for n in range(9)]
    counters = [engine.start(COUNTER)] + [engine.start("counter") for _ in range(3)]
    engine.settle()

    for counter in counters:
        engine.send(counter, "ADD", n=1)
    with config_statements(engine) as seen:
        engine.advance()
    assert seen == []

    for instance_id in readers + counters:
        engine.send(instance_id, "LOOK")
    with config_statements(engine) as seen:
        engine.advance()
    assert len(seen) == 1
    assert [engine.context(reader)["seen"] for reader in readers] == [[20]] * 10


def test_a_whole_module_is_read_where_the_key_is_computed(engine: Engine) -> None:
    document = READER | {
        "id": "computed",
        "context": {"kind": "b", "seen": []},
        "states": {
            "open": {
                "on": {
                    "LOOK": {
                        "actions": [
                            {"type": "assign", "path": "seen", "value": "${[config.orders[context.kind]]}"}
                        ]
                    }
                }
            }
        },
    }
    configure(engine, "a", 1)
    configure(engine, "b", {"deep": [2]}, "tenant")

    assert look(engine, engine.start(document)) == {"deep": [2]}


def test_a_guard_and_the_verbs_see_configuration(engine: Engine) -> None:
    document = READER | {
        "id": "leaving",
        "states": {
            "open": {
                "exit": [{"type": "assign", "path": "left", "value": "${config.orders.limit}"}],
                "on": {"CLOSE": {"target": "closed", "guard": "config.orders.closes == true"}},
            },
            "closed": {"type": "final"},
        },
    }
    configure(engine, "limit", 5)
    first, second, third = engine.start(document), engine.start("leaving"), engine.start("leaving")
    engine.settle()
    engine.send(first, "CLOSE")
    engine.settle()
    assert engine.status(first) is InstanceStatus.WAITING

    configure(engine, "closes", True)
    engine.send(first, "CLOSE")
    engine.control("cancel", second)
    engine.control("restart", third)
    engine.settle()

    assert engine.status(first) is InstanceStatus.COMPLETED
    assert [engine.context(one)["left"] for one in (first, second, third)] == [5, 5, 5]
    assert all(is_verified(engine, one) for one in (first, second, third))


def test_a_step_that_failed_for_want_of_a_value_goes_on_by_retry_once_it_is_set(engine: Engine) -> None:
    document = READER | {"id": "wanting", "config": {}}
    instance_id = engine.start(document)
    engine.settle()
    engine.send(instance_id, "LOOK")
    engine.settle()
    assert engine.status(instance_id) is InstanceStatus.FAILED

    configure(engine, "limit", 3)
    engine.control("retry", instance_id)
    engine.settle()

    assert engine.context(instance_id)["seen"] == [3]
    assert is_verified(engine, instance_id)


def test_more_values_than_a_step_may_read_stop_the_instance_until_there_are_fewer(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance_id = engine.start(READER)
    engine.settle()
    configure(engine, "limit", "x" * 100)
    monkeypatch.setattr("common.commands.configs.MAX_STEP_BYTES", 50)
    engine.send(instance_id, "LOOK")
    engine.settle()
    assert engine.status(instance_id) is InstanceStatus.FAILED
    assert [entry["code"] for entry in engine.entries(instance_id) if entry["type"] == "incident.opened"] == [
        "limit.config"
    ]

    configure(engine, "limit", 4)
    engine.control("retry", instance_id)
    engine.settle()

    assert engine.context(instance_id)["seen"] == [4]
    assert is_verified(engine, instance_id)


@ON_SQLITE
def test_the_history_holds_what_was_read_and_nothing_where_nothing_was(engine: Engine) -> None:
    instance_id = engine.start(READER)
    look(engine, instance_id)
    configure(engine, "limit", 2)
    configure(engine, "unread", "secret of another")
    look(engine, instance_id)

    inputs = [row[0] for row in engine.execute("SELECT input FROM history ORDER BY sequence")]

    assert [('"config":{}' in text, '"config":{"orders":{"limit":2}}' in text) for text in inputs] == [
        (True, False),
        (True, False),
        (False, True),
    ]
