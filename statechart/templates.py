"""Values of a definition: JSON in which texts may hold expressions.

- `"${expr}"` alone is the value of the expression, with its type.
- Inside text each `${expr}` is rendered: strings as they are, everything else as canonical JSON, so null is `null`.
- `"$.a.b"` is short for reading `context.a.b`, but null where anything on the way is missing; a segment may be the
  number of a list's element, and `length` is the size of a list.
- `${secret.NAME}` and `${link.NAME}` stay text: they are resolved where a task runs, and nowhere else.
- One dollar more makes it literal: `$${` is `${`, and a leading `$$.` is `$.`. A text that starts with `$config.` is
  left as it is.

Objects and lists are searched to any depth; keys are never templates. What holds nothing to evaluate is a literal and
returned as it stands, without a copy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

from statechart.cel.errors import SYNTAX, TOO_DEEP, VALUE, Place
from statechart.cel.meter import Meter, weight
from statechart.cel.values import MAX_VALUE_DEPTH, to_text, weigh
from statechart.env import Json
from statechart.expressions import Expression, Scope, compile_expression

Evaluate: TypeAlias = Callable[[Scope], Json]
# Where in a value something stands: keys of objects and positions in lists, outermost first.
Where: TypeAlias = tuple[str | int, ...]

_OPENING = re.compile(r"\$\$\{|\$\{")
# What may hide a brace inside an expression: its strings and comments.
_INSIDE = re.compile(
    r"""[rR](?:\"{3}.*?\"{3}|'{3}.*?'{3}|"[^"]*"|'[^']*')
    |\"{3}(?:[^\\]|\\.)*?\"{3}|'{3}(?:[^\\]|\\.)*?'{3}
    |"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'
    |//[^\n\r]*|[{}]""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPED_PATH = re.compile(r"\$\$+\.")
_REFERENCE = r"\s*(?:secret|link)\.[A-Za-z_][A-Za-z0-9_.\-]*\s*"
_SECRET = re.compile(_REFERENCE)
_SECRETS = re.compile(rf"\$\{{{_REFERENCE}\}}")
_SECRET_OPENING = re.compile(r"\$\{\s*(?:secret|link)\.")
_SMALL = 256  # bytes of a literal that are not worth counting
_ANY = 2**62
_WHOLE = Place("(the whole value)", 0)


@dataclass(frozen=True, slots=True)
class Value:
    """A compiled value. `paths` are the dotted names that its expressions read; `secrets` the places of the texts
    that refer to secrets, as the definition wrote them: only these may be resolved, never text that came as data.
    """

    is_literal: bool
    paths: frozenset[str]
    secrets: tuple[Where, ...]
    _evaluate: Evaluate
    _is_nested: bool

    def evaluate(self, scope: Scope) -> Json:
        """Plain JSON, to be treated as immutable: it may share parts with the definition and the scope.

        All expressions of the value share one meter. Raises `ExpressionFailed`.
        """
        if not self._is_nested:
            return self._evaluate(scope)
        shared = scope.meter
        scope.meter = meter = shared or Meter()
        try:
            value = self._evaluate(scope)
        finally:
            scope.meter = shared
        # Each part is bounded already; the whole may hold many of them.
        meter.charge_result(weigh(value, meter, _WHOLE).bytes, _WHOLE)
        return value


@dataclass(slots=True)
class _Found:
    """What the compilation of a value notes on its way."""

    extra_names: Collection[str]
    paths: set[str]
    secrets: list[Where]


def is_template(value: Json) -> bool:
    """Whether `value`, or anything inside it, is more than a literal."""
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, str):
            if "${" in part or part.startswith("$.") or _ESCAPED_PATH.match(part):
                return True
        elif isinstance(part, dict):
            pending.extend(part.values())
        elif isinstance(part, list):
            pending.extend(part)
    return False


def names_secret(value: Json) -> bool:
    """Whether a text in `value`, at any depth, looks like one with a secret."""
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, str):
            if _SECRET_OPENING.search(part):
                return True
        elif isinstance(part, dict):
            pending.extend(part.values())
        elif isinstance(part, list):
            pending.extend(part)
    return False


def compile_value(value: Json, *, extra_names: Collection[str] = ()) -> Value:
    """Compile every expression inside `value`. Raises `ExpressionInvalid`, whose `text` is the expression."""
    found = _Found(extra_names, set(), [])
    evaluate = _compile(value, (), found)
    is_nested = isinstance(value, dict | list)
    if evaluate is None:
        return Value(True, frozenset(), tuple(found.secrets), _literal(value), False)
    is_literal = not found.paths and isinstance(evaluate, _Constant)
    return Value(is_literal, frozenset(found.paths), tuple(found.secrets), evaluate, is_nested)


def _literal(value: Json) -> Evaluate:
    """A value as it stands. A large one is counted where it is used: a loop could write it a thousand times in a step."""
    size = weigh(value, Meter(max_operations=_ANY, max_bytes=_ANY), _WHOLE).bytes
    if size <= _SMALL:
        return lambda _scope: value

    def use(scope: Scope) -> Json:
        if scope.meter is not None:
            scope.meter.charge_result(size, _WHOLE)
        return value

    return use


class _Constant:
    """A text that is a literal once its escapes are read."""

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        self.value = value

    def __call__(self, _scope: Scope) -> Json:
        return self.value


