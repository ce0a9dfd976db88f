"""The definitions of docs/guides/compensation.md do what the page says."""

import json
import re
from pathlib import Path
from typing import Any

from common.lifecycle import InstanceStatus
from signalbox import Permanent
from signalbox.testing import Workflow, fails, succeeds
from statechart import check
from tests.integration.engine.documents import ON_SQLITE
from tests.support.engine import Engine

PAGE = (Path(__file__).parents[3] / "docs" / "guides" / "compensation.md").read_text()
DOCUMENTS: dict[str, Any] = {
    document["id"]: document
    for document in map(json.loads, re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
}
[IN_A_TEST] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_they_are_valid() -> None:
    assert sorted(DOCUMENTS) == ["onboarding", "restricted", "trip"]
    for document in DOCUMENTS.values():
        assert {problem.code for problem in check(document)} <= {"event.unhandled", "task.failure_unhandled"}


def test_the_example_of_a_test() -> None:
    workflow = Workflow.load(DOCUMENTS["trip"])
    for name in ("flights.book", "hotels.book"):
        workflow.task(name, succeeds({"id": name}))
    for name in ("flights.cancel", "hotels.cancel"):
        workflow.task(name, succeeds())
    exec(compile(IN_A_TEST, "compensation.md", "exec"), {"workflow": workflow})


def test_an_excepted_error_freezes_it() -> None:
    workflow = Workflow.load(DOCUMENTS["restricted"])
    workflow.task("accounts.open", succeeds())
    workflow.task("cards.charge", fails("VALIDATION_ERROR", retryable=False))
    run = workflow.start()
    assert run.status == "failed"
    assert run.history.of_type("compensation.started") == []
    run.compensate()
    assert run.status == "compensating"
    run.complete("accounts.close")
    assert run.status == "failed"


@ON_SQLITE
def test_an_onboarding_whose_mail_fails_is_undone_by_order_and_kind(engine: Engine) -> None:
    """The case office-mail-fails, with the orders of F-28: PENDING, RUNNING, COMPENSATING, FAILED."""
    done: list[str] = []

    def handler(name: str, output: Any = None, code: str | None = None) -> None:
        def work(_input: Any) -> Any:
            done.append(name)
            if code is not None:
                raise Permanent("bad address", code=code)
            return output

        engine.handler(name, work)

    handler("identity.provision", {"accountId": "acc-1"})
    handler("document.distribute")
    handler("email.send", code="VALIDATION_ERROR")
    for name in ("identity.deprovision", "document.withdraw"):
        handler(name)
    handler("email.apologise", code="mail.down")
    instance_id = engine.start(DOCUMENTS["onboarding"], input={"employee": {"email": "a@x.io"}})
    engine.settle()

    assert done == [
        "identity.provision", "document.distribute", "email.send",
        "identity.deprovision", "document.withdraw", "email.apologise",
    ]  # fmt: skip
    assert engine.status(instance_id) is InstanceStatus.FAILED
    assert engine.execute("SELECT code, status FROM incidents") == [("VALIDATION_ERROR", "open")]
