"""What can be wrong with an expression, and where: `ExpressionInvalid` at compile, `ExpressionFailed` at evaluation.

Both know the text and an offset into it, and show the place with a caret. Messages are put together only when they
are read: an error that `||` or `exists` absorbs a thousand times must cost little.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from statechart.problems import nearest

TOO_EXPENSIVE = "expression.too_expensive"
MISSING = "expression.missing"
TYPE = "expression.type"
NUMBER = "expression.number"
INDEX = "expression.index"
VALUE = "expression.value"
SYNTAX = "expression.syntax"
UNKNOWN_NAME = "expression.unknown_name"
UNKNOWN_FUNCTION = "expression.unknown_function"
TOO_LONG = "expression.too_long"
TOO_DEEP = "expression.too_deep"

# How much of a long line the excerpt shows on each side of the place.
_AROUND = 40
# Up to how many members of a map are looked through for the one that was meant, and how much the lengths may differ:
# finding the nearest word is slow, and a map may have thousands of long ones.
_CANDIDATES = 50
_LENGTH_APART = 3


class ExpressionError(Exception):
    """What both kinds share: a stable `code`, the `text` and the place in it.

    `offset` counts characters from 0, `line` and `column` count from 1. `detail` is the reason in one line;
    `message` adds the suggestion, the position and an excerpt with a caret. `wanted` and `known` are what was
    looked up and what there is, for the suggestion.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        text: str,
        offset: int,
        wanted: str | None = None,
        known: tuple[str, ...] = (),
    ) -> None:
        super().__init__(code, detail, text, offset, wanted, known)
        self.code = code
        self.detail = detail
        self.text = text
        self.offset = offset
        self.wanted = wanted
        self.known = known

    @property
    def line(self) -> int:
        return self.text.count("\n", 0, self.offset) + 1

    @property
    def column(self) -> int:
        return self.offset - (self.text.rfind("\n", 0, self.offset) + 1) + 1

    @property
    def suggestion(self) -> str | None:
        """What was probably meant, or None."""
        if self.wanted is None:
            return None
        length = len(self.wanted)
        # Sorted, since the same data may come with its members in another order.
        return nearest(self.wanted, sorted(w for w in self.known if abs(len(w) - length) <= _LENGTH_APART))

    @property
    def message(self) -> str:
        hint = self.suggestion
        meant = f'; did you mean "{hint}"?' if hint else ""
        return f"{self.detail}{meant} (line {self.line}, column {self.column})\n{self._excerpt()}"

    def __str__(self) -> str:
        return self.message

    def _excerpt(self) -> str:
        start = self.text.rfind("\n", 0, self.offset) + 1
        end = self.text.find("\n", self.offset)
        line = self.text[start : len(self.text) if end < 0 else end]
        at = self.offset - start
        first = max(0, at - _AROUND)
        shown = line[first : at + _AROUND].replace("\t", " ")
        before = "…" if first else ""
        after = "…" if at + _AROUND < len(line) else ""
        return f"  {before}{shown}{after}\n  {' ' * (at - first + len(before))}^"


class ExpressionInvalid(ExpressionError):
    """The text is no expression that can run: refused when it is compiled, before any instance meets it."""


class ExpressionFailed(ExpressionError):
    """The expression has no value for this data. In a guard this means false, in a value `error.execution`."""


class Place:
    """Where in which text: carried by the closures, so that any of them can say what went wrong and where."""

    __slots__ = ("offset", "text")

    def __init__(self, text: str, offset: int) -> None:
        self.text = text
        self.offset = offset

    def invalid(
        self, code: str, detail: str, wanted: str | None = None, known: Iterable[str] = ()
    ) -> ExpressionInvalid:
        return ExpressionInvalid(code, detail, self.text, self.offset, wanted, tuple(known))

    def failed(
        self, code: str, detail: str, wanted: str | None = None, known: Mapping[str, object] | None = None
    ) -> ExpressionFailed:
        members = tuple(known) if known and len(known) <= _CANDIDATES else ()
        return ExpressionFailed(code, detail, self.text, self.offset, wanted, members)
