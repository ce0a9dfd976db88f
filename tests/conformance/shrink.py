"""Make a case that fails smaller, and keep it failing: parts of the JSON are left out, large ones first.

`still_fails` looks at many candidates at once, because asking another process is what takes the time.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

Json: TypeAlias = Any
Where: TypeAlias = tuple[str | int, ...]
MAX_CANDIDATES = 60  # looked at in one round


def shrunk(case: Json, still_fails: Callable[[Sequence[Json]], Sequence[bool]], *, rounds: int = 200) -> Json:
    """A smaller case that fails too; `case` itself where nothing can go."""
    start = 0
    for _ in range(rounds):
        places = sorted(_places(case), key=lambda place: -len(json.dumps(_at(case, place))))
        window = places[start : start + MAX_CANDIDATES]
        if not window:
            return case
        candidates = [_without(case, place) for place in window]
        failing = next((index for index, fails in enumerate(still_fails(candidates)) if fails), None)
        if failing is None:
            start += MAX_CANDIDATES
        else:
            case, start = candidates[failing], start + failing
            start = 0 if start < MAX_CANDIDATES else start
    return case


def _places(value: Json, where: Where = ()) -> Iterator[Where]:
    """Every part of the chart and its events that can be left out or stand for what is around it."""
    items: Iterator[tuple[str | int, Json]] = iter(())
    if isinstance(value, dict):
        items = iter(value.items())
    elif isinstance(value, list):
        items = iter(enumerate(value))
    for key, inner in items:
        if len(where) > 1 or key not in ("id", "spec", "events"):
            yield (*where, key)
        yield from _places(inner, (*where, key))


def _at(value: Json, where: Where) -> Json:
    for key in where:
        value = value[key]
    return value


def _without(case: Json, where: Where) -> Json:
    smaller = copy.deepcopy(case)
    del _at(smaller, where[:-1])[where[-1]]
    return smaller
