"""What the shapes of answers promise whatever is stored."""

import json
from datetime import UTC, datetime
from typing import Any

import orjson

from api.shapes import history_entries, instance_json
from common.ids import DefinitionId, InstanceId
from common.lifecycle import InstanceStatus
from common.store.listing import HistoryRecord, InstanceRecord

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DEEPEST = 254
"""Levels that orjson writes, and so what is stored may have."""


def lists(levels: int) -> str:
    return "[" * levels + "]" * levels


def told(body: Any) -> Any:
    return json.loads(orjson.dumps({"items": [body]}))["items"][0]


def test_a_context_is_told_however_deep_it_is_stored() -> None:
    context = f'{{"a":{lists(DEEPEST - 2)}}}'
    record = InstanceRecord(
        id=InstanceId("i"),
        definition_id=DefinitionId("d"),
        definition_key="deep",
        definition_version=1,
        business_key=None,
        status=InstanceStatus.WAITING,
        configuration="[]",
        snapshot=f'{{"context":{context}}}',
        input="null",
        output=None,
        error=None,
        labels={},
        priority=0,
        sequence=1,
        parent_id=None,
        depth=0,
        created_at=NOW,
        started_at=NOW,
        finished_at=None,
        deadline_at=None,
        erased_at=None,
        concurrency_key=None,
        is_queued=False,
    )

    assert told(instance_json(record))["context"] == json.loads(context)


def test_an_entry_of_a_history_is_told_however_deep_it_is_stored() -> None:
    changes = f'[{{"type":"context.assigned","value":{lists(DEEPEST - 2)}}}]'
    (entry,) = history_entries(HistoryRecord(1, NOW, "me", changes, b"", b""))

    assert told(entry)["payload"] == {"value": json.loads(lists(DEEPEST - 2))}
