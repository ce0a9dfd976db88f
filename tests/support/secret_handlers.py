"""Handlers that let out whatever they are given, each by another way. Their input is {"key": …}."""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from signalbox import Continue, Permanent, handler


def _forms(key: str) -> dict[str, Any]:
    return {
        "plain": key,
        "within": f"before {key} after",
        "json": json.dumps({"nested": json.dumps(key)}),
        "url": f"https://example.com/?q={quote(key, safe='')}",
        "base64": b64encode(f"user:{key}".encode()).decode(),
        key: "as a name",
    }


@handler("leak.raise", retry={"maxAttempts": 2, "interval": 0, "jitter": 0})
def leak_by_raising(input: Any, context: Any) -> None:
    """It logs, reports progress, and fails by an exception with a cause."""
    context.log.warning(f"about to use {input['key']}", key=input["key"], forms=_forms(input["key"]))
    context.heartbeat({"using": _forms(input["key"])})
    try:
        raise KeyError(input["key"])
    except KeyError as error:
        context.log.exception("it was not there")
        raise ValueError(f"cannot use {input['key']}: {_forms(input['key'])}") from error


@handler("leak.permanent", isolated=True)
def leak_by_an_error_of_its_own(input: Any, context: Any) -> None:
    """In a process of its own: the code, the message and the data have it."""
    context.log.error(f"isolated and about to use {input['key']}")
    raise Permanent(f"no {input['key']}", code=f"leak.{input['key']}", data=_forms(input["key"]))


@handler("leak.continue")
def leak_by_going_on(input: Any, context: Any) -> Any:
    """The state that it goes on from has it, and then the output."""
    if context.state is None:
        return Continue(_forms(input["key"]), after=timedelta(0))
    return {"state": context.state, "now": _forms(input["key"])}


@handler("leak.light", light=True)
def leak_lightly(input: Any) -> Any:
    return _forms(input["key"])


@handler("leak.isolated", isolated=True)
def leak_in_isolation(input: Any, context: Any) -> Any:
    context.heartbeat(_forms(input["key"]))
    return _forms(input["key"])
