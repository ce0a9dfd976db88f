"""What `signalbox handlers` prints of a task type."""

from typing import Any

from api.shapes import own_type_json
from common.catalogue import CATALOGUE
from signalbox.cli.handlers import _facts, _table
from tests.unit.signalbox.test_render import text_of


def poll() -> Any:
    return own_type_json(CATALOGUE["POLL"])


def test_a_type_is_shown_with_its_members_and_an_example() -> None:
    told = text_of(_facts(poll()))
    assert "runners   none is needed" in told
    assert any(line.split()[:4] == ["until", "string", "required", "An"] for line in told.splitlines())
    assert "default false" in told
    assert '"until": "output == {}"' in told


def test_types_are_listed_one_a_line() -> None:
    mine = {
        **poll(),
        "type": "orders.price",
        "category": "code",
        "runners": 2,
        "description": "First.\nSecond.",
    }
    rows = [line.split() for line in text_of(_table([poll(), mine])).splitlines()]
    assert rows[2][:3] == ["POLL", "flow", "Does"]
    assert rows[3] == ["orders.price", "code", "2", "First."]
