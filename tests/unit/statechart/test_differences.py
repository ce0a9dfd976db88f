"""What differs between two documents."""

from __future__ import annotations

from typing import Any

import pytest

from statechart.differences import Difference, differences

DOCUMENT: dict[str, Any] = {
    "id": "order",
    "initial": "a",
    "context": {"n": 1},
    "states": {
        "a": {"on": {"GO": [{"guard": "x", "target": "b"}, {"target": "c"}]}},
        "b": {},
        "c": {"type": "final"},
    },
}


def changed(**more: Any) -> dict[str, Any]:
    return {**DOCUMENT, **more}


@pytest.mark.parametrize(
    ("after", "found"),
    [
        (DOCUMENT, []),
        (changed(context={"n": 2}), [Difference("context.n", "changed", 1, 2)]),
        (changed(context={"n": True}), [Difference("context.n", "changed", 1, True)]),
        (changed(context={"n": 1.0}), []),
        (changed(context={"n": None}), [Difference("context.n", "changed", 1, None)]),
        (changed(context=[]), [Difference("context", "changed", {"n": 1}, [])]),
        (changed(timeout="1h"), [Difference("timeout", "added", None, "1h")]),
        ({"id": "order"}, [
            Difference("initial", "removed", "a"),
            Difference("context", "removed", {"n": 1}),
            Difference("states", "removed", DOCUMENT["states"]),
        ]),
        (
            changed(states={**DOCUMENT["states"], "a": {"on": {"GO": [{"guard": "y", "target": "b"}]}}}),
            [
                Difference("states.a.on.GO[0].guard", "changed", "x", "y"),
                Difference("states.a.on.GO[1]", "removed", {"target": "c"}),
            ],
        ),
        (
            changed(states={"b": {}, "d": {}, "a": DOCUMENT["states"]["a"], "c": {"type": "final"}}),
            [
                Difference("states.d", "added", None, {}),
                Difference("states", "reordered", ["a", "b", "c"], ["b", "d", "a", "c"]),
            ],
        ),
        (
            dict(reversed(DOCUMENT.items())),
            [Difference("", "reordered", [*DOCUMENT], [*reversed(DOCUMENT)])],
        ),
    ],
)  # fmt: skip
def test_each_difference_is_told_with_its_place(after: Any, found: list[Difference]) -> None:
    assert list(differences(DOCUMENT, after)) == found
