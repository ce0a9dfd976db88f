"""JSON Schemas: compiled once, asked often, and never more expensive than their limits say.

Handlers bring schemas of their input and output, definitions of their input and events. A schema may come from somebody who
means harm, so it is bounded before it is compiled: in size, in depth, and in how many of its parts a value meets (`weight`:
references are followed, so that ten lines which refer to each other twice each cannot stand for a thousand million). What
is asked of a value is bounded by weight times size. No reference leads out of a schema, and patterns are matched in
linear time, so look-around and back references are refused.

Messages never quote values: what is asked may be secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn
from urllib.parse import unquote

import jsonschema_rs

from common.canonical import dumps, read, size
from common.errors import Invalid, nearest_of
from statechart.expected import found
from statechart.problems import Problem

MAX_BYTES = 256_000
MAX_DEPTH = 64
MAX_WEIGHT = 10_000
"""How many parts of a schema one value may meet at one place."""
MAX_WORK = 20_000_000
"""Weight of a schema times parts of a value: measured, 20 ns each."""
MAX_PATTERN_WORK = 20_000_000
"""Patterns that a value meets times its bytes: measured, 30 ns each for the worst of patterns."""
MAX_PATTERNS = 200
MAX_PATTERN_BYTES = 500_000
"""What one pattern may be when compiled: a{1000} within b{1000} is ten megabytes, and as many milliseconds."""
MAX_LISTED_WORK = 50_000
"""The work up to which everything that is wrong is told."""
MAX_PROBLEMS = 20
MAX_MESSAGE = 300
_COMPILED, _COMPILED_LONG = 256, 16
_SHORT = 20_000
"""Characters: compiled, a schema takes up to thirty times as many bytes."""
_VALUE = "the value"

Json = Any


@dataclass(frozen=True, slots=True)
class Complaint:
    """What is wrong in a value, and where: keys and positions, outermost first.

    `keyword` said so; `via` are the keywords that led to it, references followed.
    """

    path: tuple[str | int, ...]
    message: str
    keyword: str
    via: tuple[str | int, ...] = ()
    suggestion: str | None = None

    def to_json(self) -> dict[str, Json]:
        return {"message": self.message, "path": path_text(self.path)}


class Schema:
    """A compiled schema. Immutable, and safe to use from many threads."""

    __slots__ = ("_patterns", "_validator", "_weight", "document")

    def __init__(self, document: Json, *, trusted: bool) -> None:
        weight = _Weighing(document, allows_recursion=trusted).weigh()
        self.document = document
        self._weight, self._patterns = weight.parts, weight.patterns
        try:
            self._validator = jsonschema_rs.validator_for(
                document,
                retriever=_refuse,
                pattern_options=jsonschema_rs.RegexOptions(size_limit=MAX_PATTERN_BYTES),
                mask=_VALUE,
            )
        except jsonschema_rs.ValidationError as error:
            _invalid(*_of_schema(error, document))
        except (ValueError, jsonschema_rs.ReferencingError) as error:
            _invalid(_first_line(str(error)))

    def complaints(self, value: Json) -> Iterator[Complaint]:
        """What is wrong in a value: all of it, or of a large one the first thing.

        Raises `Invalid` (`schema.too_expensive`) where asking would cost too much.
        """
        work = self._require_cheap(value)
        if self._validator.is_valid(value):
            return
        if work > MAX_LISTED_WORK:
            # The library makes all errors before it hands out the first one, 30 µs each and more.
            try:
                self._validator.validate(value)
            except jsonschema_rs.ValidationError as first:
                yield self._complaint(value, first)
            return
        for error in self._validator.iter_errors(value):
            yield self._complaint(value, error)

    def problems(self, value: Json) -> list[dict[str, Json]]:
        """What is wrong in a value: [{path, message}], at most 20. A value that is too expensive to ask is wrong as well."""
        try:
            found = self.complaints(value)
            return [one.to_json() for one, _ in zip(found, range(MAX_PROBLEMS), strict=False)]
        except (Invalid, ValueError) as error:
            return [{"message": str(error)[:MAX_MESSAGE], "path": ""}]

    def problem(self, value: Json) -> str | None:
        """The first thing that is wrong in a value, in one sentence; None where nothing is."""
        for first in self.problems(value):
            return f"{first['path']}: {first['message']}" if first["path"] else str(first["message"])
        return None

    def _require_cheap(self, value: Json) -> int:
        """The work that asking is, at the most."""
        parts, length = _extent(value)
        if parts * self._weight > MAX_WORK or length * self._patterns > MAX_PATTERN_WORK:
            raise Invalid(
                f"asking a schema of {self._weight} parts and {self._patterns} patterns of a value of {parts} parts and "
                f"{length} characters would cost too much",
                code="schema.too_expensive",
            )
        return parts * self._weight

    def _complaint(self, value: Json, error: jsonschema_rs.ValidationError) -> Complaint:
        path = tuple(error.instance_path)
        message = _first_line(error.message)
        suggestion = None
        match error.kind:
            case jsonschema_rs.ValidationErrorKind.AdditionalProperties(unexpected):
                known = self._known_members(error.schema_path)
                if known:
                    message = f"{_listed(unexpected)} not known here; there are {', '.join(known[:20])}"
                    suggestion = nearest_of(unexpected[0], known)
                if len(unexpected) == 1:
                    path = (*path, unexpected[0])
            case jsonschema_rs.ValidationErrorKind.Enum(options):
                texts = [option for option in options if isinstance(option, str)]
                found = _at(value, path)
                if isinstance(found, str):
                    suggestion = nearest_of(found, texts)
            case jsonschema_rs.ValidationErrorKind.AnyOf(
                context
            ) | jsonschema_rs.ValidationErrorKind.OneOfNotValid(context):
                message = _best_of(context, len(path)) or message
            case jsonschema_rs.ValidationErrorKind.FalseSchema():
                message = "no value is allowed here"
            case _:
                pass
        return Complaint(
            path, message[:MAX_MESSAGE], error.kind.name, tuple(error.evaluation_path), suggestion
        )

    def _known_members(self, where: Sequence[str | int]) -> list[str]:
        holder = _at(self.document, where[:-1])
        known = holder.get("properties") if isinstance(holder, Mapping) else None
        return sorted(known) if isinstance(known, Mapping) else []


def compile_schema(document: Json, *, trusted: bool = False) -> Schema:
    """Compile a schema. Raises `Invalid` (`schema.invalid`) for one that is none or is bounded by nothing.

    A `trusted` one, which comes with code that is run anyway, may refer to itself.
    """
    if not isinstance(document, dict | bool):
        _invalid(f"expected an object, or true or false, found {found(document)}")
    text = dumps(document)
    if size(text) > MAX_BYTES:
        _invalid(f"expected at most {MAX_BYTES} bytes, found {size(text)}")
    return compile_text(text, trusted=trusted)


def compile_text(text: str, *, trusted: bool = False) -> Schema:
    """Compile a stored schema, canonical text. Kept: versions of a definition, and its tasks, have most of them in common."""
    return (_compiled if len(text) <= _SHORT else _compiled_long)(text, trusted)


@lru_cache(maxsize=_COMPILED)
def _compiled(text: str, trusted: bool) -> Schema:
    return Schema(read(text), trusted=trusted)


@lru_cache(maxsize=_COMPILED_LONG)
def _compiled_long(text: str, trusted: bool) -> Schema:
    return Schema(read(text), trusted=trusted)


def schema_problem(error: Invalid, code: str, at: str) -> Problem:
    """The problem of a definition whose part at `at` was refused, with the place inside it where that is known."""
    path = error.fields.get("path")
    return Problem("error", code, f"{at}.{path}" if path else at, error.fields.get("reason", error.message))


def path_text(path: Sequence[str | int]) -> str:
    """A place in a value as it is told: `lines[0].sku`."""
    told = ""
    for step in path:
        told += f"[{step}]" if isinstance(step, int) else f".{step}" if told else step
    return told


def _refuse(uri: str) -> NoReturn:
    raise ValueError(f"a schema may refer to nothing outside of it, found {uri[:200]!r}")


def _invalid(message: str, at: Sequence[str | int] = ()) -> NoReturn:
    """Refuse a schema for what stands at a place in it; `reason` is the message without the place."""
    path, reason = path_text(at)[:MAX_MESSAGE], message[: 2 * MAX_MESSAGE]
    told = f"{path}: {reason}" if path else reason
    raise Invalid(told[: 2 * MAX_MESSAGE], code="schema.invalid", path=path, reason=reason)


def _of_schema(error: jsonschema_rs.ValidationError, document: Json) -> tuple[str, Sequence[str | int]]:
    """What a part of a schema must be and what it is, and where. It is no value of anybody's, so it may be quoted."""
    kinds = jsonschema_rs.ValidationErrorKind
    if isinstance(error.kind, kinds.AnyOf):
        branches = [branch[0] for branch in error.kind.context if branch]
        error = max(branches, key=lambda one: len(one.instance_path), default=error)
    match error.kind:
        case kinds.Enum(options):
            wanted = f"expected one of {', '.join(map(str, options))}"
        case kinds.Type(types):
            wanted = f"expected {' or '.join(_TYPES.get(one, one) for one in types)}"
        case _:
            wanted = _first_line(error.message)
    return f"{wanted}, found {dumps(_at(document, error.instance_path)):.80}", error.instance_path


