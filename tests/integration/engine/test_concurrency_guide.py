"""The definitions of docs/guides/concurrency.md do what the page says."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from common.errors import Conflict
from common.lifecycle import InstanceStatus
from statechart import check
from tests.integration.engine.documents import ON_SQLITE
from tests.support.engine import Engine

PAGE = (Path(__file__).parents[3] / "docs" / "guides" / "concurrency.md").read_text()
DOCUMENTS: dict[str, Any] = {
    document["id"]: document
    for document in map(json.loads, re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
}
RUNNING, PENDING, WAITING = InstanceStatus.RUNNING, InstanceStatus.PENDING, InstanceStatus.WAITING

pytestmark = ON_SQLITE


@pytest.fixture
def engine(engine: Engine) -> Engine:
    for document in DOCUMENTS.values():
        engine.apply(document)
    return engine


def test_they_raise_no_alarm(engine: Engine) -> None:
    assert sorted(DOCUMENTS) == ["deployment", "import", "rendering"]
    for document in DOCUMENTS.values():
        assert check(document, task_types={"orders.import"}) == []


def test_imports_run_one_at_a_time_for_each_customer(engine: Engine) -> None:
    ids = [engine.start("import", input={"customer": name}) for name in ("ada", "ada", "bob")]
    engine.advance()
    assert [engine.status(one) for one in ids] == [RUNNING, PENDING, RUNNING]

    engine.handler("orders.import", lambda _input, _context: None)
    engine.settle()
    assert {engine.status(one) for one in ids} == {InstanceStatus.COMPLETED}


def test_the_newest_deployment_of_a_stage_is_left(engine: Engine) -> None:
    old, other, new = (engine.start("deployment", input={"stage": stage}) for stage in ("a", "b", "a"))
    engine.settle()

    assert [engine.status(one) for one in (old, other, new)] == [InstanceStatus.CANCELLED, WAITING, WAITING]


def test_a_fourth_rendering_is_refused(engine: Engine) -> None:
    first, _, _ = (engine.start("rendering") for _ in range(3))
    with pytest.raises(Conflict, match="reached its concurrency limit of 3"):
        engine.start("rendering")
    engine.settle()

    engine.send(first, "RENDERED")
    engine.settle()

    assert engine.start("rendering")
    engine.settle()
