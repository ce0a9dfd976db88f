"""The guide to polling says what is true: its definition raises no alarm, its test passes, its codes are the source's."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import statechart
from signalbox.testing import Workflow, succeeds
from statechart.polls import FIELDS

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/guides/polling.md").read_text()
[EXPORT] = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
[EXAMPLE] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_definition_raises_no_alarm() -> None:
    assert statechart.check(json.loads(EXPORT)) == []


def test_the_example_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "export.json").write_text(EXPORT)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "test_export"}
    exec(compile(EXAMPLE, "docs/guides/polling.md", "exec"), names)
    example: Callable[[], None] = names["test_the_third_check_finds_it_done"]
    example()


def test_it_ends_in_the_ways_that_are_told() -> None:
    export = Workflow.load(EXPORT).task("start-export", succeeds({"body": {"id": 7}}))
    run = export.task("POLL", succeeds({"body": {}})).start({"report": "x"})
    run.advance("30s").expect(status="completed", configuration=["failed"])
    error = run.task("POLL").error
    assert error is not None
    assert error["code"] == "poll.until"


def test_every_member_and_every_code_is_told() -> None:
    told = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert told == set(FIELDS)
    source = (ROOT / "common/polls.py").read_text()
    assert set(re.findall(r"^\| `(poll\.\w+)`", PAGE, re.MULTILINE)) == set(
        re.findall(r'"(poll\.[a-z_]+)"', source)
    )
