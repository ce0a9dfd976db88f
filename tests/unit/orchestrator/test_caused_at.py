"""What a step was caused by: the same instant however it is told, so that the step makes the same ids when it is taken again."""

from datetime import UTC, datetime, timedelta

import pytest

from common.db.tables import InboxType
from common.ids import InstanceId, derived_id, is_id, made_at, new_id
from common.store.inbox import ORDINARY, InboxRow
from orchestrator.stepping import caused_at

NOW = datetime(2026, 11, 29, 14, 0, 0, 123_000, tzinfo=UTC)


def row(type: InboxType, source: str) -> InboxRow:
    return InboxRow(1, InstanceId(new_id()), ORDINARY, type, "{}", source, NOW)


def test_the_end_of_a_task_was_caused_by_what_that_was_made_by() -> None:
    task = derived_id(NOW - timedelta(seconds=3), 1, 1, "instance", "key")

    assert caused_at(row(InboxType.TASK, f"task:{task}")) == NOW - timedelta(seconds=3)
    assert caused_at(row(InboxType.EVENT, f"task:{task}")) == NOW
    assert caused_at(row(InboxType.TASK, "person")) == NOW


@pytest.mark.parametrize(
    "id", ["ffffffff-ffff-7fff-bfff-ffffffffffff", "f47ac10b-58cc-4372-a567-0e02b2c3d479"]
)
def test_an_id_that_tells_no_time_or_one_to_come_tells_nothing(id: str) -> None:
    assert caused_at(row(InboxType.TASK, f"task:{id}")) == NOW


def test_derived_ids_are_ids_that_sort_by_time_then_step_then_count() -> None:
    ids = [
        derived_id(NOW + timedelta(milliseconds=late), step, count, "instance", "key")
        for late in (0, 1)
        for step in (1, 2)
        for count in (1, 2, 70_000)
    ]

    assert ids == sorted(ids)
    assert all(is_id(one) and one[14] == "7" and one[19] in "89ab" for one in ids)
    assert made_at(ids[0]) == NOW
    assert derived_id(NOW, 1, 1, "instance", "key") == ids[0], "always the same"
    assert len({derived_id(NOW, 1, 1, "instance", str(key)) for key in range(10_000)}) == 10_000
