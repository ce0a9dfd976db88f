"""hello-workflow, unchanged, through every part of the engine."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from common.commands.verify import verify_instance
from common.lifecycle import InstanceStatus
from tests.integration.engine.documents import ONE_TASK
from tests.support.engine import Engine

HELLO = json.loads(
    Path(__file__, "../../../../fixtures/001-hello-workflow.json").resolve().read_text("utf-8")
)


@pytest.fixture
def hello(engine: Engine) -> str:
    engine.handler("EMAIL", lambda _input: {"messageId": "<1@test>"})
    instance_id = engine.start(HELLO)
    engine.settle()
    return instance_id


def test_hello_workflow_completes(engine: Engine, hello: str) -> None:
    assert engine.status(hello) is InstanceStatus.COMPLETED
    assert engine.snapshot(hello)["configuration"] == ["done"]
    assert engine.context(hello) == {"greeted": False}


def test_its_history_tells_the_story_in_order(engine: Engine, hello: str) -> None:
    assert engine.entry_types(hello) == [
        "instance.started",
        "state.changed",
        "state.changed",
        "task.created",
        "task.succeeded",
        "event.received",
        "state.changed",
        "machine.done",
        "instance.completed",
    ]


def test_its_history_verifies_and_replays(engine: Engine, hello: str) -> None:
    with engine.database.reading() as tx:
        verified = verify_instance(tx, engine.tenant_id, hello)
    assert verified == {"valid": True, "entries": 2, "replayed": True, "erased": 0, "problems": []}


def test_an_instance_waits_for_its_task_as_running(engine: Engine) -> None:
    instance_id = engine.start(HELLO)
    engine.advance()
    assert engine.status(instance_id) is InstanceStatus.RUNNING


def test_who_waits_is_told_once_an_instance_may_have_come_to_rest(engine: Engine) -> None:
    """Not of the steps before: a runner has a task of it, and whoever looked would find that."""
    told: list[str] = []
    engine.advancing = replace(engine.advancing, publish=told.extend)
    engine.handler("work", lambda _input: {})
    instance_id = engine.start(ONE_TASK)

    engine.advance()
    assert told == []
    engine.control("pause", instance_id)
    engine.advance()
    assert told == [instance_id]
    engine.control("resume", instance_id)
    engine.advance()
    told.clear()
    engine.settle()

    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    assert told == [instance_id]
