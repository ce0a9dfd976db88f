"""What an expression may read: the data of one evaluation, and the seed of everything that looks random."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, TypeAlias

from statechart.cel.meter import Meter
from statechart.env import Json

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Scope:
    """The roots by name, plus `extra` names that a place in the definition defines (`item`, `index`, `output`).

    Keep one scope for a whole step, changing its fields as the context changes (or `dataclasses.replace` it, which
    keeps the count): `uuid()` and `random()` derive from `seed` and the ordinal of the draw, which `ordinals` counts.
    With a `meter` all evaluations share its limits, without one each evaluation has its own. A scope serves one
    evaluation at a time. `now` is aware UTC.
    """

    context: Json = field(default_factory=dict)
    event: Json = None
    input: Json = None
    instance: Json = field(default_factory=dict)
    config: Json = field(default_factory=dict)
    steps: Json = field(default_factory=dict)
    now: datetime = _EPOCH
    seed: str = ""
    extra: Mapping[str, Json] = field(default_factory=dict)
    meter: Meter | None = None
    ordinals: Iterator[int] = field(default_factory=itertools.count)
    # The meter and the macros' variables of the evaluation that is running.
    working: Meter = field(init=False, repr=False, compare=False, default_factory=Meter)
    variables: list[Any] = field(init=False, repr=False, compare=False, default_factory=list)

    def draw(self) -> bytes:
        """The next 32 bytes that belong to this seed; another for each call, the same in each replay."""
        return sha256(f"{self.seed}/{next(self.ordinals)}".encode("utf-8", "surrogatepass")).digest()


# A compiled node: one function of the scope.
Run: TypeAlias = Callable[[Scope], Any]


def drawn_uuid(scope: Scope) -> str:
    """A UUID with the version and variant bits of version 4 (RFC 9562)."""
    raw = bytearray(scope.draw()[:16])
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    digits = raw.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def drawn_fraction(scope: Scope) -> int | float:
    """A number from 0 up to but not including 1, of 53 random bits."""
    fraction = (int.from_bytes(scope.draw()[:7], "big") >> 3) / 2**53
    return 0 if fraction == 0 else fraction
