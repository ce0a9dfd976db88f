"""The definition of docs/guides/limits.md does what the page says."""

import json
import re
from pathlib import Path
from typing import Any

from common.store import limits
from common.store.limits import Figures, Rate
from statechart import check
from tests.integration.engine.documents import ON_SQLITE
from tests.support.engine import Engine

PAGE = (Path(__file__).parents[3] / "docs" / "guides" / "limits.md").read_text()
[SYNC] = [json.loads(found) for found in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]


def test_it_raises_no_alarm() -> None:
    problems: Any = check(SYNC, task_types={"crm.sync"})
    assert [one for one in problems if one.severity == "error"] == []


@ON_SQLITE
def test_each_region_has_its_three_places_and_a_rate(engine: Engine) -> None:
    engine.handler("crm.sync", lambda _input: None)
    key = engine.apply(SYNC)
    for region in ("eu", "eu", "eu", "us"):
        engine.start(key, input={"customer": 7, "region": region})
    engine.advance()

    assert len(engine.claim()) == 3  # two of the burst of eu, one of us
    with engine.database.reading() as tx:
        found = limits.list_limits(tx, engine.tenant_id, after=None, limit=9)
    assert {one.key: one.figures for one in found} == dict.fromkeys(
        ("key:crm-eu", "key:crm-us"), Figures(3, Rate(10, 1_000, 2))
    )
