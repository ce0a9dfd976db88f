"""The definitions and tests of docs/guides/map.md do what the page says."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from common.lifecycle import InstanceStatus
from statechart import check
from task_runner.registry import Permanent
from tests.integration.engine.documents import ON_SQLITE
from tests.integration.engine.maps import items_of
from tests.support.engine import Engine

PAGE = (Path(__file__).parents[3] / "docs" / "guides" / "map.md").read_text()
DOCUMENTS: dict[str, Any] = {
    document["id"]: document
    for document in map(json.loads, re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
}
[TESTS] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
QUOTE = {
    "id": "quote",
    "initial": "asking",
    "output": "${input.supplier}",
    "states": {"asking": {"on": {"OFFER": "done"}}, "done": {"type": "final"}},
}


def test_they_raise_no_alarm() -> None:
    assert sorted(DOCUMENTS) == ["quotes", "shipping"]
    for document in DOCUMENTS.values():
        assert check(document, task_types={"MAP", "parcels.ship"}, workflows={"quote"}) == []


@ON_SQLITE
def test_every_parcel_is_shipped(engine: Engine) -> None:
    engine.handler("parcels.ship", lambda input: f"{input['number']}: {input['parcel']}")
    instance_id = engine.start(DOCUMENTS["shipping"], input={"parcels": [{"id": "a"}, {"id": "b"}]})
    engine.settle()

    assert engine.context(instance_id)["shipped"] == ["1: a", "2: b"]


@ON_SQLITE
def test_a_parcel_that_is_lost_stops_it(engine: Engine) -> None:
    def lose(_input: Any) -> None:
        raise Permanent("no such parcel")

    engine.handler("parcels.ship", lose)
    instance_id = engine.start(DOCUMENTS["shipping"], input={"parcels": [{"id": "a"}]})
    engine.settle()

    assert engine.snapshot(instance_id)["configuration"] == ["stopped"]
    assert engine.context(instance_id)["problem"] == "item 0 of 1 failed: no such parcel"


@ON_SQLITE
def test_two_of_three_offers_are_enough(engine: Engine) -> None:
    engine.apply(QUOTE)
    instance_id = engine.start(DOCUMENTS["quotes"], input={"suppliers": ["x", "y", "z"]})
    engine.advance()
    rows = engine.execute("SELECT id FROM instances WHERE parent_id IS NOT NULL ORDER BY parent_key")
    for (child,) in rows[1:]:
        engine.send(child, "OFFER")
    engine.settle()

    assert engine.context(instance_id)["best"] == ["y", "z"]
    assert engine.status(rows[0][0]) is InstanceStatus.CANCELLED
    assert items_of(engine) == [(0, "cancelled"), (1, "succeeded"), (2, "succeeded")]


@pytest.mark.parametrize("name", re.findall(r"def (test_\w+)", TESTS))
def test_its_tests_pass(name: str) -> None:
    names: dict[str, Any] = {}
    exec(compile(TESTS, "docs/guides/map.md", "exec"), names)

    names[name](DOCUMENTS["shipping"])
