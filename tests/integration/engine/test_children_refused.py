"""What cannot be started answers the obligation that asked for it: no exception, no batch that fails."""

from dataclasses import replace
from typing import Any

import pytest

from common.commands.incidents import resolve_incident
from common.config import Limits
from common.lifecycle import InstanceStatus
from tests.integration.engine.children import catching, child_of, children_of, finish, parent, with_task
from tests.integration.engine.documents import COUNTER, ON_SQLITE, Document, assign, on_go
from tests.support.engine import Engine

S = InstanceStatus


def refused(engine: Engine, document: Document, event: str = "error.workflow.counter") -> dict[str, Any]:
    """The error that a parent gets which catches `event`."""
    instance_id = engine.start(catching(document, event))
    engine.settle()
    assert engine.snapshot(instance_id)["configuration"] == ["caught"]
    assert children_of(engine, instance_id) == []
    return dict(engine.context(instance_id)["error"])


def test_a_definition_that_is_not_there(engine: Engine) -> None:
    error = refused(engine, parent())

    assert error == {
        "code": "definition.not_found",
        "message": 'no definition "counter"; apply it, then retry',
        "data": {},
    }


@pytest.mark.parametrize("version", [7, 0, -1, 2**40])
@ON_SQLITE
def test_a_version_that_is_not_there(engine: Engine, version: int) -> None:
    engine.apply(COUNTER)

    assert refused(engine, parent(version=version))["code"] == "definition.not_found"


def test_a_version_that_is_not_active(engine: Engine) -> None:
    engine.apply(COUNTER)
    engine.apply({**COUNTER, "description": "the second"})

    assert refused(engine, parent(version=1))["code"] == "definition.not_active"


@ON_SQLITE
def test_a_given_version_that_is_active_starts(engine: Engine) -> None:
    engine.apply(COUNTER)
    instance_id = engine.start(parent(version="${1 + 0}"))
    engine.settle()

    assert engine.status(child_of(engine, instance_id)) is S.WAITING


def test_a_business_key_that_another_live_instance_holds(engine: Engine) -> None:
    holder = engine.start(COUNTER, business_key="order-1")
    engine.settle()

    error = refused(engine, parent(businessKey="order-1"))

    assert (error["code"], error["data"]) == ("instance.business_key_held", {"instanceId": holder})


def test_two_children_of_one_step_with_one_business_key(engine: Engine) -> None:
    engine.apply(COUNTER)
    start = {"type": "startWorkflow", "definitionKey": "counter", "businessKey": "order-1"}
    failed = {"actions": [assign("error", "${event.error.code}")]}
    instance_id = engine.start(on_go(start, start, **{"error.workflow.counter": failed}))
    engine.send(instance_id, "GO")
    engine.settle()

    assert len(children_of(engine, instance_id)) == 1
    assert engine.context(instance_id)["error"] == "instance.business_key_held"
    assert len(engine.snapshot(instance_id)["children"]) == 1


@ON_SQLITE
def test_a_business_key_that_is_too_long(engine: Engine) -> None:
    engine.apply(COUNTER)

    assert refused(engine, parent(businessKey="x" * 501))["code"] == "start.invalid"


@pytest.mark.parametrize("document", [parent(businessKey="a\x00b"), parent("a\x00b"), parent(input="a\x00b")])
def test_what_no_database_takes_fails_the_step_that_asks_for_it(engine: Engine, document: Document) -> None:
    good = engine.start(COUNTER)
    instance_id = engine.start(document)
    engine.settle()

    assert engine.status(instance_id) is S.FAILED
    [(code,)] = engine.execute("SELECT code FROM incidents")
    assert code in ("json.invalid", "context.unstorable")  # the latter where it stands in the snapshot too
    assert engine.status(good) is S.WAITING


def test_an_input_over_the_limit(engine: Engine) -> None:
    engine.apply(COUNTER)
    limits = Limits().model_copy(update={"max_event_bytes": 1_000})
    engine.advancing = replace(engine.advancing, limits=limits)

    error = refused(engine, parent(input="x" * 1_001))

    assert (error["code"], error["data"]) == ("limit.exceeded", {"limit": "max_event_bytes", "allowed": 1000})


