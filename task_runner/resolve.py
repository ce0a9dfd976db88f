"""References in a task's input, `${secret.NAME}`, resolved just before its handler is called, and nowhere else.

Theory of operation. The kernel notes the places at which the definition itself wrote a reference (`TaskClaim.secrets`); only
the texts at these places are looked at, never one that came as data. `Resolver.prepare` reads what a whole claim
needs, in its transaction and as it is stored; `Prepared.fill` makes the input of one call from it. So a value is in the
open from the call of its handler to the end of it, and what comes back is searched for it (`redact.py`).

A kind of reference is a class with `prepare`, as `Secrets` below is, and a name in the table that a runner is made with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Connection

from common.canonical import dumps, read
from common.errors import Misconfigured
from common.sealing import SealingKeys, Unopened
from common.store.claims import TaskClaim
from common.store.secrets import Named, read_sealed
from task_runner.redact import NOTHING_HIDDEN, Redaction
from task_runner.registry import HandlerError, Permanent

Json = Any
Look = Callable[[TaskClaim, str], str]
"""The value of a name for a claim. Raises `HandlerError`."""


class Kind(Protocol):
    """One kind of reference."""

    def prepare(self, tx: Connection, asked: Sequence[tuple[TaskClaim, str]]) -> Look:
        """Read what these names need, in as few statements as can be."""
        ...


@dataclass(frozen=True, slots=True)
class Input:
    """What a handler is called with: the canonical text of its input, and what in it is not to come back."""

    text: str
    redaction: Redaction


class Resolver:
    """Resolves references of some kinds, by their names in definitions."""

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self._kinds = dict(kinds)
        named = "|".join(map(re.escape, self._kinds))
        # As the kernel reads them, see statechart/templates.py.
        self._reference = re.compile(rf"\$\{{\s*({named})\.([A-Za-z_][A-Za-z0-9_.\-]*)\s*\}}")

    def prepare(self, tx: Connection, claims: Iterable[TaskClaim]) -> Prepared:
        """Read what some claims refer to. Costs nothing where none of them does."""
        asked: dict[str, list[tuple[TaskClaim, str]]] = {}
        for claim in claims:
            if claim.secrets is not None:
                for kind, name in self._names(claim):
                    asked.setdefault(kind, []).append((claim, name))
        return Prepared(
            self._reference, {kind: self._kinds[kind].prepare(tx, names) for kind, names in asked.items()}
        )

    def _names(self, claim: TaskClaim) -> Iterator[tuple[str, str]]:
        value = read(claim.input)
        for place in read(claim.secrets or "[]"):
            text = _at(value, place)
            if isinstance(text, str):
                yield from self._reference.findall(text)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the references of some claims need, as it is stored: no value is in the open here."""

    reference: re.Pattern[str]
    looks: Mapping[str, Look]

    def fill(self, claim: TaskClaim) -> Input:
        """The input of one call. Raises `HandlerError` for what there is not."""
        if claim.secrets is None:
            return Input(claim.input, NOTHING_HIDDEN)
        hidden: dict[str, str] = {}

        def resolved(found: re.Match[str]) -> str:
            kind, name = found[1], found[2]
            shown = f"[{kind} {name}]"
            if shown not in hidden:
                hidden[shown] = self.looks[kind](claim, name)
            return hidden[shown]

        value = read(claim.input)
        for place in read(claim.secrets):
            text = _at(value, place)
            if isinstance(text, str):
                value = _put(value, place, self.reference.sub(resolved, text))
        return Input(dumps(value), Redaction(hidden))


NOTHING_PREPARED = Prepared(re.compile("(?!)"), {})
"""For claims that refer to nothing."""


class Secrets:
    """`${secret.NAME}`: a secret of the task's own tenant. `keys` says what opens them, asked when the first one is needed."""

    def __init__(self, keys: Callable[[], SealingKeys]) -> None:
        self._keys = keys

    def prepare(self, tx: Connection, asked: Sequence[tuple[TaskClaim, str]]) -> Look:
        stored = read_sealed(tx, {Named(claim.tenant_id, name) for claim, name in asked})

        def look(claim: TaskClaim, name: str) -> str:
            sealed = stored.get(Named(claim.tenant_id, name))
            if sealed is None:
                raise Permanent(
                    f'there is no secret "{name}"; set it with `signalbox secrets set {name}`, then retry the task',
                    code="secret.unknown",
                    data={"secret": name},
                )
            # Neither is this process's lack the work's: another runner may have the key, so the policy decides.
            try:
                return self._keys().open(claim.tenant_id, name, sealed)
            except Misconfigured as error:
                raise HandlerError(
                    f'this task runner cannot open secret "{name}": {error}',
                    code="secret.no_key",
                    data={"secret": name},
                ) from None
            except Unopened as error:
                raise HandlerError(str(error), code=error.code, data={"secret": name}) from None

        return look


def _at(value: Json, place: Sequence[str | int]) -> Json:
    """What stands at a place, or None."""
    for step in place:
        match value, step:
            case dict(), str():
                value = value.get(step)
            case list(), int() if step < len(value):
                value = value[step]
            case _:
                return None
    return value


def _put(value: Json, place: Sequence[str | int], text: str) -> Json:
    """The value with a text at a place that is there."""
    if not place:
        return text
    _at(value, place[:-1])[place[-1]] = text
    return value
