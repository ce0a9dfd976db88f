"""The guide to testing says what is true: its tests pass, and its failure reads as printed."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from signalbox.testing import Unexpected, Workflow, fails
from tests.support.slowdown import assert_within

PAGE = (Path(__file__).resolve().parents[3] / "docs/guides/testing.md").read_text()
[ORDER] = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
[FAILURE] = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def examples() -> dict[str, Callable[[], None]]:
    """The test functions of the page, in one module."""
    names: dict[str, Any] = {"__name__": "test_orders"}
    for block in BLOCKS:
        exec(compile(block, "docs/guides/testing.md", "exec"), names)
    return {name: value for name, value in names.items() if name.startswith("test_")}


@pytest.fixture
def beside_the_definition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "order.json").write_text(ORDER)
    monkeypatch.chdir(tmp_path)


def test_every_block_holds_a_test() -> None:
    assert len(examples()) == len(BLOCKS)


@pytest.mark.usefixtures("beside_the_definition")
@pytest.mark.parametrize("name", examples())
def test_the_examples_pass(name: str) -> None:
    examples()[name]()


@pytest.mark.usefixtures("beside_the_definition")
def test_the_first_one_takes_milliseconds() -> None:
    first = next(iter(examples().values()))
    first()
    began = time.process_time()
    for _ in range(20):
        first()
    assert_within((time.process_time() - began) / 20, 0.03, clock=time.process_time)


def test_the_definition_raises_no_alarm() -> None:
    assert Workflow.load(ORDER).warnings == []


def test_a_failure_reads_as_printed() -> None:
    run = Workflow.load(json.loads(ORDER)).task("orders.validate", fails("http.503")).start({"lines": []})
    with pytest.raises(Unexpected) as told:
        run.expect(status="completed")
    assert str(told.value) == FAILURE.rstrip("\n")
