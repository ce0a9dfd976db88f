"""The data that the vectors and the examples of docs/expressions.md are evaluated over."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

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


def answer(text: str, roots: dict[str, Any]) -> dict[str, Any]:
    """`{"value"}` or `{"error"}` of the expression, whether it is refused at compile or at evaluation."""
    try:
        return {"value": compile_expression(text).evaluate(Scope(**roots, now=NOW, seed="seed"))}
    except (ExpressionInvalid, ExpressionFailed) as error:
        return {"error": error.code}
