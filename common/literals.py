"""What a schema says of an input that a definition writes, as far as it is written out.

Texts with expressions may turn out to be anything. So the value is asked as it stands, and of what is complained about only that
counts which cannot depend on them: members that are missing or unknown, lengths of lists, and values that are literals to the last.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from common.errors import Invalid
from common.schemas import Complaint, Schema
from statechart.problems import Problem
from statechart.templates import is_template

MAX_PROBLEMS = 20

Json = Any

# Of an object or a list as such, whatever stands in it.
_OF_THE_OUTSIDE = frozenset(
    {
        "required", "propertyNames", "minProperties", "maxProperties", "minItems", "maxItems", "type",
    }
)  # fmt: skip
# What is complained about below these depends on more of the value than where it stands.
_DEPENDING = frozenset({"if", "then", "else"})


def literal_problems(schema: Schema, value: Json, at: str) -> Iterator[Problem]:
    """Errors for what no evaluation can make right; `at` is the place of the value in its definition."""
    if _is_unknown(value):
        return
    has_unknown = is_template(value)
    told = 0
    try:
        for complaint in schema.complaints(value):
            if has_unknown and not _is_certain(complaint, value):
                continue
            yield _problem(complaint, at)
            told += 1
            if told >= MAX_PROBLEMS:
                return
    except Invalid as error:
        yield Problem("error", error.code, at, str(error))


def _problem(complaint: Complaint, at: str) -> Problem:
    place = at
    for step in complaint.path:
        place += f"[{step}]" if isinstance(step, int) else f".{step}"
    return Problem("error", "task.input", place, complaint.message, complaint.suggestion)


def _is_certain(complaint: Complaint, value: Json) -> bool:
    # A name among properties may be spelt as a keyword; then less is said, never too much.
    if not _DEPENDING.isdisjoint(complaint.via):
        return False
    if complaint.keyword in ("additionalProperties", "falseSchema"):
        return True
    found = value
    for step in complaint.path:
        try:
            found = found[step]
        except (KeyError, IndexError, TypeError):
            return False
    return not (_is_unknown(found) if complaint.keyword in _OF_THE_OUTSIDE else is_template(found))


def _is_unknown(value: Json) -> bool:
    """A text that is an expression: nothing is known of it."""
    return isinstance(value, str) and is_template(value)
