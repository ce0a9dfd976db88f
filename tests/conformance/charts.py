"""Random statecharts with events for them, in the document format, as far as XState v5 has the same.

    random_case(Random("seed/7"), "7")  ->  {"id", "spec", "events"}

The same random numbers give the same case. Every chart records what it does in `context.log`, so that comparing
contexts compares the order of all actions. Guards and values have an answer for any data (XState has no
`error.execution`), and what could go round for ever is mostly bounded by the counter `n`, which only rises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeAlias

Json: TypeAlias = Any
Body: TypeAlias = dict[str, Json]

EXTERNAL = ("A", "B", "C", "D", "foo", "foo.bar", "foo.bar.baz", "foobar")
INTERNAL = ("R1", "R2", "R3", "int.x")
DESCRIPTORS = (*EXTERNAL, *INTERNAL, "*", "foo.*", "foo.bar.*", "int.*", "xstate.done.*")
CAUSED = (*INTERNAL, "*", "int.*", "xstate.done.*")  # what the machine may cause itself
NAMES = ("a", "b", "c", "d", "idle", "busy", "s1", "s2", "10", "2", "x-y", "A")
DELAYS = (1, 5, 10, 10, 20, 50, 100)
NAMED_DELAYS: Body = {"short": 10, "long": "1s", "counted": "${context.m + 3}"}
NAMED_GUARDS: Body = {
    "isEven": "context.n % 2 == 0",
    "isOdd": {"type": "not", "guard": "isEven"},
    "both": {"type": "and", "guards": ["isOdd", "context.m < 4"]},
    "atLeast": "context.n >= params.least",
}
FUEL = 12  # how often what is bounded may happen
MAX_DEPTH = 4

GUARDS = (
    "context.n % 2 == 0",
    "context.n < 4",
    "context.n > 2",
    "context.m != 3",
    "context.m <= context.n",
    "context.n in [1, 3, 5, 6]",
    "context.s == 'on'",
    "context.o.a > 1 || context.n > 3",
    "!(context.n == 2)",
    "size(context.log) % 2 == 0",
    "event.type == 'A'",
    "event.type in ['B', 'R1', 'foo.bar']",
    "event.type.startsWith('xstate.')",
    "has(event.x) && event.x > 2",
    "has(event.output) && event.output == context.m",
    "true",
    "false",
)
VALUES: tuple[tuple[str, Json], ...] = (
    ("m", "${context.m + 1}"),
    ("m", "${context.n % 3}"),
    ("m", "${(context.m * 2) % 7}"),
    ("m", "${has(event.x) ? event.x : 0}"),
    ("m", 2),
    ("s", "${context.s == 'on' ? 'off' : 'on'}"),
    ("s", "at ${context.n} by ${event.type}"),
    ("s", "$.s"),
    ("o", {"a": "${context.m}", "l": ["${context.n}", {"s": "$.s"}]}),
    ("o.a", "${context.o.a + 1}"),
    ("o.b.c", "${[context.n, context.m]}"),
    ("last", "${event.type}"),
    ("last", "$.nothing.here"),
    ("given", "${has(event.output) ? event.output : null}"),
)
OUTPUTS: tuple[Json, ...] = (
    "${context.m}",
    "${context.n + context.m}",
    {"log": "${size(context.log)}", "by": "${event.type}"},
    7,
    "text",
)


@dataclass
class Place:
    """A state on the way to being written: its keys from the root, its body, the place around it."""

    keys: tuple[str, ...]
    body: Body
    parent: Place | None
    inside: list[Place] = field(default_factory=list)

    @property
    def is_history(self) -> bool:
        return self.body.get("type") == "history" or "history" in self.body

    @property
    def is_final(self) -> bool:
        return self.body.get("type") == "final"

    @property
    def is_parallel(self) -> bool:
        return self.body.get("type") == "parallel"

    @property
    def regions(self) -> list[Place]:
        return [place for place in self.inside if not place.is_history]

    def is_below(self, other: Place) -> bool:
        return len(self.keys) > len(other.keys) and self.keys[: len(other.keys)] == other.keys


def random_case(random: Random, name: str) -> Body:
    """A statechart and events for it."""
    return ChartWriter(random).case(name)


class ChartWriter:
    """Writes one case: first the tree of states, then what they do, then events that have a chance to matter."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.counter = 0
        self.places: list[Place] = []
        self.root_id = ""
        self.invokes: list[str] = []
        self.timers: list[str] = []
        self.guards = NAMED_GUARDS if self.chance(30) else {}
        self.delays = NAMED_DELAYS if self.chance(30) else {}

    def chance(self, percent: int) -> bool:
        return self.random.random() * 100 < percent

    def pick(self, options: Any) -> Any:
        return self.random.choice(list(options))

    def next(self, prefix: str) -> str:
        self.counter += 1
        return f"{prefix}{self.counter}"

    def case(self, name: str) -> Body:
        root = self.grow(None, (), self.tree_kind(0))
        if self.chance(80):
            root.body["id"] = self.pick(("m", "machine", "the-chart"))
        self.root_id = root.body.get("id", "(machine)")
        root.body["context"] = {"n": 0, "m": 0, "s": "on", "o": {"a": 0}, "log": []}
        if self.guards:
            root.body["guards"] = self.guards
        if self.delays:
            root.body["delays"] = self.delays
        for place in self.places:
            self.furnish(place)
        return {"id": name, "spec": root.body, "events": self.events()}

    # --- the tree

    def tree_kind(self, depth: int) -> str:
        if depth >= MAX_DEPTH or (depth and len(self.places) > 13):
            return "atomic"
        weights = {0: (0, 6, 3), 1: (5, 4, 2), 2: (6, 3, 2)}.get(depth, (7, 2, 1))
        return self.random.choices(("atomic", "compound", "parallel"), weights)[0]

    def grow(self, parent: Place | None, keys: tuple[str, ...], kind: str) -> Place:
        place = Place(keys, {}, parent)
        self.places.append(place)
        if kind == "parallel" or (kind == "compound" and self.chance(20)):
            place.body["type"] = kind
        if kind in ("compound", "parallel"):
            self.grow_inside(place, kind)
        elif kind == "final" or (kind == "atomic" and self.chance(5)):
            place.body["type"] = kind
        if parent is not None and self.chance(12):
            place.body["id"] = self.next("id")
        return place

    def grow_inside(self, place: Place, kind: str) -> None:
        depth = len(place.keys) + 1
        kinds = [self.tree_kind(depth) for _ in range(self.random.choices((1, 2, 3, 4), (2, 5, 3, 1))[0])]
        if self.chance(40 if kind == "compound" else 8):
            kinds.insert(self.random.randint(0, len(kinds)), "final")
        for _ in range(self.random.choices((0, 1, 2), (6, 3, 1))[0]):
            kinds.insert(self.random.randint(0, len(kinds)), "history")
        names = self.names(len(kinds))
        place.body["states"] = {}
        for name, child in zip(names, kinds, strict=True):
            inner = (*place.keys, name)
            grown = self.grow_history(place, inner) if child == "history" else self.grow(place, inner, child)
            place.inside.append(grown)
            place.body["states"][name] = grown.body
        if kind == "compound":
            place.body["initial"] = self.initial(place)

    def grow_history(self, parent: Place, keys: tuple[str, ...]) -> Place:
        body: Body = self.pick(
            (
                {"type": "history"},
                {"type": "history", "history": "shallow"},
                {"type": "history", "history": "deep"},
                {"type": "history", "history": "deep"},
                {"history": "deep"},
                {"history": True},
            )
        )
        place = Place(keys, dict(body), parent)
        self.places.append(place)
        if self.chance(10):
            place.body["id"] = self.next("id")
        return place

    def names(self, count: int) -> list[str]:
        drawn: list[str] = []
        while len(drawn) < count:
            name = self.pick(NAMES) if self.chance(75) else self.next("s")
            if name not in drawn:
                drawn.append(name)
        return drawn

    def initial(self, place: Place) -> Json:
        target = self.pick(place.regions)
        remembering = [inner for inner in place.inside if inner.is_history]
        if remembering and self.chance(15):
            target = self.pick(remembering)
            target.body["target"] = self.pick(place.regions).keys[-1]
        key = target.keys[-1]
        if self.chance(12):
            return {"target": key, "actions": self.actions(f"initial {'.'.join(place.keys)}")}
        return key

    # --- what states do

    def furnish(self, place: Place) -> None:
        if place.is_history:
            self.furnish_history(place)
            return
        body, name = place.body, ".".join(place.keys) or "root"
        if self.chance(60):
            body["entry"] = self.actions(f"+{name}")
        if self.chance(60):
            body["exit"] = self.actions(f"-{name}")
        if place.is_final:
            if self.chance(40):
                body["output"] = self.pick(OUTPUTS)
            if self.chance(80):
                return  # a final state may still answer while the machine goes on around it
        on = self.table(place)
        if on:
            body["on"] = on
        if self.chance(14):
            body["always"] = self.listed([self.bounded(place) for _ in range(self.random.randint(1, 2))])
        if self.chance(14):
            body["after"] = {
                self.after_key(place): self.delayed_candidates(place)
                for _ in range(self.random.randint(1, 2))
            }
        if place.inside and (place.parent is not None or self.chance(10)) and self.chance(50):
            body["onDone"] = self.candidates(place, is_internal=True)
        if self.chance(5):
            body["invoke"] = self.invoke(place)
        if place.parent is None and self.chance(20):
            body["output"] = self.pick(("${event.output}", *OUTPUTS))
        if self.chance(3):
            body |= {"tags": ["x"], "meta": {"k": 1}, "description": "noise"}

    def furnish_history(self, place: Place) -> None:
        assert place.parent is not None
        if "target" in place.body or self.chance(55):
            return
        siblings = place.parent.regions
        chosen = self.pick(siblings)
        options = [chosen.keys[-1], chosen.keys[-1], self.absolute(chosen)]
        options += [".".join(inner.keys[len(place.keys) - 1 :]) for inner in chosen.regions]
        place.body["target"] = self.pick(options)
        if place.parent.is_parallel and self.chance(60):
            place.body["target"] = [self.absolute(self.below(region)) for region in siblings]

    def table(self, place: Place) -> Body:
        on: Body = {}
        for _ in range(self.random.choices((0, 1, 2, 3), (3, 4, 3, 2))[0]):
            descriptor = self.pick(DESCRIPTORS)
            on[descriptor] = self.candidates(place, is_internal=descriptor in CAUSED)
        return on

    def candidates(self, place: Place, *, is_internal: bool = False) -> Json:
        one: Callable[[Place], Body] = self.bounded if is_internal and self.chance(95) else self.transition
        match self.random.choices(("forbid", "target", "one", "many", "list"), (1, 3, 8, 3, 1))[0]:
            case "forbid":
                return self.pick(({}, {"description": "forbidden"}))
            case "target" if not is_internal:
                return self.target(place)
            case "many":
                return [
                    one(place) if is_internal or self.chance(85) else self.target(place)
                    for _ in range(self.random.randint(2, 3))
                ]
            case "list":
                return [one(place)]
            case _:
                return one(place)

    def transition(self, place: Place) -> Body:
        body: Body = {}
        if self.chance(80):
            body["target"] = self.targets(place)
        if self.chance(35):
            body["guard"] = self.guard()
        if self.chance(50):
            body["actions"] = self.actions(self.next("t"))
        if self.chance(20):
            body["reenter"] = self.chance(85)
        return body

    def bounded(self, place: Place) -> Body:
        """A transition that uses up fuel: it may be eventless, or answer to an event that it causes itself."""
        body = self.transition(place)
        fuel = f"context.n < {self.random.randint(2, FUEL)}"
        body["guard"] = {"type": "and", "guards": [fuel, body["guard"]]} if "guard" in body else fuel
        body["actions"] = [assign("n", "${context.n + 1}"), *listed(body.get("actions", []))]
        return body

    def after_key(self, place: Place) -> str:
        key = self.pick(self.delays) if self.delays and self.chance(30) else str(self.pick(DELAYS))
        if not self.delays and self.chance(4):
            key = self.pick(("2s", "100ms"))
        self.timers.append(f"xstate.after.{key}.{self.identifier(place)}")
        return key

    def delayed_candidates(self, place: Place) -> Json:
        """As `candidates`; XState reads no text inside a list here."""
        candidates = self.candidates(place)
        if isinstance(candidates, list):
            return [one if isinstance(one, dict) else {"target": one} for one in candidates]
        return candidates

    def invoke(self, place: Place) -> Body:
        body: Body = {"src": "worker"}
        identifier = f"0.{self.identifier(place)}"
        if self.chance(60):
            identifier = body["id"] = self.next("task")
        self.invokes.append(identifier)
        if self.chance(80):
            body["onDone"] = self.candidates(place)
        if self.chance(70):
            body["onError"] = self.candidates(place)
        return body

    # --- targets

    def identifier(self, place: Place) -> str:
        return place.body.get("id") or ".".join((self.root_id, *place.keys))

    def absolute(self, place: Place) -> str:
        return f"#{self.identifier(place)}"

    def references(self, source: Place, target: Place) -> Iterator[str]:
        """Every way in which `source` may write `target`."""
        yield self.absolute(target)
        yield f"#{'.'.join((self.root_id, *target.keys))}"
        around = source.parent
        if around is not None and target.is_below(around):
            yield ".".join(target.keys[len(around.keys) :])
        if target.is_below(source):
            yield f".{'.'.join(target.keys[len(source.keys) :])}"
        for ancestor in self.places:
            if "id" in ancestor.body and ancestor.parent is not None and target.is_below(ancestor):
                yield f"#{ancestor.body['id']}.{'.'.join(target.keys[len(ancestor.keys) :])}"

    def target(self, source: Place) -> str:
        others = self.places[1:]
        near = [place for place in others if source.parent is None or place.is_below(source.parent)]
        chosen = self.pick(near if self.chance(50) else others)
        return str(self.pick(tuple(self.references(source, chosen))))

    def targets(self, source: Place) -> Json:
        parallels = [place for place in self.places if place.is_parallel and len(place.regions) > 1]
        if parallels and self.chance(20):
            return self.multiple(source, self.pick(parallels))
        target = self.target(source)
        return [target] if self.chance(8) else target

    def multiple(self, source: Place, parallel: Place) -> list[str]:
        regions = list(parallel.regions)
        self.random.shuffle(regions)
        chosen = regions[: self.random.randint(2, 3)]
        return [str(self.pick(tuple(self.references(source, self.below(region))))) for region in chosen]

    def below(self, region: Place) -> Place:
        """The region itself, or something inside it."""
        inside = [place for place in self.places if place is region or place.is_below(region)]
        chosen: Place = self.pick(inside)
        return chosen

    # --- guards

    def guard(self, depth: int = 0) -> Json:
        kinds = ("expression", "name", "params", "stateIn", "and", "or", "not")
        match self.random.choices(kinds, (8, 3, 2, 5, 2, 2, 2) if depth < 3 else (1, 0, 0, 0, 0, 0, 0))[0]:
            case "name" if self.guards:
                return self.pick(("isEven", "isOdd", "both"))
            case "params" if self.guards:
                return {"type": "atLeast", "params": {"least": self.random.randint(0, 5)}}
            case "stateIn":
                return {"type": "stateIn", "state": self.state_value()}
            case "and" | "or" as kind:
                return {
                    "type": kind,
                    "guards": [self.guard(depth + 1) for _ in range(self.random.randint(1, 3))],
                }
            case "not":
                return {"type": "not", "guard": self.guard(depth + 1)}
            case _:
                return self.pick(GUARDS)

    def state_value(self) -> Json:
        place = self.pick([place for place in self.places[1:] if not place.is_history])
        if self.chance(30):
            return self.absolute(place)
        if self.chance(70):
            return ".".join(place.keys)
        value: Json = place.keys[-1]
        for key in reversed(place.keys[:-1]):
            value = {key: value}
        return value

    # --- actions

    def actions(self, name: str) -> Json:
        actions = [assign("log", f"${{context.log + ['{name}']}}")]
        actions += [self.action() for _ in range(self.random.choices((0, 1, 2), (7, 3, 1))[0])]
        if self.chance(15):
            self.random.shuffle(actions)
        return actions[0] if len(actions) == 1 and self.chance(30) else actions

    def action(self) -> Body:
        kinds = ("count", "assign", "values", "log", "raise", "send", "delay", "cancel", "nothing")
        match self.random.choices(kinds, (4, 6, 2, 2, 5, 2, 3, 2, 1))[0]:
            case "count":
                return assign("n", "${context.n + 1}")
            case "assign":
                return assign(*self.pick(VALUES))
            case "values":
                return {"type": "assign", "values": {"m": "${context.n}", "s": "on", "seen": "${context.m}"}}
            case "log":
                return assign("log", f"${{context.log + [event.type + '@{self.next('l')}']}}")
            case "raise":
                return {"type": "raise", "event": self.event(INTERNAL if self.chance(90) else EXTERNAL)}
            case "send":
                return {"type": "send", "event": self.event(INTERNAL), **self.pick(({}, {"to": "self"}))}
            case "delay":
                return self.delayed()
            case "cancel":
                return {"type": "cancel", "id": f"id{self.random.randint(1, 3)}"}
            case _:
                unseen: Body = self.pick(
                    ({"type": "log", "message": "${context.n}"}, {"type": "emit", "event": "SEEN"})
                )
                return unseen

    def delayed(self) -> Body:
        kind = self.pick(("raise", "send"))
        delay: Json = self.pick((*DELAYS, "20ms", "${context.m + 5}"))
        if self.delays and self.chance(40):
            delay = self.pick(self.delays)
        body = {"type": kind, "event": self.event(INTERNAL), "delay": delay}
        if self.chance(60):
            body["id"] = f"id{self.random.randint(1, 3)}"
        return body

    def event(self, names: tuple[str, ...]) -> Json:
        name = self.pick(names)
        if self.chance(60):
            return name
        return {"type": name, "x": self.pick((1, 5, "${context.n}", "${context.m}"))}

    # --- events

    def events(self) -> list[Body]:
        return [self.given_event() for _ in range(self.random.randint(3, 12))]

    def given_event(self) -> Body:
        kinds = ("external", "clock", "internal", "engine")
        match self.random.choices(kinds, (14, 5, 2, 1 + 2 * bool(self.invokes)))[0]:
            case "clock":
                return {"advance_ms": self.pick((0, 1, 5, 10, 10, 20, 50, 100, 1000, 2500))}
            case "internal":
                return {"type": self.pick(INTERNAL)}
            case "engine":
                return self.engine_event()
            case _:
                event: Body = {"type": self.pick(EXTERNAL)}
                return {**event, "x": self.random.randint(0, 5)} if self.chance(40) else event

    def engine_event(self) -> Body:
        """What the engine would send, sent by hand."""
        place = self.pick(self.places)
        options: list[Body] = [{"type": f"xstate.done.state.{self.identifier(place)}", "output": 3}]
        options += [{"type": name} for name in self.timers]
        for identifier in self.invokes:
            done: Body = {"type": f"xstate.done.actor.{identifier}", "output": self.random.randint(0, 3)}
            options += [done, done, {"type": f"xstate.error.actor.{identifier}", "error": {"message": "no"}}]
        chosen: Body = self.pick(options)
        return chosen

    def listed(self, items: list[Body]) -> Json:
        return items[0] if len(items) == 1 and self.chance(50) else items


def assign(path: str, value: Json) -> Body:
    return {"type": "assign", "path": path, "value": value}


def listed(value: Json) -> list[Json]:
    return value if isinstance(value, list) else [value]
