"""The guide to tasks of people says what is true of tests: those that it prints pass on the definitions that it prints."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PAGE = (Path(__file__).resolve().parents[3] / "docs/guides/people.md").read_text()
DEFINITIONS = [
    one for one in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL) if "states" in json.loads(one)
]
[BLOCK] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def examples() -> dict[str, Callable[[], None]]:
    names: dict[str, Any] = {"__name__": "test_people"}
    exec(compile(BLOCK, "docs/guides/people.md", "exec"), names)
    return {name: value for name, value in names.items() if name.startswith("test_")}


@pytest.mark.parametrize("name", examples())
def test_the_examples_pass(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in DEFINITIONS:
        (tmp_path / f"{json.loads(text)['id']}.json").write_text(text)
    monkeypatch.chdir(tmp_path)
    examples()[name]()
