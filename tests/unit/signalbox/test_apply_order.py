"""Definitions of one `signalbox apply` are applied children first."""

from typing import Any

import pytest

from signalbox.cli.definitions import children_first


def starting(key: str, *children: str) -> dict[str, Any]:
    """A definition that starts one child by an action, and all others by a task."""
    actions = [{"type": "startWorkflow", "definitionKey": child} for child in children[:1]]
    tasks = [{"src": "WORKFLOW", "input": {"definitionKey": child}} for child in children[1:]]
    return {"id": key, "initial": "a", "states": {"a": {"entry": actions, "invoke": tasks}}}


@pytest.mark.parametrize(
    ("documents", "order"),
    [
        ([starting("a"), starting("b")], [0, 1]),
        ([starting("parent", "child"), starting("child")], [1, 0]),
        ([starting("a", "b", "c"), starting("b", "c"), starting("c")], [2, 1, 0]),
        ([starting("a", "elsewhere"), starting("b")], [0, 1]),
        ([starting("a", "b"), starting("b", "a")], [1, 0]),
        ([starting("a", "a"), [], {"id": 7}], [0, 1, 2]),
        ([starting("a", "${input.key}"), starting("b", "a")], [0, 1]),
    ],
    ids=["strangers", "parent", "chain", "not among them", "circle", "no documents", "computed"],
)
def test_a_child_comes_before_its_parent(documents: list[Any], order: list[int]) -> None:
    assert children_first(documents) == order
