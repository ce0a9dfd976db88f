"""The definition and the test of docs/guides/configuration.md do what the page says."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from common.commands.configs import NewConfig, set_config
from common.config import Limits
from common.lifecycle import InstanceStatus
from statechart import check
from tests.integration.engine.documents import ON_SQLITE
from tests.support.engine import Engine

PAGE = (Path(__file__).parents[3] / "docs" / "guides" / "configuration.md").read_text()
[ORDER] = map(json.loads, re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
[TEST] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_it_raises_no_alarm() -> None:
    assert check(ORDER) == []


def test_the_test_of_the_page_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "order.json").write_text(json.dumps(ORDER))
    monkeypatch.chdir(tmp_path)
    told: dict[str, Any] = {}

    exec(TEST, told)
    told["test_large_orders_are_reviewed"]()


@ON_SQLITE
def test_a_value_that_is_set_takes_the_place_of_the_default(engine: Engine) -> None:
    order = {"total": 150, "region": "ch"}
    engine.apply(ORDER)
    small, large = engine.start("order", input=order | {"total": 50}), engine.start("order", input=order)
    engine.settle()
    assert engine.status(small) is InstanceStatus.COMPLETED
    assert engine.context(large) == {"tax": 12}

    with engine.database.transaction() as tx:
        new = NewConfig("orders", "limit", 200)
        set_config(tx, engine.tenant_id, new, actor="test", limits=Limits())
    engine.send(large, "AGAIN")
    engine.settle()

    assert engine.status(large) is InstanceStatus.COMPLETED
