"""The triggers of a document mean the same without its states."""

from datetime import UTC, datetime
from typing import Any

import pytest

from statechart import Env, load
from statechart.expressions import Meter
from statechart.triggers import without_states

STATES = {"initial": "a", "states": {"a": {"on": {"GO": {"target": "b", "guard": "inA"}}}, "b": {}}}
GUARDS = {
    "big": {"type": "above", "params": {"floor": 100}},
    "above": "event.n > params.floor",
    "vip": {"type": "or", "guards": ["event.vip", {"type": "not", "guard": "small"}]},
    "small": "event.n < 10",
    "inA": {"type": "stateIn", "state": "a"},
    "unused": "event.n == 1",
}
ENV = Env(datetime(2026, 3, 1, 12, tzinfo=UTC), seed="s")


def asked(document: dict[str, Any], event: dict[str, Any]) -> list[Any]:
    chart = load(document)
    return [one.ask(chart, event, ENV, Meter()) for one in chart.triggers if one.event is not None]


@pytest.mark.parametrize("n", [5, 50, 500])
def test_they_answer_as_with_them(n: int) -> None:
    document = {
        "id": "orders",
        **STATES,
        "guards": GUARDS,
        "triggers": [
            "order",
            {"name": "every day", "schedule": {"every": "P1D"}},
            {"event": "order.*", "condition": "big", "businessKey": "o-${event.n}"},
            {"event": "*", "condition": {"type": "and", "guards": ["vip", "event.n < 400"]}, "input": {"n": "${event.n}"}},
            {"event": "*", "condition": {"type": "above", "params": {"floor": "${event.floor}"}}},
        ],
    }  # fmt: skip
    alone = without_states(document)
    event = {"type": "order", "n": n, "vip": False, "floor": 20}

    assert asked(alone, event) == asked(document, event)
    assert [one.name for one in load(alone).triggers] == [one.name for one in load(document).triggers]
    assert set(alone["guards"]) == {"big", "above", "vip", "small"}
    assert len(alone["states"]) == 1


@pytest.mark.parametrize("triggers", ["order", {"event": "order"}])
def test_one_may_stand_without_a_list(triggers: Any) -> None:
    assert [one.event for one in load(without_states({"id": "o", "triggers": triggers})).triggers] == [
        "order"
    ]
