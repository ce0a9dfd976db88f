"""Instances send to each other through their inboxes; a message that finds nobody comes back to its sender."""

from typing import Any

import pytest

from common.db import Database
from common.ids import new_id
from common.lifecycle import InstanceStatus
from tests.integration.engine.documents import COUNTER, ON_SQLITE, Document, assign, on_go
from tests.support.engine import Engine


def sending(to: Any) -> Document:
    """Sends an ADD at each GO, and keeps what comes back undelivered."""
    send = {"type": "send", "to": to, "event": {"type": "ADD", "n": "${event.n}"}}
    return on_go(
        send,
        **{
            "error.communication": {
                "actions": [assign("returned", "${event.event}"), assign("target", "${event.target}")]
            },
            "ADD": {"actions": [assign("own", "${event.n}")]},
        },
    )


def go(engine: Engine, instance_id: str, n: int = 1) -> None:
    engine.send(instance_id, "GO", n=n)
    engine.settle()


@ON_SQLITE
def test_by_id(engine: Engine) -> None:
    target = engine.start(COUNTER)
    sender = engine.start(sending({"instanceId": "${input}"}), input=target)
    engine.settle()

    go(engine, sender)

    assert engine.context(target)["seen"] == [1]
    assert engine.execute("SELECT actor FROM history ORDER BY at DESC, sequence DESC LIMIT 1") == [
        (f"instance:{sender}",)
    ]


def test_by_definition_and_business_key(engine: Engine) -> None:
    target = engine.start(COUNTER, business_key="order-1")
    sender = engine.start(sending({"definitionKey": "counter", "businessKey": "order-1"}))
    engine.settle()

    for n in (1, 2, 3):
        go(engine, sender, n)

    assert engine.context(target)["seen"] == [1, 2, 3]


def test_several_in_one_step_arrive_in_their_order(engine: Engine) -> None:
    target = engine.start(COUNTER, business_key="order-1")
    sends = [
        {
            "type": "send",
            "to": {"definitionKey": "counter", "businessKey": "order-1"},
            "event": {"type": "ADD", "n": n},
        }
        for n in range(5)
    ]
    sender = engine.start(on_go(*sends))
    engine.settle()

    go(engine, sender)

    assert engine.context(target)["seen"] == [0, 1, 2, 3, 4]


@ON_SQLITE
def test_to_itself_by_its_own_id_comes_back_through_the_inbox(engine: Engine) -> None:
    sender = engine.start(sending({"instanceId": "${instance.id}"}))
    engine.settle()

    go(engine, sender, 7)

    assert engine.context(sender) == {"own": 7}


@ON_SQLITE
def test_two_that_send_to_each_other_in_one_batch(engine: Engine) -> None:
    document = sending({"definitionKey": "on-go", "businessKey": "${context.other}"})
    first = engine.start(document, business_key="first", context={"other": "second"})
    second = engine.start("on-go", business_key="second", context={"other": "first"})
    engine.settle()
    for instance_id, n in ((first, 1), (second, 2)):
        engine.send(instance_id, "GO", n=n)

    engine.settle()

    assert (engine.context(first)["own"], engine.context(second)["own"]) == (2, 1)


@pytest.mark.parametrize(
    "to",
    [
        {"instanceId": new_id()},
        {"instanceId": "no-id"},
        {"definitionKey": "counter", "businessKey": "nobody"},
        {"definitionKey": "unknown", "businessKey": "nobody"},
        "parent",
    ],
)
@ON_SQLITE
def test_what_finds_nobody_comes_back(engine: Engine, to: Any) -> None:
    sender = engine.start(sending(to))
    engine.settle()

    go(engine, sender)

    assert engine.context(sender)["returned"] == {"type": "ADD", "n": 1}
    assert engine.context(sender)["target"] == ({"parent": True} if to == "parent" else to)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("*", "event.invalid"),
        ("ADD.*", "event.invalid"),
        (" ADD", "event.invalid"),
        ("A" * 201, "event.invalid"),
        ("done.task.review", "event.reserved"),
        ("xstate.done.actor.review", "event.reserved"),
        ("error.task.review", "event.reserved"),
    ],
)
@ON_SQLITE
def test_what_no_door_takes_does_not_come_from_another_instance_either(
    engine: Engine, kind: str, code: str
) -> None:
    waiting = {"invoke": {"id": "review", "src": "HUMAN", "name": "review", "onDone": "b", "onError": "b"}}
    taking = {**waiting, "on": {"done.task.review": "b", "error.task.review": "b"}}
    engine.apply({"id": "asking", "initial": "a", "states": {"a": taking, "b": {}}})
    target = engine.start("asking", business_key="order-1")
    to = {"definitionKey": "asking", "businessKey": "order-1"}
    send = {"type": "send", "to": to, "event": {"type": "${event.kind}"}}
    sender = engine.start(
        on_go(send, **{"error.communication": {"actions": [assign("code", "${event.error.code}")]}})
    )
    engine.settle()

    engine.send(sender, "GO", kind=kind)
    engine.settle()

    assert engine.context(sender) == {"code": code}
    assert engine.status(target) is InstanceStatus.WAITING
    assert [entry["type"] for entry in engine.entries(target)].count("task.cancelled") == 0


@ON_SQLITE
def test_what_comes_back_and_is_not_caught_is_ignored_on_record(engine: Engine) -> None:
    sender = engine.start(on_go({"type": "send", "to": {"instanceId": new_id()}, "event": "ADD"}))
    engine.settle()

    go(engine, sender)

    assert engine.status(sender) is InstanceStatus.WAITING
    assert engine.entries(sender)[-1] == {
        "type": "event.ignored",
        "eventType": "error.communication",
        "reason": "no_transition",
    }


def test_another_tenant_s_instance_is_nobody(engine: Engine, database: Database) -> None:
    other = Engine.on(database, tenant="other")
    target = other.start(COUNTER, business_key="order-1")
    by_id = engine.start(sending({"instanceId": "${input}"}), input=target)
    engine.apply(COUNTER)
    by_key = engine.start(sending({"definitionKey": "counter", "businessKey": "order-1"}))
    engine.settle()

    go(engine, by_id)
    go(engine, by_key)

    assert other.context(target)["seen"] == []
    for sender in (by_id, by_key):
        assert engine.context(sender)["returned"] == {"type": "ADD", "n": 1}


@ON_SQLITE
def test_a_target_that_ended_rejects_it_on_its_own_record(engine: Engine) -> None:
    target = engine.start(COUNTER)
    engine.settle()
    engine.send(target, "STOP")
    engine.settle()
    sender = engine.start(sending({"instanceId": "${input}"}), input=target)
    engine.settle()

    go(engine, sender)

    assert engine.entries(target)[-1]["type"] == "event.rejected"
