"""What Pydantic complains about, in our words: what was expected, and what was found. For documents, requests and settings alike."""

from __future__ import annotations

from pydantic_core import ErrorDetails

from statechart.env import Json

_KINDS = {
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a number",
    "string_type": "a text",
    "dict_type": "an object",
    "mapping_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "list_type": "a list",
    "tuple_type": "a list",
}
_BOUNDS = {
    "greater_than": ("gt", "a number above {}"),
    "greater_than_equal": ("ge", "at least {}"),
    "less_than": ("lt", "a number below {}"),
    "less_than_equal": ("le", "at most {}"),
    "string_too_short": ("min_length", "a text of at least {} characters"),
    "string_too_long": ("max_length", "a text of at most {} characters"),
    "too_short": ("min_length", "at least {} items"),
    "too_long": ("max_length", "at most {} items"),
    "literal_error": ("expected", "{}"),
    "enum": ("expected", "{}"),
}
_SHOWN = 80


def expected(detail: ErrorDetails) -> str | None:
    """What stands behind "expected" for a complaint of Pydantic's; None where its own message has to do."""
    kind = detail["type"]
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        bound = detail["ctx"][name]
        return words.format(_number(bound) if isinstance(bound, int | float) else bound)
    return _KINDS.get(kind)


def complaint(detail: ErrorDetails) -> str:
    """What Pydantic complains about as a whole message: expected …, found …."""
    if detail["type"] == "missing":
        return f"expected a key {str(detail['loc'][-1])!r}, found none"
    wanted = expected(detail) or detail["msg"].removeprefix("Input should be ")
    return f"expected {wanted}, found {found(detail['input'])}"


def _number(bound: float) -> str:
    return f"{int(bound):,}" if bound == int(bound) else str(bound)


def found(value: Json) -> str:
    """What stands behind "found": an object or a list by what it is, anything else as it is, at most 80 characters."""
    if isinstance(value, dict | list | type(None)):
        return kind_of(value)
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def kind_of(value: Json) -> str:
    names = {dict: "an object", list: "a list", str: "a text", type(None): "null", bool: "a boolean"}
    return names.get(type(value), "a number")
