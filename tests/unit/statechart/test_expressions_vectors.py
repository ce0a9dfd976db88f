"""Each rule of the language, as data: `vectors/<rule group>.json` holds expressions with their value or error.

A vector is `{"expr", "scope"?, "value" | "error"}`; `scope` replaces roots of the common one below. Values are compared
as JSON text, so that 1, 1.0 and true stay apart.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from statechart.expressions import ExpressionFailed, ExpressionInvalid, Scope, compile_expression

NOW = datetime(2026, 3, 1, 9, 12, tzinfo=UTC)
COMMON: dict[str, Any] = {
    "context": {
        "amount": 250,
        "name": "Ada",
        "tags": ["vip", "eu"],
        "order": {
            "id": "o-1",
            "lines": [{"sku": "a", "price": 10, "count": 2}, {"sku": "b", "price": 2.5, "count": 4}],
        },
        "nothing": None,
        "flag": True,
        "ratio": 0.5,
        "big": 12345678901234567890,
        "at": "2026-03-01T10:00:00Z",
    },
    "event": {"type": "PAY", "amount": 100},
    "input": {"customer": 7},
    "instance": {"id": "i-1"},
    "config": {"orders": {"limit": 1000}},
}


def _vectors() -> list[Any]:
    return [
        pytest.param(vector, id=f"{path.stem}: {vector['expr'][:60]}")
        for path in sorted((Path(__file__).parent / "vectors").glob("*.json"))
        for vector in json.loads(path.read_text(encoding="utf-8"))
    ]


def answer(text: str, roots: dict[str, Any]) -> dict[str, Any]:
    """`{"value"}` or `{"error"}` of the expression, whether it is refused at compile or at evaluation."""
    try:
        return {"value": compile_expression(text).evaluate(Scope(**roots, now=NOW, seed="seed"))}
    except (ExpressionInvalid, ExpressionFailed) as error:
        return {"error": error.code}


@pytest.mark.parametrize("vector", _vectors())
def test_the_vector_holds(vector):
    found = answer(vector["expr"], COMMON | vector.get("scope", {}))

    expected = {key: vector[key] for key in ("value", "error") if key in vector}
    assert json.dumps(found, sort_keys=True) == json.dumps(expected, sort_keys=True)
