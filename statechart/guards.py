"""Guards, compiled: conditions over the draft. Names are resolved, so that at run time nothing is looked up.

`holds` raises `ExpressionFailed` or `ActionFailed`; `Draft.holds` makes that false, on record. `size` is what
evaluation may cost, which compile_guards.py limits: named guards share their parts, evaluation does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from statechart.chart import StateNode
from statechart.draft import ActionFailed, Draft
from statechart.expressions import Expression, ExpressionFailed
from statechart.operators import OperatorGuard

if TYPE_CHECKING:
    from statechart.templates import Value


class Size(NamedTuple):
    """Conditions inside, those of named guards counted wherever they are used, and how deep they nest."""

    conditions: int
    depth: int


ONE = Size(1, 1)


class Guard(Protocol):
    @property
    def text(self) -> str:
        """As a person would write it."""

    @property
    def size(self) -> Size: ...

    @property
    def parts(self) -> tuple[Guard, ...]:
        """The guards that it is made of, for explanations."""

    @property
    def paths(self) -> frozenset[str]:
        """The dotted names that it reads itself, without its parts."""

    def holds(self, draft: Draft) -> bool: ...


@dataclass(frozen=True, slots=True)
class Constant:
    text: str
    answer: bool
    size: Size = ONE

    @property
    def parts(self) -> tuple[Guard, ...]:
        return ()

    @property
    def paths(self) -> frozenset[str]:
        return frozenset()

    def holds(self, draft: Draft) -> bool:
        del draft
        return self.answer


@dataclass(frozen=True, slots=True)
class Condition:
    """An expression that must give true or false."""

    text: str
    expression: Expression
    size: Size = ONE

    @property
    def parts(self) -> tuple[Guard, ...]:
        return ()

    @property
    def paths(self) -> frozenset[str]:
        return self.expression.paths

    def holds(self, draft: Draft) -> bool:
        answer = self.expression.evaluate(draft.scope)
        if answer is True or answer is False:
            return bool(answer)
        raise ActionFailed("guard.not_boolean", f"expected true or false, found {answer!r:.80}")


@dataclass(frozen=True, slots=True)
class Comparison:
    """`{key, operator, value}`."""

    text: str
    operator: OperatorGuard
    size: Size = ONE

    @property
    def parts(self) -> tuple[Guard, ...]:
        return ()

    @property
    def paths(self) -> frozenset[str]:
        return self.operator.paths

    def holds(self, draft: Draft) -> bool:
        return self.operator.evaluate(draft.scope)


@dataclass(frozen=True, slots=True)
class Named:
    """An entry of the document's `guards`, under its name."""

    text: str
    inner: Guard
    size: Size

    @property
    def parts(self) -> tuple[Guard, ...]:
        return (self.inner,)

    @property
    def paths(self) -> frozenset[str]:
        return frozenset()

    def holds(self, draft: Draft) -> bool:
        return self.inner.holds(draft)


@dataclass(frozen=True, slots=True)
class WithParams:
    """A named guard with `params`, which its expressions read under that name."""

    text: str
    params: Value
    inner: Guard
    size: Size

    @property
    def parts(self) -> tuple[Guard, ...]:
        return (self.inner,)

    @property
    def paths(self) -> frozenset[str]:
        return self.params.paths

    def holds(self, draft: Draft) -> bool:
        scope = draft.scope
        before = scope.extra
        scope.extra = {"params": self.params.evaluate(scope)}
        try:
            return self.inner.holds(draft)
        finally:
            scope.extra = before


@dataclass(frozen=True, slots=True)
class And:
    """False as soon as one is false; fails where none is false and one fails."""

    text: str
    guards: tuple[Guard, ...]
    size: Size

    @property
    def parts(self) -> tuple[Guard, ...]:
        return self.guards

    @property
    def paths(self) -> frozenset[str]:
        return frozenset()

    def holds(self, draft: Draft) -> bool:
        return _decide(self.guards, draft, deciding=False)


@dataclass(frozen=True, slots=True)
class Or:
    """True as soon as one is true; fails where none is true and one fails."""

    text: str
    guards: tuple[Guard, ...]
    size: Size

    @property
    def parts(self) -> tuple[Guard, ...]:
        return self.guards

    @property
    def paths(self) -> frozenset[str]:
        return frozenset()

    def holds(self, draft: Draft) -> bool:
        return _decide(self.guards, draft, deciding=True)


def _decide(guards: tuple[Guard, ...], draft: Draft, *, deciding: bool) -> bool:
    failure: ExpressionFailed | ActionFailed | None = None
    for guard in guards:
        try:
            if guard.holds(draft) is deciding:
                return deciding
        except (ExpressionFailed, ActionFailed) as failed:
            failure = failure or failed
    if failure is not None:
        raise failure
    return not deciding


@dataclass(frozen=True, slots=True)
class Not:
    """A guard that fails has no opposite: the failure goes through."""

    text: str
    guard: Guard
    size: Size

    @property
    def parts(self) -> tuple[Guard, ...]:
        return (self.guard,)

    @property
    def paths(self) -> frozenset[str]:
        return frozenset()

    def holds(self, draft: Draft) -> bool:
        return not self.guard.holds(draft)


@dataclass(frozen=True, slots=True)
class StateIn:
    """Are all these states active?"""

    text: str
    states: tuple[StateNode, ...]
    size: Size = ONE

    @property
    def parts(self) -> tuple[Guard, ...]:
        return ()

    @property
    def paths(self) -> frozenset[str]:
        return frozenset()

    def holds(self, draft: Draft) -> bool:
        return all(state in draft.active for state in self.states)
