"""The guide to AI tasks does what it says: its definition under its policy, its answer, its tests, its tables."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.ai_policy import _READERS, Why
from common.lifecycle import InstanceStatus
from statechart import check
from task_runner.handlers.ai_input import INPUT_SCHEMA
from task_runner.handlers.ai_record import OUTPUT_SCHEMA
from tests.integration.engine.documents import ON_SQLITE
from tests.support.ai import with_ai
from tests.support.engine import Engine

PAGE = (Path(__file__).parents[3] / "docs" / "guides" / "ai-tasks.md").read_text()
[REFUND] = map(json.loads, re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
[ANSWER] = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def run(engine: Engine, *script: Any) -> str:
    engine.handler("orders.find", lambda input: {"id": input["orderId"], "items": ["cup"]})
    wanted = {"complaint": "broken", "orderId": 7, "script": list(script)}
    instance_id = str(engine.start(REFUND, input=wanted))
    engine.settle()
    return instance_id


def test_it_raises_no_alarm() -> None:
    assert check(REFUND, task_types={"AI"}) == []


@ON_SQLITE
def test_the_answer_of_the_page_is_taken(engine: Engine) -> None:
    find = {"toolCalls": [{"name": "orders.find", "arguments": {"orderId": 7}}]}
    instance_id = run(with_ai(engine), find, ANSWER)

    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    assert engine.snapshot(instance_id)["configuration"] == ["refunded"]
    assert engine.context(instance_id)["amount"] == 40
    assert "ai.decided" in engine.entry_types(instance_id)


@ON_SQLITE
@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"json": {"event": "REFUND", "payload": {"amount": 9000}}}, "payload_invalid"),
        ({"json": {"event": "PAY_OUT"}}, "event_not_allowed"),
        (f"```json\n{ANSWER}```", "answer_invalid"),
        ({"json": {"event": None, "reason": "I cannot tell"}}, "no_decision"),
    ],
)
def test_what_is_refused_or_undecided_is_for_people(engine: Engine, said: Any, why: str) -> None:
    instance_id = run(with_ai(engine), said)

    assert engine.snapshot(instance_id)["configuration"] == ["asking"]
    assert engine.context(instance_id)["why"] == why


def examples() -> dict[str, Callable[[], None]]:
    names: dict[str, Any] = {"__name__": "test_refunds"}
    for block in BLOCKS:
        exec(compile(block, "docs/guides/ai-tasks.md", "exec"), names)
    return {name: value for name, value in names.items() if name.startswith("test_")}


@pytest.mark.parametrize("name", examples())
def test_the_examples_pass(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "refund.json").write_text(json.dumps(REFUND))
    monkeypatch.chdir(tmp_path)
    examples()[name]()


def told(heading: str) -> str:
    return PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]


def test_the_tables_name_every_member() -> None:
    for names, heading in (
        (_READERS, "The policy"),
        (INPUT_SCHEMA["properties"], "Input"),
        (OUTPUT_SCHEMA["properties"], "Output"),
        ([why.value for why in Why], "Output"),
    ):
        page = told(heading)
        assert [name for name in names if f"`{name}`" not in page] == [], heading