_TYPES = {
    "array": "a list", "boolean": "true or false", "integer": "a whole number", "null": "null", "number": "a number",
    "object": "an object", "string": "a text",
}  # fmt: skip


def _first_line(text: str) -> str:
    return text.partition("\n")[0].strip()


def _in(path: Sequence[str | int]) -> str:
    return f" (in {path_text(path)})" if path else ""


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:80]) for name in names[:5])
    return f"{shown} {'is' if len(names) == 1 else 'are'}"


def _at(value: Json, path: Sequence[str | int]) -> Json:
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _best_of(branches: Sequence[Sequence[jsonschema_rs.ValidationError]], depth: int) -> str | None:
    """The complaint of the branch that came furthest; of several that came as far, all of them."""
    first = [branch[0] for branch in branches if branch]
    if not first:
        return None
    furthest = max(len(error.instance_path) for error in first)
    told = [
        f"{_first_line(error.message)}{_in(error.instance_path[depth:])}"
        for error in first
        if len(error.instance_path) == furthest
    ]
    return ", or ".join(dict.fromkeys(told))


def _extent(value: Json) -> tuple[int, int]:
    """How many parts a value has, and characters in its texts."""
    parts = length = 0
    pending = [value]
    while pending:
        part = pending.pop()
        parts += 1
        if isinstance(part, str):
            length += len(part)
        elif isinstance(part, Mapping):
            length += sum(map(len, part))
            pending.extend(part.values())
        elif isinstance(part, list | tuple):
            pending.extend(part)
    return parts, length


