"""Expressions: CEL's syntax over JSON values, parsed once and run as Python closures, counted and bounded.

    compile_expression('context.amount > 100 && event.type == "PAY"').evaluate(scope)

The language is described in docs/expressions.md, with each difference from CEL; the parts stand in `statechart.cel`.
Measured on one core: about 25 µs to compile that guard, 0.6 µs to evaluate it.

Invariant: the same text and the same scope give the same value or the same error, in each process and each replay,
at a cost that the limits bound (`MAX_LENGTH`, `Meter`).
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

from statechart.cel.compiler import ROOTS, Compiler
from statechart.cel.errors import ExpressionFailed, ExpressionInvalid, Place
from statechart.cel.meter import MAX_BYTES, MAX_OPERATIONS, Meter
from statechart.cel.scope import Run, Scope
from statechart.cel.syntax import MAX_LENGTH, parse
from statechart.cel.values import to_json
from statechart.env import Json

__all__ = [
    "MAX_BYTES",
    "MAX_LENGTH",
    "MAX_OPERATIONS",
    "ROOTS",
    "Expression",
    "ExpressionFailed",
    "ExpressionInvalid",
    "Meter",
    "Scope",
    "compile_expression",
]

# Charts repeat each other's expressions, and the versions of one chart most of them: known ones halve the time that a
# large chart takes to load. Longer texts are rarely repeated, and a cache of them could be filled with hundreds of
# megabytes.
_CACHED_LENGTH = 200
_CACHED = 2_048


class Expression:
    """A compiled text. `paths` are the dotted names that it reads wherever they stand (`context.order.amount`,
    `config.limit`, `now`), up to the first part that only the evaluation knows. `cost` is what an evaluation is
    charged before it starts: its nodes outside macros. `size` measures the work of compiling it, in nodes and
    instructions of its patterns, so that who compiles many can bound their sum.
    """

    __slots__ = ("_is_flat", "_place", "_run", "_slots", "cost", "paths", "size", "text")

    def __init__(self, text: str, run: Run, compiler: Compiler) -> None:
        self.text = text
        self.paths = frozenset(compiler.paths)
        self._run = run
        self.cost = compiler.cost
        self.size = compiler.size
        self._slots = compiler.slots
        self._is_flat = compiler.is_flat
        self._place = Place(text, 0)

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def evaluate(self, scope: Scope) -> Json:
        """The value as plain JSON; it may share parts with the scope, so treat it as immutable.

        Raises `ExpressionFailed` where the expression has no value for this data or costs too much.
        """
        meter = scope.meter
        if meter is None and not self._is_flat:
            meter = Meter()
        if meter is not None:
            meter.charge(self.cost, self._place)
            scope.working = meter
        if self._slots:
            scope.variables = [None] * self._slots
        value = self._run(scope)
        found = type(value)
        if found is bool or found is int or value is None:
            return value
        return to_json(value, meter or Meter(), self._place)


def compile_expression(text: str, *, extra_names: Collection[str] = ()) -> Expression:
    """Compile `text`; names beside the roots must be in `extra_names`. Raises `ExpressionInvalid`.

    Compiled expressions are immutable; short ones are cached, so that many definitions share what they have in common.
    """
    names = frozenset(extra_names)
    return _cached(text, names) if len(text) <= _CACHED_LENGTH else _compile(text, names)


@lru_cache(maxsize=_CACHED)
def _cached(text: str, extra_names: frozenset[str]) -> Expression:
    return _compile(text, extra_names)


def _compile(text: str, extra_names: frozenset[str]) -> Expression:
    compiler = Compiler(text, extra_names)
    run = compiler.compile(parse(text)).run
    return Expression(text, run, compiler)
