"""What a case is about: groups by the features of the language that its chart uses. A case may be in many."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

Json: TypeAlias = Any
Body: TypeAlias = Mapping[str, Json]

_COMPOSED = ("and", "or", "not")


def groups_of(case: Body) -> list[str]:
    """The names of the groups, in the order of `GROUPS`."""
    chart = _Chart(case["spec"], case["events"])
    return [name for name, belongs in GROUPS.items() if belongs(chart)]


class _Chart:
    """A document taken apart: its states, transitions, actions and guards, each once."""

    def __init__(self, spec: Body, events: list[Body]) -> None:
        self.events = events
        self.states = list(_states(spec, ()))
        self.transitions = [
            (keys, table, one) for keys, body in self.states for table, one in _transitions(body)
        ]
        self.actions = [action for _, body in self.states for action in _actions(body)]
        self.guards = [guard for _, _, one in self.transitions for guard in _guards(one.get("guard"))]

    def has_type(self, kind: str) -> bool:
        return any(body.get("type") == kind for _, body in self.states)

    def has_table(self, *names: str) -> bool:
        return any(table in names for _, table, _ in self.transitions)

    def has_action(self, *kinds: str) -> bool:
        return any(action.get("type") in kinds for action in self.actions)

    def remembers(self, *kinds: Json) -> bool:
        return any(_history_of(body) in kinds for _, body in self.states)

    def targets_own_history(self) -> bool:
        """A transition to a history state from inside the state that it remembers for."""
        histories = {keys for keys, body in self.states if _history_of(body)}
        return any(
            keys[: len(history) - 1] == history[:-1] and history[-1] in re.split(r"[.#]", target)
            for keys, _, one in self.transitions
            for target in _targets(one)
            for history in histories
        )


def _is_deep(chart: _Chart) -> bool:
    return any(len(keys) > 2 for keys, _ in chart.states)


GROUPS: Mapping[str, Callable[[_Chart], bool]] = {
    "hierarchy": _is_deep,
    "parallel": lambda chart: chart.has_type("parallel"),
    "history-shallow": lambda chart: chart.remembers("shallow"),
    "history-deep": lambda chart: chart.remembers("deep"),
    "history-inside": lambda chart: chart.targets_own_history(),
    "done": lambda chart: chart.has_table("onDone"),
    "output": lambda chart: any("output" in body for _, body in chart.states),
    "final": lambda chart: chart.has_type("final"),
    "always": lambda chart: chart.has_table("always"),
    "raise": lambda chart: chart.has_action("raise", "send"),
    "wildcards": lambda chart: any(table.endswith("*") for _, table, _ in chart.transitions),
    "multi-target": lambda chart: any(len(_targets(one)) > 1 for _, _, one in chart.transitions),
    "state-in": lambda chart: any(isinstance(g, dict) and g.get("type") == "stateIn" for g in chart.guards),
    "guards": lambda chart: any(isinstance(g, dict) and g.get("type") in _COMPOSED for g in chart.guards),
    "after": lambda chart: (
        any(table == "after" for _, table, _ in chart.transitions)
        and any("advance_ms" in event for event in chart.events)
    ),
    "delayed-events": lambda chart: any(
        action.get("type") in ("raise", "send") and "delay" in action for action in chart.actions
    ),
    "reenter": lambda chart: any(one.get("reenter") for _, _, one in chart.transitions),
    "targetless": lambda chart: any("target" not in one and one for _, _, one in chart.transitions),
    "forbidden": lambda chart: any(not one for _, _, one in chart.transitions),
    "invoke": lambda chart: any(body.get("invoke") for _, body in chart.states),
    "order-of-actions": lambda chart: sum("entry" in body or "exit" in body for _, body in chart.states) > 3,
    "assigns": lambda chart: chart.has_action("assign"),
}


def _states(body: Body, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Body]]:
    yield keys, body
    for name, inner in (body.get("states") or {}).items():
        yield from _states(inner, (*keys, name))


def _transitions(body: Body) -> Iterator[tuple[str, Body]]:
    """Each with the event's descriptor, or else the word under which it is written."""
    for descriptor, candidates in (body.get("on") or {}).items():
        yield from ((descriptor, one) for one in _candidates(candidates))
    for candidates in (body.get("after") or {}).values():
        yield from (("after", one) for one in _candidates(candidates))
    for word in ("always", "onDone"):
        yield from ((word, one) for one in _candidates(body.get(word) or []))
    for invoke in _listed(body.get("invoke")):
        for word in ("onDone", "onError"):
            yield from ((f"invoke.{word}", one) for one in _candidates(invoke.get(word) or []))


def _candidates(written: Json) -> list[Body]:
    return [{"target": one} if isinstance(one, str) else one for one in _listed(written)]


def _targets(transition: Body) -> list[str]:
    return [target for target in _listed(transition.get("target")) if isinstance(target, str)]


def _actions(body: Body) -> Iterator[Body]:
    initial = body.get("initial")
    holders = [body.get("entry"), body.get("exit"), *(one.get("actions") for _, one in _transitions(body))]
    if isinstance(initial, dict):
        holders.append(initial.get("actions"))
    for holder in holders:
        yield from (action for action in _listed(holder) if isinstance(action, dict))


def _guards(guard: Json) -> Iterator[Json]:
    if guard is None:
        return
    yield guard
    if isinstance(guard, dict):
        for inner in [*_listed(guard.get("guards")), *_listed(guard.get("guard"))]:
            yield from _guards(inner)


def _history_of(body: Body) -> str | None:
    written = body.get("history")
    if body.get("type") == "history" and not written:
        return "shallow"
    if isinstance(written, bool):
        return "shallow" if written else None
    return str(written) if written else None


def _listed(value: Json) -> list[Json]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
