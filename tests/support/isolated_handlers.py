"""Handlers that harm the process they run in, each in its own way; isolated, so that it is theirs alone."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from typing import Any

from signalbox import handler


@handler("isolated.pid", isolated=True)
def pid(_input: Any) -> int:
    return os.getpid()


@handler("isolated.segfault", isolated=True, retry={"maxAttempts": 1})
def segfault(_input: Any) -> str:
    return str(ctypes.string_at(0))


@handler("isolated.exit", isolated=True, retry={"maxAttempts": 1})
def leave(_input: Any) -> None:
    os._exit(3)


@handler("isolated.leak", isolated=True, memory_limit="256MB", retry={"maxAttempts": 1})
def leak(_input: Any) -> None:
    held = []
    while True:
        held.append(bytearray(10_000_000))


@handler("isolated.spin", isolated=True, retry={"maxAttempts": 1})
def spin(_input: Any) -> None:
    while True:
        pass


@handler("isolated.talk", isolated=True)
def talk(input: Any, context: Any) -> Any:
    """Tell where it stands, wait until it is cancelled where asked to, and tell what it knows."""
    os.write(1, b"isolated says hello\n")
    context.log.info("isolated.logs", seen=context.attempt)
    context.heartbeat({"page": 7})
    until = time.monotonic() + 20
    while input and not context.cancelled and time.monotonic() < until:
        time.sleep(0.01)
    return {"cancelled": context.cancelled, "progress": context.progress, "key": context.idempotency_key}


@handler("isolated.rude", isolated=True)
def rude(_input: Any) -> None:
    raise ValueError("no")


@handler("isolated.echo", isolated=True)
def echo(input: Any, context: Any) -> Any:
    context.heartbeat({"told": input})
    context.log.info("echoing", input=input)
    return {"length": len(input["key"]), "got": input}


@handler("isolated.fail", isolated=True)
def fail(input: Any) -> Any:
    raise ValueError(f"cannot use {input['key']}")


@handler("isolated.count", isolated=True, retry={"maxAttempts": 1})
def count(by: int, context: Any) -> Any:
    """Adds to a number from a thread of its own too, and tells what it finds."""
    other = threading.Thread(target=lambda: context.metadata.increment("count", by))
    other.start()
    context.metadata.increment("count", by)
    other.join()
    context.metadata.set(
        "seen", {"count": context.metadata.get("count"), "none": context.metadata.get("x", 7)}
    )
    return context.metadata.all()


@handler("isolated.overfill", isolated=True, retry={"maxAttempts": 1})
def overfill(_input: Any, context: Any) -> None:
    context.metadata.set("large", "x" * 64_000)
