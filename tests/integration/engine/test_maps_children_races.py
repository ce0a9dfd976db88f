"""A MAP over workflows is retried while its children fail, are retried, cancelled and end, in several processes at once: nobody is left waiting."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from common.errors import SignalboxError
from common.lifecycle import FINAL, InstanceStatus
from orchestrator.advance import advance_ready
from orchestrator.advancing import Advancing
from orchestrator.map_children import start_items
from tests.integration.engine.documents import COUNTER, Document
from tests.integration.engine.test_maps_children import children, over_workflows
from tests.integration.engine.test_maps_children_again import skip
from tests.support.engine import LIMITS, Engine

SECONDS = float(os.environ.get("RACE_SECONDS", "2"))
SUM: Document = {**COUNTER, "output": "${context.seen}"}


def until(end: float, work: Callable[[], Any]) -> None:
    """Work again and again; a refusal is an answer."""
    while time.monotonic() < end:
        try:
            work()
        except SignalboxError:
            time.sleep(0.001)


@pytest.mark.parametrize("concurrency", [2, 6])
def test_nobody_is_left_waiting(engine: Engine, concurrency: int) -> None:
    engine.apply(SUM)
    document = over_workflows(catches=False, concurrency=concurrency)
    parents = [str(engine.start(document, input={"items": list(range(6))})) for _ in range(2)]
    engine.advance()
    end = time.monotonic() + SECONDS

    def step() -> None:
        other = replace(engine, worker=engine.worker)
        other.advancing = Advancing(engine.database, LIMITS.max_context_bytes)
        advance_ready(other.advancing, until=time.monotonic() + 1)
        start_items(engine.database, LIMITS)

    def disturb() -> None:
        alive = children(engine)
        what = random.choice(("fail", "fail", "stop", "retry", "cancel", "parent", "parent"))
        if not alive:
            what = "parent"
        child = random.choice(alive or parents)
        match what:
            case "fail":
                engine.send(child, "ADD")
            case "stop":
                engine.send(child, "STOP")
            case "parent":
                engine.control("retry", random.choice(parents))
            case _:
                engine.control(what, child)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(until, end, work) for work in (step, step, disturb, disturb)]:
            done.result(60)

    for _ in range(20):
        engine.settle()
        for (child,) in engine.execute("SELECT id FROM instances WHERE parent_key IS NOT NULL"):
            if engine.status(child) is InstanceStatus.FAILED:
                skip(engine, child)  # what it failed on will never succeed
            if engine.status(child) not in FINAL:
                engine.send(child, "STOP")
        engine.settle()
        for parent in parents:
            if engine.status(parent) is InstanceStatus.FAILED:
                engine.control("retry", parent)
        if all(engine.status(parent) in FINAL for parent in parents):
            break
    assert [engine.status(parent) for parent in parents] == [InstanceStatus.COMPLETED] * 2
    assert [len(engine.context(parent)["answer"]["results"]) for parent in parents] == [6, 6]
