"""What an instance emits starts others: once, with its step, and not without end."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event as sql_event

from common import faults
from common.commands.definitions import apply_definition
from common.commands.triggers import TriggerRequest, create_trigger
from common.config import Limits
from common.db import Database
from common.lifecycle import InstanceStatus
from common.store import triggers as store
from common.store.coming import read_coming
from orchestrator.triggers import start_published
from tests.integration.engine.documents import ON_SQLITE
from tests.support.engine import LIMITS, Engine

EMITTER: dict[str, Any] = {
    "id": "emitter",
    "initial": "open",
    "states": {
        "open": {
            "on": {
                "GO": {"actions": [{"type": "emit", "event": {"type": "order.paid", "id": "${event.id}"}}]},
                "STOP": {"target": "over", "actions": [{"type": "emit", "event": "order.closed"}]},
            }
        },
        "over": {"type": "final"},
    },
}
FOLLOWER: dict[str, Any] = {
    "id": "follower",
    "initial": "open",
    "states": {"open": {"on": {"STOP": "over"}}, "over": {"type": "final"}},
    "triggers": [
        {
            "name": "paid",
            "event": "order.*",
            "condition": "has(event.id)",
            "businessKey": "order-${event.id}",
            "input": {"order": "${event.id}"},
        }
    ],
}


def apply(engine: Engine, document: dict[str, Any]) -> None:
    with engine.database.transaction() as tx:
        apply_definition(tx, engine.tenant_id, document, actor="test", limits=LIMITS)


def started(engine: Engine, key: str = "follower") -> list[tuple[str | None, int]]:
    rows = engine.execute("SELECT business_key, depth, definition_key FROM instances ORDER BY created_at, id")
    return [(row[0], row[1]) for row in rows if row[2] == key]


def test_an_emitted_event_starts_what_answers_it_once(engine: Engine) -> None:
    apply(engine, FOLLOWER)
    emitter = engine.start(EMITTER)
    engine.settle()
    engine.send(emitter, "GO", id=7)
    engine.send(emitter, "GO", id=8)
    engine.send(emitter, "STOP")
    engine.settle()
    engine.settle()

    assert started(engine) == [("order-7", 1), ("order-8", 1)]
    told = [one for one in engine.entries(emitter) if one["type"].startswith("trigger.")]
    assert [(one["type"], one["eventType"], one["definitionKey"]) for one in told] == [
        ("trigger.started", "order.paid", "follower")
    ] * 2
    assert engine.status(emitter) is InstanceStatus.COMPLETED
    ((input, labels, actor),) = engine.execute(
        "SELECT instances.input, labels, history.actor FROM instances, history WHERE business_key = 'order-7'"
        " AND history.instance_id = instances.id AND history.sequence = 1"
    )
    assert input == '{"order":7}'
    assert "paid" in str(labels)
    assert actor == "trigger:paid"


def test_a_held_business_key_starts_nothing_and_is_told(engine: Engine) -> None:
    apply(engine, FOLLOWER)
    emitter = engine.start(EMITTER)
    for _ in range(2):
        engine.send(emitter, "GO", id=7)
        engine.settle()
    engine.settle()
    assert started(engine) == [("order-7", 1)]
    assert [one for one in engine.entry_types(emitter) if one.startswith("trigger.")] == [
        "trigger.started",
        "trigger.held",
    ]


@pytest.mark.parametrize("point", ["before_commit", "after_commit_before_ring"])
def test_who_dies_beside_the_commit_publishes_with_the_step_or_not_at_all(engine: Engine, point: str) -> None:
    apply(engine, FOLLOWER)
    emitter = engine.start(EMITTER)
    engine.settle()
    engine.send(emitter, "GO", id=7)

    def die() -> None:
        raise faults.FaultInjected

    faults.arm(point, die)
    with pytest.raises(faults.FaultInjected):
        engine.advance()
    faults.disarm()
    with engine.database.reading() as tx:
        assert read_coming(tx).has_published is (point == "after_commit_before_ring")

    engine.settle()
    engine.settle()
    assert started(engine) == [("order-7", 1)]


def test_triggers_that_answer_each_other_end(engine: Engine) -> None:
    def ping(key: str, answers: str, says: str) -> dict[str, Any]:
        return {
            "id": key,
            "initial": "open",
            "states": {
                "open": {"entry": [{"type": "emit", "event": says}], "on": {"STOP": "over"}},
                "over": {"type": "final"},
            },
            "triggers": [{"event": answers}],
        }

    apply(engine, ping("a", "B", "A"))
    apply(engine, ping("b", "A", "B"))
    engine.start("a")
    for _ in range(30):
        engine.settle()
    deepest = Limits().max_child_depth
    depths = sorted(depth for key in ("a", "b") for _, depth in started(engine, key))
    assert depths == list(range(deepest + 1))
    (last,) = [
        row[0] for row in engine.execute("SELECT changes FROM history") if "trigger.refused" in str(row[0])
    ]
    assert "limit.exceeded" in last
    with engine.database.reading() as tx:
        assert not read_coming(tx).has_published


@ON_SQLITE
def test_a_trigger_that_fails_harms_no_step_and_no_other_trigger(engine: Engine) -> None:
    apply(engine, FOLLOWER)
    apply(engine, {**FOLLOWER, "id": "broken", "triggers": [{"event": "*", "businessKey": "${event.id.x}"}]})
    apply(engine, {**FOLLOWER, "id": "off", "triggers": [{"event": "*", "condition": "event.id / 0 > 1"}]})
    emitter = engine.start(EMITTER)
    engine.send(emitter, "GO", id=7)
    engine.settle()
    engine.settle()
    assert started(engine) == [("order-7", 1)]
    assert started(engine, "broken") == started(engine, "off") == []
    refused = [one for one in engine.entries(emitter) if one["type"] == "trigger.refused"]
    assert {one["error"]["code"] for one in refused} == {"trigger.failed"}
    assert len(refused) == 2
    assert engine.status(emitter) is InstanceStatus.WAITING


def test_what_takes_its_time_is_started_a_few_at_a_time(engine: Engine) -> None:
    triggers = [{"name": f"t{number}", "event": "order.*"} for number in range(5)]
    apply(engine, {**FOLLOWER, "triggers": triggers})
    emitter = engine.start(EMITTER)
    engine.settle()
    engine.send(emitter, "GO", id=7)
    engine.advance()

    in_no_time = [start_published(engine.database, LIMITS, seconds=0) for _ in range(6)]

    assert in_no_time == [1, 1, 1, 1, 1, 0]
    assert len(started(engine)) == 5
    engine.settle()
    assert engine.entry_types(emitter).count("trigger.started") == 5


def test_another_tenant_is_not_answered(engine: Engine, database: Database) -> None:
    apply(engine, FOLLOWER)
    other = Engine.on(database, "other")
    emitter = other.start(EMITTER)
    other.send(emitter, "GO", id=7)
    other.settle()
    engine.settle()
    assert started(engine) == []


@ON_SQLITE
def test_who_emits_nothing_asks_nothing_about_triggers(engine: Engine) -> None:
    apply(engine, FOLLOWER)
    asked: list[str] = []

    def note(_c: Any, _u: Any, statement: str, *_: Any) -> None:
        if "triggers" in statement or "published" in statement:
            asked.append(statement)

    one = engine.start(FOLLOWER["id"])
    engine.advance()
    engine.send(one, "STOP")
    sql_event.listen(engine.database.engine, "before_cursor_execute", note)
    engine.advance()
    assert asked == []


@ON_SQLITE
def test_a_trigger_by_hand_answers_until_it_is_disabled(engine: Engine) -> None:
    apply(engine, {**FOLLOWER, "triggers": []})
    with engine.database.transaction() as tx:
        request = TriggerRequest("follower", "order.paid", name="by hand", business_key="n-${event.id}")
        made = create_trigger(tx, engine.tenant_id, request, actor="test", limits=LIMITS)
    emitter = engine.start(EMITTER)
    engine.send(emitter, "GO", id=1)
    engine.settle()
    with engine.database.transaction() as tx:
        store.change(tx, engine.tenant_id, made.id, enabled=False)
    engine.send(emitter, "GO", id=2)
    engine.settle()
    assert start_published(engine.database, LIMITS) == 0
    assert started(engine) == [("n-1", 1)]


def test_the_verifier_replays_what_was_recorded(engine: Engine) -> None:
    """The examination at the end of each test replays every history; here there is one with records in it."""
    apply(engine, FOLLOWER)
    emitter = engine.start(EMITTER)
    engine.send(emitter, "GO", id=1)
    engine.settle()
    engine.settle()
    assert "trigger.started" in engine.entry_types(emitter)
