"""The guide to handlers says what is true: its examples register, its policies are read, its codes are the source's."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import statechart
from common.retry import RetryPolicy
from statechart.timeouts import TIMEOUTS
from task_runner.registry import REGISTRY

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/guides/handlers.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
RETRY, TIMED = (json.loads(text) for text in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture
def forgets() -> Iterator[None]:
    before = dict(REGISTRY._handlers)
    yield
    REGISTRY._handlers.clear()
    REGISTRY._handlers.update(before)


@pytest.mark.usefixtures("forgets")
def test_the_examples_register() -> None:
    names: dict[str, Any] = {"__name__": "shop"}
    for block in PYTHON:
        exec(compile(block, "docs/guides/handlers.md", "exec"), names)

    assert names["validate"]({"lines": [1]}, None) == {"valid": True}
    registered = {
        "orders.validate",
        "orders.charge",
        "orders.reserve",
        "reports.build",
        "images.convert",
        "archive.copy",
        "orders.price",
    }
    assert registered <= set(REGISTRY.functions())
    assert REGISTRY.find("images.convert", "").options.memory_bytes == 512 * 2**20


def test_the_policy_and_the_time_outs_are_read() -> None:
    policy = RetryPolicy.read(RETRY)
    assert policy.retries("warehouse.busy", attempt=1, limit=5, retryable=None)
    assert not policy.retries("warehouse.closed", attempt=1, limit=5, retryable=None)
    assert not policy.retries("ValueError", attempt=1, limit=5, retryable=None)
    assert sorted(TIMED["timeouts"]) == sorted(TIMEOUTS)
    invoke = {"src": "work", "retry": RETRY, **TIMED, "onDone": "b", "onError": "b"}
    document = {"id": "x", "initial": "a", "states": {"a": {"invoke": invoke}, "b": {"type": "final"}}}
    assert statechart.check(document) == []


def test_every_code_is_one_of_the_source_and_the_other_way_round() -> None:
    told = set(re.findall(r"`(task\.[a-z_]+)`", PAGE)) - {"task.late"}
    source = "\n".join(
        path.read_text()
        for folder in ("task_runner", "common/commands")
        for path in (ROOT / folder).glob("*.py")
    )
    raised = set(re.findall(r'TaskError\(\s*"(task\.[a-z_]+)"', source)) | {"task.out_of_memory"}
    assert told | {"task.not_isolated", "task.unwanted"} == raised
