"""What docs/guides/retention.md shows does what the page says."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from common.commands.erase import erase_instance
from common.commands.verify import verify_instance
from common.lifecycle import InstanceStatus
from common.retention import Keeping, kept_for, retention_text
from statechart import check
from tests.integration.engine.documents import ON_SQLITE
from tests.support.engine import Engine

PAGE = (Path(__file__).parents[3] / "docs" / "guides" / "retention.md").read_text()
DOCUMENTS: dict[str, Any] = {
    document["id"]: document
    for document in map(json.loads, re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
}


@pytest.mark.parametrize("key", sorted(DOCUMENTS))
def test_its_definitions_raise_no_alarm(key: str) -> None:
    assert check(DOCUMENTS[key]) == []


def test_its_retention_means_what_it_says() -> None:
    kept = kept_for(retention_text(DOCUMENTS["invoice"]), Keeping(timed_out=timedelta(days=1)))
    assert kept == {
        InstanceStatus.COMPLETED: timedelta(days=90),
        InstanceStatus.CANCELLED: timedelta(days=7),
    }


@ON_SQLITE
def test_its_erasure_counts_what_it_says(engine: Engine) -> None:
    instance_id = engine.start(DOCUMENTS["order"], labels={"subject": "customer-7"}, input={"name": "Ada"})
    engine.settle()
    with engine.database.transaction() as tx:
        erase_instance(
            tx, engine.tenant_id, instance_id, reason="request 117", cancel=True, children=True, actor="admin"
        )
    engine.settle()

    with engine.database.reading() as tx:
        found = verify_instance(tx, engine.tenant_id, instance_id)
    [(rows, erased)] = re.findall(r"chain verified: (\d) rows, the bodies of (\d) erased", PAGE)
    assert (found["entries"], found["erased"]) == (int(rows), int(erased))
    said = {name: found[name] for name in ("valid", "erased", "replayed")}
    assert said == json.loads(re.findall(r'`({"valid": true, "erased".*?})`', PAGE)[0])
