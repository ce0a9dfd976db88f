"""The definitions of docs/guides/child-workflows.md do what the page says."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from common.lifecycle import InstanceStatus
from statechart import check
from tests.integration.engine.children import child_of
from tests.integration.engine.documents import ON_SQLITE
from tests.support.engine import Engine

PAGE = (Path(__file__).parents[3] / "docs" / "guides" / "child-workflows.md").read_text()
DOCUMENTS: dict[str, Any] = {
    document["id"]: document
    for document in map(json.loads, re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
}
KNOWN = {"task_types": {"WORKFLOW"}, "workflows": DOCUMENTS}


def test_they_raise_no_alarm() -> None:
    assert sorted(DOCUMENTS) == ["order", "order-by-invoke", "packing"]
    for document in DOCUMENTS.values():
        assert check(document, **KNOWN) == []


@ON_SQLITE
@pytest.mark.parametrize("key", ["order", "order-by-invoke"])
def test_a_parent_waits_for_its_child(engine: Engine, key: str) -> None:
    engine.apply(DOCUMENTS["packing"])
    instance_id = engine.start(DOCUMENTS[key], business_key="order-7", input={"items": [1, 2]})
    engine.settle()
    child = child_of(engine, instance_id)
    assert engine.snapshot(child)["input"] == {"items": [1, 2]}

    engine.send(child, "PACKED", parcel="P-1")
    engine.settle()

    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    assert engine.snapshot(instance_id)["configuration"] == ["packed"]


@ON_SQLITE
def test_a_cancelled_child_is_caught(engine: Engine) -> None:
    engine.apply(DOCUMENTS["packing"])
    instance_id = engine.start(DOCUMENTS["order"], business_key="order-7", input={"items": []})
    engine.settle()
    engine.control("cancel", child_of(engine, instance_id), reason="no boxes left")
    engine.settle()

    assert engine.snapshot(instance_id)["configuration"] == ["stuck"]
    assert "no boxes left" in engine.context(instance_id)["problem"]
