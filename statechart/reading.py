"""From JSON to the document model: bounds first, then the shape, every failure as a `Problem` with its path.

The bounds come before Pydantic sees anything: whatever a hostile document costs is decided here.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from statechart.document import ACTION_KINDS, BUILT_IN_GUARDS, Definition
from statechart.env import Json
from statechart.expected import complaint, expected, found, kind_of
from statechart.exports import RENAMED, tolerated
from statechart.problems import Problem, nearest

MAX_STATES = 5_000
MAX_NESTING = 32
MAX_DEPTH = 64
MAX_VALUES = 200_000  # values of any kind in one document
MAX_PROBLEMS = 100  # what more there is would not be read


def read_definition(document: Json, *, as_xstate: bool = False) -> tuple[Definition | None, list[Problem]]:
    """The model of a document, or None and the problems that keep it from being one.

    With `as_xstate` what XState would pass over is passed over (exports.py).
    """
    if not isinstance(document, Mapping):
        return None, [_error("document.form", "", f"expected a JSON object, found {kind_of(document)}")]
    beyond = _too_many_states(document) or _beyond_bounds(document)
    if beyond is not None:
        return None, [beyond]
    try:
        return Definition.model_validate(tolerated(document) if as_xstate else document), []
    except ValidationError as invalid:
        details = invalid.errors(include_url=False, include_input=True)[:MAX_PROBLEMS]
        return None, [_problem(detail, document) for detail in details]


def _beyond_bounds(document: Mapping[str, Json]) -> Problem | None:
    values = 0
    level: list[Json] = [document]
    for _ in range(MAX_DEPTH):
        below: list[Json] = []
        for holder in level:
            values += len(holder)
            inner = holder.values() if isinstance(holder, Mapping) else holder
            below += [value for value in inner if isinstance(value, dict | list)]
        if values > MAX_VALUES:
            return _error("document.too_large", "", f"the document holds more than {MAX_VALUES:,} values")
        if not below:
            return None
        level = below
    return _error("document.too_deep", "", f"the document nests deeper than {MAX_DEPTH} levels")


def _too_many_states(document: Mapping[str, Json]) -> Problem | None:
    states = 0
    pending: list[tuple[Mapping[str, Json], int, str]] = [(document, 0, "")]
    while pending:
        node, depth, path = pending.pop()
        if depth > MAX_NESTING:
            return _error("document.too_nested", path, f"states nest deeper than {MAX_NESTING} levels")
        children = node.get("states")
        if isinstance(children, Mapping):
            states += len(children)
            pending.extend(
                (child, depth + 1, f"{path}.states.{key}".lstrip("."))
                for key, child in children.items()
                if isinstance(child, Mapping)
            )
        if states > MAX_STATES:
            return _error(
                "document.too_many_states", "states", f"the document has more than {MAX_STATES:,} states"
            )
    return None


def _problem(detail: ErrorDetails, document: Json) -> Problem:
    path = _path_of(detail["loc"], document)
    context = detail.get("ctx") or {}
    match detail["type"]:
        case "extra_forbidden":
            key = str(detail["loc"][-1])
            known = sorted(set(_keys_at(detail["loc"])))
            meant = RENAMED[key] if RENAMED.get(key) in known else nearest(key, known)
            return _error(
                "document.unknown_key",
                path,
                f"unknown key {key!r}; expected one of {', '.join(known)}",
                meant,
            )
        case "missing":
            return _error("document.missing_key", path, complaint(detail))
        case "action.unknown":
            return _error("action.unknown", path, detail["msg"], context.get("suggestion"))
        case "action.form" | "guard.form" as code:
            return _error(code, path, f"{detail['msg']}; found {found(detail['input'])}")
        case "literal_error":
            return _error(
                "document.form",
                path,
                f"expected {expected(detail)}, found {found(detail['input'])}",
                _nearest_literal(detail),
            )
        case _:
            return _error("document.form", path, complaint(detail))


def _nearest_literal(detail: ErrorDetails) -> str | None:
    expected = str((detail.get("ctx") or {}).get("expected", ""))
    words = [word.strip("' ") for word in expected.replace(" or ", ",").split(",")]
    return nearest(detail["input"], words) if isinstance(detail["input"], str) else None


def _path_of(location: Sequence[int | str], document: Json) -> str:
    """Pydantic's location as a path into the document: without union tags and the lists that shorthands became."""
    path = ""
    here: Json = document
    for position, segment in enumerate(location):
        is_last = position == len(location) - 1
        if isinstance(segment, int):
            if isinstance(here, list) and segment < len(here):
                path += f"[{segment}]"
                here = here[segment]
        elif isinstance(here, Mapping) and segment in here:
            path += f".{segment}"
            here = here[segment]
        elif (
            isinstance(here, Mapping)
            and isinstance(here.get("params"), Mapping)
            and segment in here["params"]
        ):
            path += f".params.{segment}"
            here = here["params"][segment]
        elif is_last and isinstance(here, Mapping) and segment not in _TAGS:
            path += f".{segment}"
    return path.lstrip(".")


def _keys_at(location: Sequence[int | str]) -> Iterator[str]:
    """The keys that are known where Pydantic found another one: follows the models along the location."""
    models: list[type[BaseModel]] = [Definition]
    for segment in location[:-1]:
        fields = [
            field
            for model in models
            for name, field in model.model_fields.items()
            if segment == (field.alias or name)
        ]
        inner = [model for field in fields for model in _models_in(field.annotation)]
        if inner:
            models = inner
        elif segment in _TAGS:
            models = [model for model in models if _tag_of(model) == segment] or models
    for model in models:
        yield from (field.alias or name for name, field in model.model_fields.items() if not field.exclude)


_TAGS = frozenset(
    (*ACTION_KINDS, *BUILT_IN_GUARDS, "expression", "operator", "named", "str", "bool", "int", "float")
)


def _tag_of(model: type[BaseModel]) -> str:
    annotation: object = model.model_fields["type"].annotation if "type" in model.model_fields else None
    literals: tuple[object, ...] = typing.get_args(annotation)
    return str(literals[0]) if len(literals) == 1 else "named"


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)


def _error(code: str, path: str, message: str, suggestion: str | None = None) -> Problem:
    return Problem("error", code, path, message, suggestion)