# -- how much there is to a schema --------------------------------------------------------------------------------

_MAPS = ("properties", "patternProperties", "dependentSchemas", "dependencies")
_DEFINITIONS = ("$defs", "definitions")
_DATA = (
    "enum",
    "const",
    "default",
    "examples",
    "required",
    "type",
    "description",
    "title",
    "$comment",
    "$schema",
)


@dataclass(frozen=True, slots=True)
class _Weight:
    parts: int = 1
    patterns: int = 0

    def __add__(self, other: _Weight) -> _Weight:
        return _Weight(
            min(self.parts + other.parts, MAX_WEIGHT + 1), min(self.patterns + other.patterns, MAX_WEIGHT)
        )


class _Weighing:
    """Adds up what a value meets, following references. Every part is weighed once, whatever leads to it."""

    def __init__(self, document: Json, *, allows_recursion: bool) -> None:
        self._document = document
        self._allows_recursion = allows_recursion
        self._known: dict[int, _Weight | None] = {}
        self._patterns = 0

    def weigh(self) -> _Weight:
        weight = self._of(self._document, 0)
        if weight.parts > MAX_WEIGHT:
            _invalid(
                f"a value may meet {MAX_WEIGHT:,} parts of a schema, references followed; there are more"
            )
        if isinstance(self._document, Mapping):
            for holder in _DEFINITIONS:
                for part in _values(self._document.get(holder)):
                    self._of(part, 1)
        return weight

    def _of(self, part: Json, depth: int) -> _Weight:
        if not isinstance(part, Mapping):
            return _Weight()
        if depth > MAX_DEPTH:
            _invalid(f"expected at most {MAX_DEPTH} levels, references followed, found more")
        if id(part) in self._known:
            known = self._known[id(part)]
            if known is None:
                if not self._allows_recursion:
                    _invalid(
                        "a schema of a definition cannot refer to itself: nothing bounds what that costs"
                    )
                return _Weight()
            return known
        self._known[id(part)] = None
        weight = self._add(part, depth)
        self._known[id(part)] = weight
        return weight

    def _add(self, part: Mapping[str, Json], depth: int) -> _Weight:
        own = int("pattern" in part) + len(_values(part.get("patternProperties")))
        self._patterns += own
        if self._patterns > MAX_PATTERNS:
            _invalid(f"expected at most {MAX_PATTERNS} patterns, found more")
        weight = _Weight(patterns=own)
        for keyword, value in part.items():
            if keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
                weight += self._of(self._target(keyword, value), depth + 1)
            elif keyword in ("$id", "id", "$anchor", "$dynamicAnchor") and depth and isinstance(value, str):
                if not self._allows_recursion:
                    _invalid(
                        f"{keyword}: a schema of a definition refers to its parts by their place, as in #/$defs/line"
                    )
            elif keyword in _MAPS:
                for inner in _values(value):
                    weight += self._of(inner, depth + 1)
            elif keyword == "enum":
                weight += _Weight(parts=_options(value))
            elif keyword in _DATA or keyword in _DEFINITIONS:
                pass
            elif isinstance(value, list):
                for inner in value:
                    weight += self._of(inner, depth + 1)
            else:
                weight += self._of(value, depth + 1) if isinstance(value, Mapping) else _Weight()
        return weight

    def _target(self, keyword: str, reference: Json) -> Json:
        if not isinstance(reference, str):
            return None
        if reference != "#" and not reference.startswith("#/"):
            if self._allows_recursion:
                return None
            _invalid(
                f"{keyword}: expected a place in the schema such as #/$defs/line, found {reference[:200]!r}"
            )
        found = self._document
        for step in unquote(reference[2:]).split("/") if reference != "#" else ():
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and key.isdecimal() and len(key) < 6:
                found = found[int(key)] if int(key) < len(found) else None
            else:
                found = found.get(key) if isinstance(found, Mapping) else None
        if found is None and not self._allows_recursion:
            _invalid(f"{keyword}: there is nothing at {reference[:200]!r}")
        return found


def _options(value: Json) -> int:
    """What an `enum` weighs: objects and lists are compared one by one, 300 ns each."""
    if not isinstance(value, list):
        return 1
    return sum(15 if isinstance(option, dict | list) else 1 for option in value)


def _values(value: Json) -> list[Json]:
    return list(value.values()) if isinstance(value, Mapping) else []
