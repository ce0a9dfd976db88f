"""The handlers of docs/guides/data.md do what the page says."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from signalbox.testing import Workflow, fails, succeeds
from statechart import check
from task_runner.registry import REGISTRY

PAGE = (Path(__file__).parents[3] / "docs" / "guides" / "data.md").read_text()
[SHIPPING] = map(json.loads, re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
HANDLERS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]


@pytest.fixture
def handlers() -> Iterator[None]:
    before = dict(REGISTRY._handlers)
    exec(compile(HANDLERS, "docs/guides/data.md", "exec"), {"__name__": "mails"})
    yield
    REGISTRY._handlers.clear()
    REGISTRY._handlers.update(before)


def mailing() -> dict[str, Any]:
    def sending(to: str, then: str) -> dict[str, Any]:
        return {"invoke": {"src": "mails.send", "input": {"to": to}, "onDone": then}}

    return {
        "id": "mailing",
        "initial": "first",
        "context": {"report": None},
        "states": {
            "first": sending("b@example.org", "second"),
            "second": sending("a@example.org", "third"),
            "third": sending("b@example.org", "reporting"),
            "reporting": {"invoke": {"src": "mails.report", "outputKey": "report", "onDone": "done"}},
            "done": {"type": "final"},
        },
    }


@pytest.mark.usefixtures("handlers")
def test_handlers_share_what_they_set() -> None:
    run = Workflow.load(mailing(), handlers=True).start()

    run.expect(status="completed", context={"report": {"mails": 3, "to": ["a@example.org", "b@example.org"]}})
    assert run.metadata == {
        "addresses": ["a@example.org", "b@example.org"],
        "lastAddress": "b@example.org",
        "mails": 3,
    }


def test_the_definition_raises_no_alarm() -> None:
    assert check(SHIPPING) == []


def test_a_light_parcel_gets_its_label() -> None:
    shipping = Workflow.load(SHIPPING).task("parcels.weigh", succeeds({"kg": 2}))
    run = shipping.task("label", succeeds({"url": "x"})).start({"parcel": 1})

    run.expect(status="completed", output={"kg": 2, "label": {"url": "x"}, "why": None})
    assert run.task("label").input == {"kg": 2}


def test_a_heavy_one_and_one_that_cannot_be_weighed_go_by_freight() -> None:
    for answer, output in (
        (succeeds({"kg": 31}), {"kg": 31, "label": None, "why": None}),
        (fails("scale.off", "no scale", retryable=False), {"kg": None, "label": None, "why": "no scale"}),
    ):
        run = Workflow.load(SHIPPING).task("parcels.weigh", answer).start({"parcel": 1})
        run.expect(configuration=["freight"])
        run.send("COLLECTED").expect(output=output)
