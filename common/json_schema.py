"""JSON Schemas that somebody wrote: compiled once, without references to anywhere else, regexes in linear time."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jsonschema_rs

from common.canonical import dumps, read
from common.errors import Invalid

MAX_SCHEMA_BYTES = 200_000
_SHOWN = 300


class Schema:
    """A compiled schema. `problem` says what is wrong with a value, in words that are safe to show."""

    def __init__(self, validator: Any) -> None:
        self._validator = validator

    def problem(self, value: Any) -> str | None:
        """The first thing that is wrong with a value, with its path; None where nothing is."""
        for error in self._validator.iter_errors(value):
            where = ".".join(str(part) for part in error.instance_path)
            said = str(error.message)[:_SHOWN]
            return f"{where}: {said}" if where else said
        return None


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
    try:
        validator = jsonschema_rs.validator_for(
            read(text), pattern_options=jsonschema_rs.RegexOptions(), retriever=_refuse
        )
    except (ValueError, jsonschema_rs.ReferencingError) as error:  # its ValidationError is a ValueError
        reason = str(getattr(error, "message", error)).partition("\n")[0][:_SHOWN]
        raise Invalid(f"not a JSON Schema that can be used: {reason}", code="schema.invalid") from None
    return Schema(validator)


def _refuse(uri: str) -> Any:
    """Schemas refer to nothing outside themselves: by itself the library would fetch pages and read files."""
    raise ValueError(f'a reference to "{uri}", which is outside of the schema')
