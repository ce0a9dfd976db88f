"""Random statecharts and events: small charts in which much can happen."""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import strategies as st

Json = Any
EVENTS = ("A", "B", "C", "foo.bar", "foo.baz")
RAISED = ("R", "S", "foo.bar")
GUARDS = ("context.n % 2 == 0", "context.n < 5", "context.n > 2", "context.missing > 1", "true")
MAX_DEPTH = 3


def documents(*, eventless: bool = True) -> st.SearchStrategy[dict[str, Json]]:
    """Documents with id "m"; every state has a target `#m.path`, and guards never read the event.

    A document is written from one random number and not draw by draw: a chart takes hundreds of choices, and
    choosing them one by one costs more than all that the tests do with it.
    """
    return st.integers(0, 2**32 - 1).map(lambda seed: document(Random(seed), eventless=eventless))


def events() -> st.SearchStrategy[list[Json]]:
    """Events from outside, and moves of the clock in seconds as numbers."""
    return st.lists(st.sampled_from([*({"type": name} for name in EVENTS), 1, 30]), max_size=8)


def document(random: Random, *, eventless: bool = True) -> dict[str, Json]:
    root = _states(random, 0)
    writer = _Writer(random, eventless=eventless)
    writer.collect(root, ())
    writer.furnish()
    return {"id": "m", "context": {"n": 0, "log": []}, **root}


def _states(random: Random, depth: int) -> dict[str, Json]:
    kinds = (
        ["compound", "compound", "parallel"] if depth == 0 else ["atomic", "atomic", "compound", "parallel"]
    )
    kind = random.choice(kinds if depth < MAX_DEPTH else ["atomic"])
    if kind == "atomic":
        return {}
    names = [f"{'abcd'[depth]}{number}" for number in range(random.randint(1, 3))]
    states = {name: _states(random, depth + 1) for name in names}
    body: dict[str, Json] = {"states": states}
    if kind == "parallel":
        body["type"] = "parallel"
    else:
        body["initial"] = random.choice(names)
        if random.random() < 0.5:
            states["end"] = {"type": "final"}
    if random.random() < 0.33:
        states["memory"] = {"type": "history", "history": random.choice(["shallow", "deep"])}
    return body


class _Writer:
    """Writes what the states of a tree do."""

    def __init__(self, random: Random, *, eventless: bool) -> None:
        self.random = random
        self.eventless = eventless
        self.places: list[tuple[tuple[str, ...], dict[str, Json]]] = []

    def collect(self, body: dict[str, Json], keys: tuple[str, ...]) -> None:
        self.places.append((keys, body))
        for name, inner in body.get("states", {}).items():
            self.collect(inner, (*keys, name))

    def chance(self, one_in: int) -> bool:
        return self.random.randint(1, one_in) == 1

    def pick(self, options: Any) -> Any:
        return self.random.choice(list(options))

    def furnish(self) -> None:
        for keys, body in self.places:
            if body.get("type") == "history":
                continue
            name = ".".join(keys) or "root"
            if self.chance(2):
                body["entry"] = [self.log(f"+{name}"), *self.actions()]
                body["exit"] = [self.log(f"-{name}"), *self.actions()]
            if body.get("type") == "final":
                continue
            body["on"] = {self.pick((*EVENTS, *RAISED, "foo.*", "*")): self.transitions() for _ in range(2)}
            if keys and self.chance(3):
                body["after"] = {self.pick(("1s", "10s")): self.transition()}
            if keys and self.chance(4):
                body["invoke"] = {"src": "work", "id": name, "onDone": self.transition(), "outputKey": "got"}
            if "states" in body and keys and self.chance(2):
                body["onDone"] = self.transition()
            if self.eventless and self.chance(5):
                body["always"] = {
                    "target": self.target(),
                    "guard": {"type": "and", "guards": ["context.n < 8", self.guard()]},
                    "actions": self.count(),
                }

    def transitions(self) -> Json:
        return self.pick(({}, [self.transition(), self.transition()], self.transition(), self.transition()))

    def transition(self) -> dict[str, Json]:
        transition: dict[str, Json] = {"actions": self.actions()}
        if not self.chance(4):
            transition["target"] = self.target()
        if self.chance(3):
            transition["guard"] = self.guard()
        if self.chance(4):
            transition["reenter"] = True
        return transition

    def target(self) -> str:
        keys, _ = self.pick(self.places[1:])
        return "#m." + ".".join(keys)

    def guard(self) -> Json:
        inner = self.pick(GUARDS)
        state = ".".join(self.pick([keys for keys, body in self.places[1:] if body.get("type") != "history"]))
        state_in = {"type": "stateIn", "state": state}
        return self.pick(
            (inner, state_in, {"type": "not", "guard": inner}, {"type": "or", "guards": [inner, state_in]})
        )

    def actions(self) -> list[dict[str, Json]]:
        one = (
            self.count(),
            {"type": "assign", "path": "deep.er", "value": "${context.n}"},
            {"type": "assign", "path": "broken", "value": "${context.missing}"},
            {"type": "raise", "event": self.pick(RAISED)},
            {"type": "send", "event": self.pick(RAISED)},
            {"type": "raise", "event": self.pick(RAISED), "delay": "5s", "id": "later"},
            {"type": "cancel", "id": "later"},
            {"type": "createTask", "task": {"type": "work", "name": "w", "input": {"n": "${context.n}"}}},
            {"type": "emit", "event": "OUT"},
        )
        return [self.pick(one) for _ in range(self.pick((0, 0, 1, 2)))]

    @staticmethod
    def count() -> dict[str, Json]:
        return {"type": "assign", "path": "n", "value": "${context.n + 1}"}

    @staticmethod
    def log(text: str) -> dict[str, Json]:
        return {"type": "assign", "path": "log", "value": f"${{context.log + ['{text}']}}"}
