"""Handlers of the chaos suite, named by `SIGNALBOX_HANDLERS`. All write the ledger, see `cluster_handlers.py`; a light one but a line "called".

Each task of an instance brings an amount of its own (a power of ten), so that the sum tells which one is missing or counted
twice.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from signalbox import Permanent, Retryable, handler
from tests.support.cluster_handlers import note, rest


@handler("chaos.work")
def work(input: Any, context: Any) -> Any:
    """Take `ms` milliseconds, then bring `amount`."""
    rest(input, context)
    return {"amount": input["amount"]}


@handler("chaos.unsteady")
def unsteady(input: Any, context: Any) -> Any:
    """As `chaos.work`, but the first `fails` attempts fail."""
    rest(input, context)
    if context.attempt <= input["fails"]:
        raise Retryable(f"attempt {context.attempt} of {input['fails'] + 1} fails")
    return {"amount": input["amount"]}


@handler("chaos.light", light=True)
def light(input: Any, context: Any) -> Any:
    """Bring `amount`, at once."""
    note("called", context)
    return {"amount": input["amount"]}


@handler("chaos.refuse")
def refuse(input: Any, context: Any) -> None:
    """Fail for good."""
    rest({"ms": 20}, context)
    raise Permanent("it is refused, as always", code="chaos.refused")


@handler("brief.work")
def brief(input: Any, context: Any) -> None:
    """Take `ms` milliseconds, and write no ledger."""
    time.sleep(input["ms"] / 1_000)


READY_AFTER = timedelta(milliseconds=250)


@handler("chaos.check")
def check(input: Any, context: Any) -> Any:
    """Is it `READY_AFTER` later than `since`? Brings `amount`."""
    rest({"ms": 20}, context)
    since = datetime.fromisoformat(input["since"])
    return {"amount": input["amount"], "isReady": datetime.now(UTC) - since >= READY_AFTER}
