"""The other workflow of the chaos suite: one chart in which each kind of work is met once that is more than a handler.

A MAP of four items, two at a time; a POLL; a TIMER; an HTTP request; a mail; an AI under policy whose answer becomes an event;
a person. It hears ADD, LATER and CLOSE as the first chart does and ends in the same kind of context, so that one judge serves
both. `Clerk` is the person.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any

from tests.support.chaos_callers import LONGEST_PAUSE_SECONDS, Resident
from tests.support.chaos_chart import CHART, assign
from tests.support.http_server import ok

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


class Amounts:
    """The other end of the HTTP request: answers with the amount, or refuses while it is down. Counts what it refused."""

    def __init__(self) -> None:
        self.is_down = False
        self.refused = 0
        self._good = ok(b'{"amount": %d}' % AMOUNTS["http"], "Content-Type: application/json")
        self._bad = ok(status="503 Service Unavailable")

    def __call__(self, connection: socket.socket, _request: bytes) -> None:
        is_down = self.is_down
        self.refused += is_down
        connection.sendall(self._bad if is_down else self._good)


class Clerk(Resident):
    """The person: completes each open HUMAN task."""

    pause = LONGEST_PAUSE_SECONDS / 2
    EXPECTED = (200, 409)
    """409: its instance was cancelled, or an answer got lost and this is the second one."""

    def __init__(self, url: str, key: str) -> None:
        super().__init__(url, key)
        self.completed = 0
        self.refused: list[str] = []

    def look(self) -> None:
        for task in self.caller.find("/tasks", {"type": "HUMAN", "status": "running", "limit": "200"}):
            path = f"/tasks/{task['id']}/complete"
            response = self.caller.ask(path, {"output": {"amount": AMOUNTS["human"]}}, path)
            self.completed += response.is_success
            if response.status_code not in self.EXPECTED:
                self.refused.append(f"{response.status_code}: {response.text[:300]}")
