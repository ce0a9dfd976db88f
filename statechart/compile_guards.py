"""Guards of the document to guards of the chart. Each named guard is compiled once and shared by its users."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from statechart import guards
from statechart.chart import StateNode
from statechart.document import (
    AllGuard,
    AnyGuard,
    Guard,
    InGuard,
    NamedGuard,
    NotGuard,
    OperatorGuard,
)
from statechart.env import Json
from statechart.expressions import ExpressionInvalid
from statechart.findings import Findings, join
from statechart.naming import descend, find_by_id, js_order
from statechart.operators import compile_guard_operator
from statechart.problems import nearest

MAX_CONDITIONS = 1_000
MAX_GUARD_DEPTH = 64
_PARAMS = ("params",)
_LOOKS_LIKE_A_NAME = re.compile(r"[A-Za-z_][\w \-]*")
_NEVER = guards.Constant("false", False)


class GuardCompiler:
    def __init__(
        self, named: Mapping[str, Guard], root: StateNode, by_id: Mapping[str, StateNode], findings: Findings
    ) -> None:
        self.named = named
        self.root = root
        self.by_id = by_id
        self.findings = findings
        self.used: set[str] = set()
        self.compiled: dict[str, guards.Guard] = {}
        self._open: list[str] = []  # the named guards being compiled, outermost first

    def compile(self, guard: Guard, at: str) -> guards.Guard:
        """A guard that is never true stands in for one with a problem, for a chart that nobody will get."""
        compiled = self._compile(guard, at)
        conditions, depth = compiled.size
        if conditions <= MAX_CONDITIONS and depth <= MAX_GUARD_DEPTH:
            return compiled
        self.findings.error(
            "guard.too_large",
            at,
            f"expected at most {MAX_CONDITIONS:,} conditions nested {MAX_GUARD_DEPTH} deep, with the named guards "
            f"that it uses; found {conditions:,} nested {depth} deep",
        )
        return _NEVER

    def _compile(self, guard: Guard, at: str) -> guards.Guard:
        match guard:
            case bool():
                return guards.Constant("true" if guard else "false", guard)
            case str():
                return self.named_guard(guard, at) if guard in self.named else self._expression(guard, at)
            case NamedGuard():
                return self._with_params(guard, at)
            case AllGuard():
                parts = self._all(guard.guards, at)
                return guards.And(_text("and", parts), parts, _size_of(parts))
            case AnyGuard():
                parts = self._all(guard.guards, at)
                return guards.Or(_text("or", parts), parts, _size_of(parts))
            case NotGuard():
                inner = self.compile(guard.guard, join(at, "guard"))
                return guards.Not(_text("not", (inner,)), inner, _size_of((inner,)))
            case InGuard():
                return self._state_in(guard, join(at, "state"))
            case OperatorGuard():
                return self._operator(guard, at)

    def named_guard(self, name: str, at: str) -> guards.Guard:
        self.used.add(name)
        if name in self.compiled:
            return self.compiled[name]
        if name in self._open or len(self._open) >= MAX_GUARD_DEPTH:
            self.findings.error(
                "guard.cycle",
                at,
                f"expected a guard that does not lead back to itself, found {' -> '.join([*self._open, name])}",
            )
            return _NEVER
        self._open.append(name)
        inner = self.compile(self.named[name], f"guards.{name}")
        self._open.pop()
        self.compiled[name] = guards.Named(name, inner, _size_of((inner,)))
        return self.compiled[name]

    def _with_params(self, guard: NamedGuard, at: str) -> guards.Guard:
        if guard.type not in self.named:
            return self._unknown(guard.type, join(at, "type"))
        inner = self.named_guard(guard.type, at)
        if guard.params is None:
            return inner
        return guards.WithParams(
            guard.type, self.findings.value(guard.params, join(at, "params")), inner, _size_of((inner,))
        )

    def _expression(self, text: str, at: str) -> guards.Guard:
        if _LOOKS_LIKE_A_NAME.fullmatch(text) and text not in ("true", "false"):
            return self._unknown(text, at)
        if text.startswith("${"):  # no expression begins so: it was meant as in a value
            meant = text[2:-1].strip() if text.endswith("}") else None
            message = f"a guard is an expression by itself, and is written without ${{…}}; found {text!r:.80}"
            self.findings.error("expression.syntax", at, message, meant or None)
            return _NEVER
        # Inside `guards` an expression may read the `params` of whoever names it.
        expression = self.findings.expression(text, at, _PARAMS if self._open else ())
        return _NEVER if expression is None else guards.Condition(text, expression)

    def _unknown(self, name: str, at: str) -> guards.Guard:
        known = ", ".join(repr(other) for other in list(self.named)[:20]) or "none"
        self.findings.error(
            "guard.unknown", at, f"unknown guard {name!r}; guards has {known}", nearest(name, self.named)
        )
        return _NEVER

    def _operator(self, guard: OperatorGuard, at: str) -> guards.Guard:
        try:
            compiled = compile_guard_operator(guard.key, guard.operator, guard.value)
        except ExpressionInvalid as invalid:
            self.findings.invalid(invalid, at)
            return _NEVER
        self.findings.note_paths(compiled.paths, at)
        self.findings.check_secrets(compiled.value.secrets, join(at, "value"))
        return guards.Comparison(f"{guard.key} {guard.operator} {guard.value!r}", compiled)

    def _all(self, parts: Sequence[Guard], at: str) -> tuple[guards.Guard, ...]:
        return tuple(self.compile(part, f"{at}.guards[{index}]") for index, part in enumerate(parts))

    def _state_in(self, guard: InGuard, at: str) -> guards.Guard:
        states = self._states_of(guard.state, self.root, at)
        text = guard.state if isinstance(guard.state, str) else ", ".join(state.path for state in states)
        return guards.StateIn(f"in {text}", tuple(states))

    def _states_of(self, value: Json, below: StateNode, at: str) -> list[StateNode]:
        """XState's state values: a path from the root, `#id`, or an object of them."""
        if isinstance(value, str):
            found = find_by_id(value, self.by_id) if value.startswith("#") else descend(below, value)
            if found is not None:
                return [found]
            known = (
                [f"#{identifier}" for identifier in self.by_id] if value.startswith("#") else _paths(below)
            )
            self.findings.error("state.unknown", at, f"unknown state {value!r}", nearest(value, known))
            return []
        if not isinstance(value, Mapping):
            self.findings.error("state.unknown", at, f"expected a state value, found {value!r}")
            return []
        states: list[StateNode] = []
        for key, inner in js_order(value):
            child = below.by_key.get(key)
            if child is None:
                self.findings.error(
                    "state.unknown", join(at, key), f"unknown state {key!r}", nearest(key, below.by_key)
                )
            elif isinstance(inner, Mapping) and not inner:
                states.append(child)
            else:
                states += self._states_of(inner, child, join(at, key))
        return states


def _paths(below: StateNode) -> list[str]:
    return [f"{child.key}.{inner.key}" for child in below.children for inner in child.children] + list(
        below.by_key
    )


def _text(word: str, parts: Sequence[guards.Guard]) -> str:
    text = f"{word}({', '.join(part.text for part in parts[:5])}{', …' if len(parts) > 5 else ''})"
    return text if len(text) <= 200 else text[:199] + "…"


def _size_of(parts: Sequence[guards.Guard]) -> guards.Size:
    """Of a guard made of these."""
    sizes = [part.size for part in parts]
    return guards.Size(
        sum(size.conditions for size in sizes), 1 + max((size.depth for size in sizes), default=0)
    )
