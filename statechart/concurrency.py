"""How many instances of a definition run at once: `concurrency` of the root, compiled.

Instances that give the same key share `max` places. The key is worked out when a start is accepted, before anything of the
instance is there: it reads the input and what the start says of the instance, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from statechart.env import Json
from statechart.expressions import ExpressionFailed, Scope
from statechart.templates import Value

OnFull: TypeAlias = Literal["queue", "reject", "cancelOldest"]

READABLE = (
    "input",
    "instance.businessKey",
    "instance.definitionKey",
    "instance.definitionVersion",
    "instance.labels",
)
MAX_KEY = 500


class KeyFailed(Exception):
    """A start has no key to share places by: the expression fails for its input, or gives what is no key."""


@dataclass(frozen=True, slots=True)
class Concurrency:
    """At most `max` instances that give the same `key` at once; None: all of the definition together."""

    max: int
    on_full: OnFull
    key: Value | None

    def key_of(self, input: Json, instance: Mapping[str, Json]) -> str:
        """The key of a start as text, "" without an expression. `instance` has what `READABLE` names. Raises `KeyFailed`."""
        if self.key is None:
            return ""
        try:
            found = self.key.evaluate(Scope(input=input, instance=instance))
        except ExpressionFailed as error:
            raise KeyFailed(str(error)) from error
        if isinstance(found, bool) or not isinstance(found, str | int):
            raise KeyFailed(f"expected text or a whole number, found {_kind(found)}")
        key = str(found)
        if not 0 < len(key) <= MAX_KEY:
            raise KeyFailed(f"expected 1 to {MAX_KEY} characters, found {len(key):,}")
        return key


def _kind(value: Json) -> str:
    names = {bool: "a truth value", float: "a fraction", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def unreadable(path: str) -> bool:
    """Is this name not known yet when a start is accepted?"""
    return not any(path == name or path.startswith(f"{name}.") for name in READABLE)
