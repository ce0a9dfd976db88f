"""Triggers, compiled: what starts an instance when an event is published, or at the times of a schedule.

Nothing of the instance is there when a trigger is asked: conditions and values read the event and `now`, those of a
schedule what is known of its run (`RUN_NAMES`). Event patterns match as those of transitions do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from statechart.draft import KERNEL, Draft
from statechart.env import Env, Json
from statechart.expressions import Meter
from statechart.guards import Guard, StateIn

if TYPE_CHECKING:
    from statechart.chart import Chart
    from statechart.templates import Value

RUN_NAMES = ("scheduledAt", "firedAt", "scheduleId")


@dataclass(frozen=True, slots=True)
class CompiledTrigger:
    """One trigger of a chart. `event` None: it is a schedule's."""

    name: str
    event: str | None
    condition: Guard | None
    business_key: Value
    input: Value | None

    def paths(self) -> Iterator[tuple[str, frozenset[str]]]:
        """What each member reads."""
        if self.condition is not None:
            for guard in _flat(self.condition):
                yield "condition", guard.paths
        yield "businessKey", self.business_key.paths
        if self.input is not None:
            yield "input", self.input.paths

    def ask(self, chart: Chart, event: Json, env: Env, meter: Meter) -> tuple[Json, Json] | None:
        """(business key, input) of the instance that `event` starts, or None where the condition does not hold.

        Without an `input`, it is the event. All expressions share `meter`, which tells afterwards what they took. Raises `ExpressionFailed` and
        `ActionFailed`.
        """
        draft = Draft(chart, _NOTHING_YET, env)
        draft.scope.event = event
        draft.scope.meter = meter
        if self.condition is not None and not self.condition.holds(draft):
            return None
        key = self.business_key.evaluate(draft.scope)
        return key, event if self.input is None else self.input.evaluate(draft.scope)


_NOTHING_YET: dict[str, Json] = {
    "kernel": KERNEL,
    "status": "active",
    "configuration": [],
    "context": {},
    "input": None,
    "instance": {},
    "history": {},
    "tasks": {},
    "timers": {},
    "children": {},
    "counts": {},
    "output": None,
    "error": None,
}


def asks_for_states(guard: Guard) -> bool:
    """Does a guard, or any part of it, ask which states are active?"""
    return any(isinstance(part, StateIn) for part in _flat(guard))


def _flat(guard: Guard) -> Iterator[Guard]:
    pending = [guard]
    while pending:
        one = pending.pop()
        yield one
        pending.extend(one.parts)


def is_pattern(text: str) -> bool:
    """Tell whether a text is an event's type, `foo.*` or `*`."""
    if text == "*":
        return True
    name = text.removesuffix(".*")
    return bool(name) and len(text) <= 200 and name == name.strip() and "*" not in name


def without_states(document: Mapping[str, Json]) -> dict[str, Json]:
    """A document with the same triggers and the guards that they name, and one state instead of those that it has, which may be thousands.

    `document` is one that compiles; nothing of an instance is there when its triggers are asked, so they mean the same.
    """
    triggers, guards = document.get("triggers", []), document.get("guards") or {}
    named: dict[str, Json] = {}
    pending: list[Json] = [triggers]
    while pending:
        one = pending.pop()
        if isinstance(one, str):
            if one in guards and one not in named:
                named[one] = guards[one]
                pending.append(guards[one])
        elif isinstance(one, Mapping):
            pending.extend(one.values())
        elif isinstance(one, list):
            pending.extend(one)
    return {
        "id": "triggers",
        "initial": "asked",
        "states": {"asked": {"type": "final"}},
        "guards": named,
        "triggers": triggers,
    }


def patterns_of(event_type: str) -> Sequence[str]:
    """Every pattern that matches a type: itself, `*`, and `a.b.*` for each of its beginnings, its own included."""
    parts = event_type.split(".")
    return [event_type, "*", *(".".join(parts[:count]) + ".*" for count in range(1, len(parts) + 1))]
