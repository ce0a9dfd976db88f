"""An instance whose definition leads it into states that nothing leaves is stopped with an incident: nobody would hear of it again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from common.commands.verify import verify_instance
from common.lifecycle import InstanceStatus
from common.store import incidents
from signalbox.testing import Workflow
from tests.integration.engine.documents import COUNTER, Document
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock


def dead_end(**more: Any) -> Document:
    states = {"a": {"on": {"GO": "lost", "OUT": "b"}}, "b": {"type": "final"}, "lost": {"exit": []}}
    return {"id": "dead-end", "initial": "a", "states": states, **more}


def open_codes(engine: Engine, instance_id: str) -> list[str]:
    with engine.database.reading() as tx:
        return [one.code for one in incidents.read_open(tx, engine.tenant_id, instance_id)]


def message_of(engine: Engine, instance_id: str) -> str:
    [(message,)] = engine.execute(
        f"SELECT message FROM incidents WHERE status = 'open' AND instance_id = '{instance_id}'"
    )
    return str(message)


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (dead_end(initial="lost"), 'nothing leaves "lost": '),
        ({"id": "dead-end"}, 'nothing leaves "(machine)": '),
        (
            {
                "id": "dead-end",
                "type": "parallel",
                "states": {"x": {"initial": "i", "states": {"i": {}}}, "y": {"type": "final"}},
            },
            'nothing leaves "x.i", "y": ',
        ),
        (
            {"id": "dead-end", "initial": "a", "states": {"a": {"invoke": {"src": "work"}}}},
            'nothing leaves "a": ',
        ),
    ],
)
def test_who_waits_for_nothing_is_stopped_with_an_incident(
    engine: Engine, document: Document, told: str
) -> None:
    engine.handler("work", lambda _input: None)
    instance_id = str(engine.start(document))
    engine.settle()

    assert engine.status(instance_id) is InstanceStatus.FAILED
    assert open_codes(engine, instance_id) == ["instance.stuck"]
    assert message_of(engine, instance_id).startswith(told)
    assert engine.entry_types(instance_id)[-2:] == ["incident.opened", "instance.failed"]
    with engine.database.reading() as tx:
        verdict = verify_instance(tx, engine.tenant_id, instance_id)
    assert (verdict["valid"], verdict["replayed"]) == (True, True)


def test_it_goes_on_from_a_state_and_says_so_again_where_it_is_only_retried(engine: Engine) -> None:
    instance_id = str(engine.start(dead_end()))
    engine.send(instance_id, "GO")
    engine.settle()
    assert open_codes(engine, instance_id) == ["instance.stuck"]

    engine.control("retry", instance_id)
    engine.settle()
    assert engine.status(instance_id) is InstanceStatus.FAILED
    assert open_codes(engine, instance_id) == ["instance.stuck"]

    engine.control("restart", instance_id, state="a")
    engine.settle()
    assert engine.status(instance_id) is InstanceStatus.WAITING
    engine.send(instance_id, "OUT")
    engine.settle()
    assert engine.status(instance_id) is InstanceStatus.COMPLETED


def test_a_parent_is_told_of_a_child_that_is_stuck(engine: Engine) -> None:
    engine.apply(dead_end(initial="lost"))
    invoke = {"src": "WORKFLOW", "input": {"definitionKey": "dead-end"}, "onDone": "done", "onError": "saved"}
    states = {"a": {"invoke": invoke}, "done": {"type": "final"}, "saved": {"on": {"X": "done"}}}
    parent = str(engine.start({"id": "parent", "initial": "a", "states": states}))
    engine.settle()

    assert engine.snapshot(parent)["configuration"] == ["saved"]


def test_whose_time_will_be_over_waits_for_that(engine: Engine, clock: ManualClock) -> None:
    instance_id = str(engine.start(dead_end(initial="lost", timeout="1h")))
    engine.settle()
    assert engine.status(instance_id) is InstanceStatus.WAITING

    clock.advance(timedelta(hours=1))
    engine.settle()
    assert engine.status(instance_id) is InstanceStatus.TIMED_OUT


def test_who_takes_events_or_is_paused_is_not_stuck(engine: Engine) -> None:
    waiting = str(engine.start(COUNTER))
    living = str(
        engine.start({"id": "bare", "on": {"PING": {"actions": {"type": "log", "message": "pong"}}}})
    )
    engine.settle()
    assert [engine.status(one) for one in (waiting, living)] == [InstanceStatus.WAITING] * 2

    engine.control("pause", waiting)
    engine.settle()
    assert engine.status(waiting) is InstanceStatus.PAUSED


def test_what_is_sent_and_finds_nobody_still_comes_back(engine: Engine) -> None:
    nobody = {"definitionKey": "none", "businessKey": "none"}
    sends = {"type": "send", "to": nobody, "event": "HELLO"}
    refused = {"type": "startWorkflow", "definitionKey": "none", "wait": False}
    for action, event in ((sends, "error.communication"), (refused, "error.workflow.none")):
        states = {"a": {"entry": action, "on": {event: "told"}}, "told": {"type": "final"}}
        instance_id = str(engine.start({"id": "asking", "initial": "a", "states": states}))
        engine.settle()
        assert engine.status(instance_id) is InstanceStatus.COMPLETED, event


def test_the_test_kit_tells_it_too() -> None:
    run = Workflow.load(dead_end()).start().send("GO")

    run.expect(status="failed", incident="instance.stuck", configuration=["lost"])
