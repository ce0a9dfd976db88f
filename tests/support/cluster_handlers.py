"""Handlers for the worker processes of the tests, named by `SIGNALBOX_HANDLERS`.

`LEDGER` in the environment names a file: a line "began|ended task attempt pid" for each beginning and each end of an
attempt, written by one `write` call, so that what a killed process really did stays on record outside the database.
"""

from __future__ import annotations

import os
import time
from typing import Any

from signalbox import Retryable, handler


def note(what: str, context: Any) -> None:
    """Write a line of the ledger."""
    path = os.environ.get("LEDGER")
    if path:
        line = f"{what} {context.task_id} {context.attempt} {os.getpid()}\n"
        ledger = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(ledger, line.encode())
        finally:
            os.close(ledger)


@handler("test.rest")
def rest(input: Any, context: Any) -> Any:
    """Take `ms` milliseconds (100 unless told), whatever happens meanwhile; returns the process that it ran in."""
    note("began", context)
    time.sleep((input or {}).get("ms", 100) / 1000)
    note("ended", context)
    return {"pid": os.getpid()}


@handler("test.unsteady")
def unsteady(input: Any, context: Any) -> Any:
    """Fail the first time, succeed the second."""
    if context.attempt == 1:
        raise Retryable("the first attempt fails")
    return input


@handler("test.light", light=True)
def light(_input: Any, context: Any) -> str:
    """Note that it was called, at once; returns the key of its work."""
    note("began", context)
    return str(context.idempotency_key)
