"""JSON Schemas that somebody wrote: compiled once, without references to anywhere else, regexes in linear time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from typing import Any

import jsonschema_rs

from common.canonical import dumps, read
from common.errors import Invalid

MAX_SCHEMA_BYTES = 200_000
MAX_EXPANSIONS = 10_000  # what references may come to: those that refer to each other multiply
MAX_PROBLEMS = 50
_SHOWN = 300
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


class Schema:
    """A compiled schema. `problem` says what is wrong with a value, in words that are safe to show."""

    def __init__(self, validator: Any) -> None:
        self._validator = validator

    def problem(self, value: Any) -> str | None:
        """The first thing that is wrong with a value, with its path; None where nothing is."""
        for where, said in self._found(value):
            return f"{where}: {said}" if where else said
        return None

    def problems(self, value: Any) -> list[dict[str, Any]]:
        """What is wrong with a value, as problems {severity, code, path, message, suggestion}; at most 50."""
        return [
            {
                "severity": "error",
                "code": "schema.mismatch",
                "path": where,
                "message": said,
                "suggestion": None,
            }
            for where, said in islice(self._found(value), MAX_PROBLEMS)
        ]

    def _found(self, value: Any) -> Iterator[tuple[str, str]]:
        for error in self._validator.iter_errors(value):
            yield ".".join(str(part) for part in error.instance_path)[:_SHOWN], str(error.message)[:_SHOWN]


def compile_schema(schema: Any) -> Schema:
    """Compile a schema, an object or a boolean. Raises `Invalid` (`schema.invalid`) for what is none."""
    if not isinstance(schema, dict | bool):
        raise Invalid("expected a JSON Schema: an object, true or false", code="schema.invalid")
    text = dumps(schema)
    if len(text) > MAX_SCHEMA_BYTES:
        raise Invalid(f"a JSON Schema of more than {MAX_SCHEMA_BYTES:,} characters", code="schema.invalid")
    return _compiled(text)


@lru_cache(maxsize=256)
def _compiled(text: str) -> Schema:
    if _expansions(read(text)) > MAX_EXPANSIONS:
        raise Invalid(
            f"a JSON Schema whose references come to more than {MAX_EXPANSIONS:,}", code="schema.invalid"
        )
    try:
        validator = jsonschema_rs.validator_for(
            read(text), pattern_options=jsonschema_rs.RegexOptions(), retriever=_refuse
        )
    except (ValueError, jsonschema_rs.ReferencingError) as error:  # its ValidationError is a ValueError
        reason = str(getattr(error, "message", error)).partition("\n")[0][:_SHOWN]
        raise Invalid(f"not a JSON Schema that can be used: {reason}", code="schema.invalid") from None
    return Schema(validator)


def _expansions(schema: Any) -> int:
    """How many references are followed for one value, at worst: what checking it may cost, where each leads to others.

    Cycles are cut, as the library cuts them. A reference by another name than a pointer counts as one to the whole.
    """
    known: dict[str, int] = {}

    def of(pointer: str, trail: tuple[str, ...]) -> int:
        if pointer in trail:
            return 1
        if pointer not in known:
            known[pointer] = min(
                MAX_EXPANSIONS + 1,
                1 + sum(of(inner, (*trail, pointer)) for inner in _references(_at(schema, pointer))),
            )
        return known[pointer]

    return of("#", ())


def _references(part: Any) -> list[str]:
    """The pointers of all references inside a part of a schema; what is only defined there is used by pointer."""
    found = []
    pending = [part]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            named = (one.get(name) for name in _REFERENCES)
            found += [name if name.startswith("#/") else "#" for name in named if isinstance(name, str)]
            pending += [inner for name, inner in one.items() if name not in ("$defs", "definitions")]
        elif isinstance(one, list):
            pending += one
    return found


def _at(schema: Any, pointer: str) -> Any:
    for segment in pointer.split("/")[1:]:
        name = segment.replace("~1", "/").replace("~0", "~")
        if isinstance(schema, dict):
            schema = schema.get(name)
        elif isinstance(schema, list) and name.isdecimal() and int(name) < len(schema):
            schema = schema[int(name)]
        else:
            return None
    return schema


def _refuse(uri: str) -> Any:
    """Schemas refer to nothing outside themselves: by itself the library would fetch pages and read files."""
    raise ValueError(f'a reference to "{uri}", which is outside of the schema')
