"""Handlers of the example workflows, as a user would write them."""

from __future__ import annotations

from typing import Any

from signalbox import Retryable, TaskContext, handler

BUSY_ATTEMPTS = 2


@handler("orders.charge")
def charge(input: Any, context: TaskContext) -> dict[str, Any]:
    """Charge the customer. The card service is busy at first, so that a retry is seen."""
    if context.attempt <= BUSY_ATTEMPTS:
        raise Retryable(f"the card service is busy (attempt {context.attempt})", code="cards.busy")
    # The same key for every attempt: who is asked twice charges once.
    return {"amount": input["amount"], "receipt": f"receipt-{context.idempotency_key[-6:]}"}


@handler("orders.reserve")
def reserve(input: Any) -> dict[str, Any]:
    """Reserve one line of an order on its shelf."""
    return {
        "sku": input["sku"],
        "quantity": input["quantity"],
        "shelf": f"{input['line']}-{input['sku'][:1]}",
    }
