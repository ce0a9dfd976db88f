"""The text of what a step has read is canonical, although it is put together from parts."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from common.canonical import dumps, read
from common.db.tables import InboxType
from common.decide import Decision, Standing
from common.lifecycle import InstanceStatus
from orchestrator.stepping import input_text
from statechart import Env

AT = datetime(2026, 3, 1, 9, tzinfo=UTC)


@pytest.mark.parametrize("config", [{}, {"mail": {"from": 'é"\\', "retries": 3}, "a": {"b": None}}])
def test_the_input_of_a_history_row_is_canonical_and_holds_its_env(config):
    env = Env(AT, config, "0190aaaa-0000-7000-8000-000000000001:7")
    standing = Standing(InstanceStatus.RUNNING, None, {}, 7)

    text = input_text(
        InboxType.TASK_LATE, '{"entry":{}}', env, "c" * 64, 1, standing, Decision("running", None, None, [])
    )

    assert text == dumps(read(text))
    assert read(text)["type"] == "task.late"
    assert Env.from_json(read(text)["env"]) == env
    assert read(text)["env"] == env.to_json()
