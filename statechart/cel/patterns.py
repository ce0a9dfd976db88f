"""Regular expressions in linear time: RE2's syntax, compiled once, bounded in size and charged before they run."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import re2

from statechart.cel.errors import Place
from statechart.cel.meter import Meter

PATTERN = "expression.pattern"
MAX_PATTERN_LENGTH = 1_000
MAX_PROGRAM = 3_000

# Linear, but in characters times instructions of the program where the automaton does not fit its memory: measured
# there at 7 ns a step, and 2 ms for the largest program to compile, so that an operation costs about as much as others.
_STEPS_PER_OPERATION = 64
_COMPILATION = 2_000


def _options() -> Any:
    options = re2.Options()
    options.log_errors = False  # RE2 would write to standard error
    options.max_mem = 128 * 1024
    return options


_OPTIONS = _options()


# A matter of speed only: what an evaluation is charged does not depend on it.
@lru_cache(maxsize=64)
def _compiled(pattern: str) -> Any:
    return re2.compile(pattern, _OPTIONS)


def compile_pattern(pattern: str, place: Place) -> Any:
    """The compiled pattern, or `ExpressionFailed("expression.pattern")` with RE2's reason."""
    if len(pattern) > MAX_PATTERN_LENGTH:
        raise place.failed(PATTERN, f"the pattern has more than {MAX_PATTERN_LENGTH:,} characters")
    try:
        compiled = _compiled(pattern)
    except (re2.error, UnicodeEncodeError) as error:
        raise place.failed(PATTERN, f"the pattern {pattern[:40]!r} is invalid: {_reason(error)}") from None
    if compiled.programsize > MAX_PROGRAM:
        raise place.failed(
            PATTERN, f"the pattern {pattern[:40]!r} is too large once its repetitions are counted out"
        )
    return compiled


def matches(meter: Meter, place: Place, text: str, pattern: str) -> bool:
    """Whether `pattern` matches somewhere in `text`. The meter keeps and counts each pattern once."""
    compiled = meter.patterns.get(pattern)
    if compiled is None:
        meter.charge(_COMPILATION, place)
        compiled = meter.patterns[pattern] = compile_pattern(pattern, place)
    return search(compiled, meter, place, text)


def search(compiled: Any, meter: Meter, place: Place, text: str) -> bool:
    """Whether a pattern compiled before matches somewhere in `text`."""
    meter.charge(1 + len(text) * compiled.programsize // _STEPS_PER_OPERATION, place)
    try:
        return compiled.search(text) is not None
    except UnicodeEncodeError:
        raise place.failed(PATTERN, "half of a surrogate pair is no text to search in") from None


def _reason(error: Exception) -> str:
    detail = error.args[0] if error.args else ""
    return detail.decode("utf-8", "replace") if isinstance(detail, bytes) else str(detail)
