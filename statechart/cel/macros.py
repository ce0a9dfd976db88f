"""The macros that run a body for each element: its variable lives in a slot of the scope while it runs."""

from __future__ import annotations

from typing import Any, NamedTuple

from statechart.cel.errors import TOO_EXPENSIVE, TYPE, ExpressionFailed, Place
from statechart.cel.scope import Run, Scope
from statechart.cel.values import kind


class Loop(NamedTuple):
    """What all macros share: where the elements come from, the variable's slot, the nodes of one round."""

    source: Run
    slot: int
    cost: int
    place: Place
    name: str

    def elements(self, scope: Scope) -> list[Any]:
        """The elements of a list, or the keys of a map in sorted order."""
        value = self.source(scope)
        if type(value) is list:
            return value
        if type(value) is dict:
            scope.working.charge(len(value), self.place)
            return sorted(value)
        raise self.place.failed(TYPE, f"{self.name} needs a list or a map, found {kind(value)}")

    def test(self, body: Run, scope: Scope) -> bool:
        value = body(scope)
        if type(value) is bool:
            return value
        raise self.place.failed(TYPE, f"the test of {self.name} must be a bool, found {kind(value)}")


def quantified(loop: Loop, body: Run, *, decisive: bool) -> Run:
    """`all` and `exists`: `&&` and `||` over the elements, absorbing errors as these do."""

    def run(scope: Scope) -> bool:
        failure: ExpressionFailed | None = None
        variables, meter = scope.variables, scope.working
        for item in loop.elements(scope):
            meter.charge(loop.cost, loop.place)
            variables[loop.slot] = item
            try:
                if loop.test(body, scope) is decisive:
                    return decisive
            except ExpressionFailed as error:
                if error.code == TOO_EXPENSIVE:
                    raise
                failure = failure or error
        if failure is not None:
            raise failure
        return not decisive

    return run


def exactly_one(loop: Loop, body: Run) -> Run:
    def run(scope: Scope) -> bool:
        count = 0
        variables, meter = scope.variables, scope.working
        for item in loop.elements(scope):
            meter.charge(loop.cost, loop.place)
            variables[loop.slot] = item
            count += loop.test(body, scope)
        return count == 1

    return run


def filtered(loop: Loop, body: Run) -> Run:
    def run(scope: Scope) -> list[Any]:
        kept: list[Any] = []
        variables, meter = scope.variables, scope.working
        for item in loop.elements(scope):
            meter.charge(loop.cost, loop.place)
            variables[loop.slot] = item
            if loop.test(body, scope):
                kept.append(item)
        return kept

    return run


def mapped(loop: Loop, test: Run | None, body: Run) -> Run:
    def run(scope: Scope) -> list[Any]:
        built: list[Any] = []
        variables, meter = scope.variables, scope.working
        for item in loop.elements(scope):
            meter.charge(loop.cost, loop.place)
            variables[loop.slot] = item
            if test is None or loop.test(test, scope):
                built.append(body(scope))
        return built

    return run
