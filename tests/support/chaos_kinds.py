"""The other workflow of the chaos suite: one chart in which each kind of work is met once that is more than a handler.

A MAP of four items, two at a time; a POLL; a TIMER; an HTTP request; a mail; an AI under policy whose answer becomes an event;
a person. It hears ADD, LATER and CLOSE as the first chart does and ends in the same kind of context, so that one judge serves
both. `Clerk` is the person.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from tests.support.chaos_callers import ANSWER_SECONDS, LONGEST_PAUSE_SECONDS, Caller, Counts
from tests.support.chaos_chart import CHART, assign
from tests.support.http_server import Answer, fixed, ok

KEY = "chaos-kinds"
ITEMS = (1, 2, 4, 8)
AMOUNTS = {"poll": 100, "timer": 1_000, "http": 10_000, "mail": 100_000, "ai": 1_000_000, "human": 10_000_000}
"""What each kind brings; the items of the MAP bring the digits below a hundred."""
SUM = sum(ITEMS) + sum(AMOUNTS.values())
QUICK: Mapping[str, Any] = {"maxAttempts": 10, "interval": "100ms", "backoffRate": 1.5, "maxInterval": "1s"}
"""For work whose other end is hurt as well: it is tried until there is an answer."""


def _invoke(
    name: str, kind: str, target: str, given: Mapping[str, Any], add: str, **more: Any
) -> dict[str, Any]:
    done = {"target": target, "actions": [assign("sum", f"${{context.sum + {add}}}")]}
    return {"invoke": {"src": kind, "id": name, "input": given, "onDone": done, "retry": QUICK, **more}}


def chart(url: str) -> dict[str, Any]:
    """The definition; `url` answers with the amount of the HTTP request."""
    decision = {"event": "SORTED", "payload": {"amount": AMOUNTS["ai"]}, "reason": "told to", "confidence": 1}
    items = " + ".join(f"event.output.results[{index}].amount" for index in range(len(ITEMS)))
    states: dict[str, Any] = {
        "map": _invoke(
            "map", "MAP", "poll",
            {
                "items": list(ITEMS), "concurrency": 2,
                "task": {"type": "chaos.work", "name": "item-${index}", "input": {"amount": "${item}", "ms": 80}},
            },
            items,
        ),
        "poll": _invoke(
            "poll", "POLL", "timer",
            {
                "task": {"type": "chaos.check", "input": {"amount": AMOUNTS["poll"], "since": "${string(now)}"}},
                "until": "output.isReady", "interval": "100ms",
            },
            "event.output.amount",
        ),
        "timer": _invoke("timer", "TIMER", "http", {"duration": "150ms"}, str(AMOUNTS["timer"])),
        "http": _invoke("http", "HTTP", "mail", {"method": "POST", "url": url}, "event.output.body.amount"),
        "mail": _invoke(
            "mail", "EMAIL", "ai", {"to": "clerk@example.com", "subject": "Chaos"}, str(AMOUNTS["mail"])
        ),
        "ai": {
            "invoke": {
                "src": "AI",
                "id": "ai",
                "input": {"provider": "scripted", "model": "scripted", "messages": [{"role": "user", "content": "Sort it."}], "script": [json.dumps(decision)]},
                "policy": {"allowedEvents": ["SORTED"], "allowDirectEmit": True},
                "retry": QUICK,
            },
            "on": {"SORTED": {"target": "human", "actions": [assign("sum", "${context.sum + event.amount}")]}},
        },
        "human": _invoke(
            "human", "HUMAN", "open", {"amount": AMOUNTS["human"]}, "event.output.amount", assignee="clerk"
        ),
        "open": CHART["states"]["open"],
        "done": {"type": "final"},
    }  # fmt: skip
    states["map"]["entry"] = CHART["states"]["first"]["entry"][:1]  # the LATER
    return {**CHART, "id": KEY, "initial": "map", "states": states}


def amount_server() -> Answer:
    """The other end of the HTTP request."""
    return fixed(ok(b'{"amount": %d}' % AMOUNTS["http"], "Content-Type: application/json"))


class Clerk:
    """The person: completes each open HUMAN task by the API, and asks again each half second."""

    def __init__(self, url: str, key: str) -> None:
        self.completed = 0
        self.refused: list[str] = []
        self.errors: list[BaseException] = []
        self._ending = threading.Event()
        self._caller = Caller(url, key, Counts(), self._ending)
        self._thread = threading.Thread(target=self._run, name="clerk", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join(ANSWER_SECONDS + 10)
        self._caller.close()
        if error is None and self.errors:
            raise self.errors[0]

    def _run(self) -> None:
        try:
            while not self._ending.wait(LONGEST_PAUSE_SECONDS / 2):
                self._complete(
                    self._caller.find("/tasks", {"type": "HUMAN", "status": "running", "limit": "200"})
                )
        except BaseException as error:  # noqa: BLE001 - kept for the thread of the test, which raises it
            if not self._ending.is_set():
                self.errors.append(error)

    def _complete(self, tasks: Sequence[Mapping[str, Any]]) -> None:
        for task in tasks:
            path = f"/tasks/{task['id']}/complete"
            response = self._caller.ask(path, {"output": {"amount": AMOUNTS["human"]}}, path)
            self.completed += response.is_success
            if response.status_code not in (
                200,
                202,
                409,
            ):  # 409: cancelled, or completed by an answer that got lost
                self.refused.append(f"{response.status_code}: {response.text[:300]}")