def _compile(value: Json, where: Where, found: _Found) -> Evaluate | None:
    """What evaluates `value`, or None where it is a literal."""
    if len(where) > MAX_VALUE_DEPTH:
        raise Place("", 0).invalid(TOO_DEEP, f"the value nests deeper than {MAX_VALUE_DEPTH} levels")
    match value:
        case str():
            return _compile_text(value, where, found)
        case dict():
            members = {key: _compile(item, (*where, key), found) for key, item in value.items()}
            return _object(value, members) if any(members.values()) else None
        case list():
            items = [_compile(item, (*where, position), found) for position, item in enumerate(value)]
            return _list(value, items) if any(items) else None
        case _:
            return None


def _object(literal: dict[str, Json], members: dict[str, Evaluate | None]) -> Evaluate:
    pairs = tuple((key, literal[key], evaluate) for key, evaluate in members.items())

    def build(scope: Scope) -> Json:
        return {key: constant if evaluate is None else evaluate(scope) for key, constant, evaluate in pairs}

    return build


def _list(literal: list[Json], items: list[Evaluate | None]) -> Evaluate:
    pairs = tuple(zip(literal, items, strict=True))

    def build(scope: Scope) -> Json:
        return [constant if evaluate is None else evaluate(scope) for constant, evaluate in pairs]

    return build


def _compile_text(text: str, where: Where, found: _Found) -> Evaluate | None:
    if text.startswith("$."):
        return _compile_path(text, found)
    is_escaped = _ESCAPED_PATH.match(text) is not None
    if "${" not in text:
        return _Constant(text[1:]) if is_escaped else None
    parts = list(_parts(text[1:] if is_escaped else text))
    if any(part.is_secret for part in parts):
        found.secrets.append(where)
        _check_references(text, parts)
    compiled = [_compile_part(part, found) for part in parts]
    match compiled:
        case [Expression() as alone]:
            return alone.evaluate
    if not any(isinstance(part, Expression) for part in compiled):
        joined = "".join(str(part) for part in compiled)
        return None if joined == text else _Constant(joined)
    return _rendered(text, compiled, secrets=sum(part.is_secret for part in parts))


def _check_references(text: str, parts: list[_Part]) -> None:
    """Who resolves the references of a text cannot tell them from literal ones in it, which `$${` would make."""
    written = "".join("\0" if part.is_expression else part.text for part in parts)
    if len(_SECRETS.findall(written)) != sum(part.is_secret for part in parts):
        raise Place(text, 0).invalid(
            SYNTAX, 'a text with secrets cannot hold a literal "${secret.…}" as well'
        )


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of a text: literal, or the inside of a `${…}` where `is_expression`."""

    text: str
    is_expression: bool = False
    is_secret: bool = False


def _parts(text: str) -> Iterator[_Part]:
    position = 0
    while opening := _OPENING.search(text, position):
        if opening.start() > position:
            yield _Part(text[position : opening.start()])
        if opening[0] == "$${":
            yield _Part("${")
            position = opening.end()
            continue
        closing = _closing_brace(text, opening.end())
        inside = text[opening.end() : closing]
        position = closing + 1
        if _SECRET.fullmatch(inside):
            yield _Part(text[opening.start() : position], is_secret=True)
        else:
            yield _Part(inside, is_expression=True)
    if position < len(text):
        yield _Part(text[position:])


def _closing_brace(text: str, start: int) -> int:
    """The offset of the brace that closes the one before `start`."""
    depth = 1
    for found in _INSIDE.finditer(text, start):
        if found[0] == "{":
            depth += 1
        elif found[0] == "}":
            depth -= 1
            if depth == 0:
                return found.start()
    raise Place(text, start - 2).invalid(SYNTAX, 'this "${" is not closed; a literal one is written "$${"')


def _compile_part(part: _Part, found: _Found) -> str | Expression:
    if not part.is_expression:
        return part.text
    expression = compile_expression(part.text, extra_names=found.extra_names)
    found.paths |= expression.paths
    return expression


def _rendered(text: str, parts: list[str | Expression], *, secrets: int) -> Evaluate:
    """What renders a text; one with `secrets` in it takes in no data that would make it hold others."""
    place = Place(text, 0)

    def refuse() -> NoReturn:
        raise place.failed(VALUE, 'a text with secrets cannot take in data that holds "${secret."')

    def render(scope: Scope) -> Json:
        meter = scope.meter or Meter()
        pieces: list[str] = []
        for part in parts:
            if isinstance(part, str):
                piece = part
            else:
                piece = to_text(part.evaluate(scope), meter, place)
                if secrets and _SECRET_OPENING.search(piece):
                    refuse()
            meter.charge_bytes(weight(piece), place)
            pieces.append(piece)
        rendered = "".join(pieces)
        if secrets and len(_SECRETS.findall(rendered)) != secrets:  # put together from several pieces
            refuse()
        return rendered

    return render


def _compile_path(text: str, found: _Found) -> Evaluate:
    segments = text[2:].split(".")
    if "" in segments or "${" in text:
        raise Place(text, 0).invalid(
            SYNTAX,
            'a text that starts with "$." is a path such as "$.order.id"; a literal one starts with "$$."',
        )
    found.paths.add(".".join(("context", *segments)))
    return path_reader(segments)


def path_reader(segments: list[str], *, missing: object = None) -> Evaluate:
    """Reads `segments` from the context, leniently: `missing` where anything on the way is not there."""

    def read(scope: Scope) -> Json:
        value = scope.context
        for segment in segments:
            value = _member(value, segment, missing)
        return value

    return read


def _member(value: Json, segment: str, missing: object) -> Json:
    match value:
        case dict():
            return value.get(segment, missing)
        case list() if segment == "length":
            return len(value)
        case list() if (
            segment.isascii() and segment.isdigit() and len(segment) < 10 and int(segment) < len(value)
        ):
            return value[int(segment)]
        case _:
            return missing