def test_recursion_without_end_ends_at_the_deepest_that_is_allowed(engine: Engine) -> None:
    """Each starts another of itself; the deepest is refused, and its failure is caught nowhere."""
    top = engine.start({**parent("parent"), "id": "parent"})
    engine.settle()

    rows = engine.execute("SELECT depth, status FROM instances ORDER BY depth")
    assert rows == [(depth, "waiting") for depth in range(16)] + [(16, "failed")]
    [(code, detail)] = engine.execute("SELECT code, detail FROM incidents")
    assert code == "limit.exceeded"
    assert '"limit":"max_child_depth"' in detail
    engine.control("cancel", top)
    engine.settle()
    assert engine.execute("SELECT DISTINCT status FROM instances") == [("cancelled",)]


@pytest.mark.parametrize("document", [parent(), with_task()], ids=["action", "task"])
def test_what_is_caught_nowhere_opens_an_incident_and_a_retry_finds_the_definition(
    engine: Engine, document: Document
) -> None:
    instance_id = engine.start(document)
    engine.settle()
    assert engine.status(instance_id) is S.FAILED
    assert engine.execute("SELECT code FROM incidents") == [("definition.not_found",)]

    engine.control("retry", instance_id)
    engine.settle()
    assert engine.status(instance_id) is S.FAILED  # still not there: another incident
    assert engine.execute("SELECT status FROM incidents ORDER BY id") == [("resolved",), ("open",)]

    engine.apply(COUNTER)
    engine.control("retry", instance_id)
    engine.settle()
    assert engine.status(instance_id) is S.WAITING
    finish(engine, child_of(engine, instance_id))
    assert engine.status(instance_id) is S.COMPLETED


def test_a_child_that_nobody_waits_for_is_refused_out_loud_too(engine: Engine) -> None:
    instance_id = engine.start(parent(wait=False))
    engine.settle()
    assert engine.status(instance_id) is S.FAILED

    engine.apply(COUNTER)
    engine.control("retry", instance_id)
    engine.settle()
    assert engine.status(instance_id) is S.WAITING
    assert engine.snapshot(instance_id)["children"] == {}
    assert engine.status(child_of(engine, instance_id)) is S.WAITING


@pytest.mark.parametrize("document", [parent(), with_task()], ids=["action", "task"])
def test_a_refused_child_may_be_skipped_with_an_output(engine: Engine, document: Document) -> None:
    instance_id = engine.start(document)
    engine.settle()
    [(incident_id,)] = engine.execute("SELECT id FROM incidents")

    with engine.database.transaction() as tx:
        resolve_incident(
            tx,
            engine.tenant_id,
            str(incident_id),
            way="skip",
            output={"seen": []},
            reason="done by hand",
            actor="test",
            limits=Limits(),
        )
    engine.settle()

    assert engine.status(instance_id) is S.COMPLETED
    answer = engine.context(instance_id)["answer"]
    assert (answer["status"], answer["output"]) == ("skipped", {"seen": []})


@ON_SQLITE
def test_one_that_is_refused_does_not_keep_others_of_its_batch_from_starting(engine: Engine) -> None:
    engine.apply(COUNTER)
    refusing = engine.apply({**parent("nowhere"), "id": "refusing"})
    good = [engine.start(parent()) for _ in range(3)]
    bad = engine.start(refusing)

    engine.settle()

    assert engine.status(bad) is S.FAILED
    assert all(engine.status(child_of(engine, one)) is S.WAITING for one in good)


@pytest.mark.parametrize(
    "input",
    [None, "counter", {}, {"definitionKey": "counter", "key": 1}, {"definitionKey": "counter", "wait": "no"}],
)
@ON_SQLITE
def test_a_workflow_task_whose_input_makes_no_sense_fails_its_step(engine: Engine, input: Any) -> None:
    document = with_task()
    document["states"]["waiting"]["entry"][0]["task"]["input"] = "${input}"
    instance_id = engine.start(document, input=input)
    engine.settle()

    assert engine.status(instance_id) is S.FAILED
    assert engine.execute("SELECT code FROM incidents") == [("step.uncaught",)]
