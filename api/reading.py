"""Reading requests: strict JSON bodies, typed query parameters, headers. Everything refused here costs no statement.

JSON is read by `common.canonical.loads` before Pydantic sees it: Pydantic lets duplicate keys, NaN and NUL pass.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from types import NoneType
from typing import Any, get_args, get_origin

from flask import Request
from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails
from werkzeug.exceptions import ClientDisconnected

from api.operations import Operation
from common.canonical import dumps, loads
from common.config import Limits
from common.errors import Invalid, LimitExceeded, NotFound
from common.ids import is_id
from statechart.expected import expected, found
from statechart.problems import nearest

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_LONGEST_KEY = 1_000
_LARGEST_INTEGER = 2**31 - 1  # of a column: a version beyond it exists nowhere


def read_path(values: Mapping[str, str]) -> dict[str, Any]:
    """The parameters of the path: ids are UUIDs, versions are numbers, keys are text. Anything else names nothing: 404."""
    return {name: _version(text) if name == "version" else _name(name, text) for name, text in values.items()}


def _name(name: str, text: str) -> str:
    if not (is_id(text) if name.endswith("_id") else "\0" not in text and len(text) <= _LONGEST_KEY):
        raise missing(name.removesuffix("_id"), text)
    return text


def _version(text: str) -> int:
    is_number = text.isascii() and text.isdigit() and len(text) <= 10
    number = int(text) if is_number else 0
    if not 0 < number <= _LARGEST_INTEGER:
        raise missing("version", text)
    return number


_MISSING = {
    "key": ("definition", "definition.not_found"),
    "version": ("version", "definition.not_found"),
    "definition": ("definition", "definition.not_found"),
    "instance": ("instance", "instance.not_found"),
    "task": ("task", "task.not_found"),
    "incident": ("incident", "incident.not_found"),
    "metadata_key": ("metadata", "metadata.not_found"),
    "trigger": ("trigger", "trigger.not_found"),
    "schedule": ("schedule", "schedule.not_found"),
    "config": ("configuration value", "config.not_found"),
    "limit_key": ("limit", "limit.not_found"),
    "secret_name": ("secret", "secret.not_found"),
    "suggestion": ("suggestion", "suggestion.not_found"),
    "type": ("task type", "handler.not_found"),
}


def missing(thing: str, name: str) -> NotFound:
    """The one error for what is not there, was never there, or belongs to another tenant."""
    word, code = _MISSING[thing]
    return NotFound(f'no {word} "{name[:100]}"', code=code)


# -- bodies -------------------------------------------------------------------------------------------------------


def read_body(operation: Operation, request: Request, limits: Limits) -> tuple[BaseModel | None, bytes]:
    """The validated body, and the SHA-256 of the request for its idempotency key. Raises `Invalid`, `LimitExceeded`."""
    if operation.is_confidential and operation.body is not None:
        return _confidential_body(operation, operation.body, request, limits), b""
    value = _json_body(operation, request, limits)
    digest = _digest(request, value)
    if operation.body is None or value is _NOTHING:
        return None, digest
    try:
        return operation.body.model_validate(value), digest
    except ValidationError as error:
        raise refused_members(error, operation.body) from error


def _confidential_body(
    operation: Operation, model: type[BaseModel], request: Request, limits: Limits
) -> BaseModel:
    """The validated body, of which no refusal and no traceback tells a word."""
    try:
        return model.model_validate(_json_body(operation, request, limits))
    except LimitExceeded as error:
        raise error from None
    except (ValidationError, Invalid) as error:
        code = error.code if isinstance(error, Invalid) else "request.invalid"
        known = ", ".join(f'"{name}"' for name in _known(model, ()))
        raise Invalid(
            f"the body cannot be accepted, and what is wrong with it is not told, because it is confidential: "
            f"expected an object in strict JSON with {known}",
            code=code,
        ) from None


_NOTHING: Any = object()


def _json_body(operation: Operation, request: Request, limits: Limits) -> Any:
    coding = request.headers.get("Content-Encoding", "identity").lower()
    if coding != "identity":
        raise Invalid(
            f'a body is taken as it is: expected no "Content-Encoding", found "{coding[:40]}"',
            code="request.media_type",
        )
    raw = _bounded(request, limits.max_body_bytes)
    if not raw and operation.body_is_optional:
        return _NOTHING
    if not request.is_json:
        found = request.mimetype or "none"
        raise Invalid(
            f'the body must be JSON: expected "Content-Type: application/json", found {found}',
            code="request.media_type",
        )
    return loads(raw, max_bytes=limits.max_body_bytes, max_depth=limits.max_json_depth)


def _bounded(request: Request, allowed: int) -> bytes:
    """Read the body, but not more than is allowed of it: a `Content-Length` beyond that is refused unread.

    A chunked body has no length. Werkzeug stops reading it one byte past the limit (`app.create_app` says so), and does
    not tell whether it was cut off there: that one byte does.
    """
    length = request.content_length
    if length is None or length <= allowed:
        raw = request.get_data(cache=False)
        if len(raw) < (length or 0):
            raise ClientDisconnected  # nobody knows what the rest would have said
        if len(raw) <= allowed:
            return raw
    message = f"a body may have {allowed} bytes, found {length or 'more'}"
    raise LimitExceeded(message, limit="max_body_bytes", allowed=allowed)


def _digest(request: Request, value: Any) -> bytes:
    body = b"" if value is _NOTHING else dumps(value).encode()
    head = f"{request.method} {request.full_path.rstrip('?')}\n"
    return sha256(head.encode() + body).digest()


# -- query parameters ---------------------------------------------------------------------------------------------


def read_query(model: type[BaseModel] | None, request: Request) -> BaseModel | None:
    """The validated query parameters; unknown ones are refused. Raises `Invalid`."""
    values: dict[str, Any] = {}
    repeatable = _repeatable(model) if model is not None else frozenset()
    for name, texts in request.args.lists():
        if any("\0" in text for text in texts):
            raise Invalid(f'the parameter "{name[:100]}" contains NUL')
        if name not in repeatable and len(texts) > 1:
            raise Invalid(f'the parameter "{name[:100]}" may be given once, found {len(texts)} times')
        values[name] = texts if name in repeatable else texts[0]
    if model is None:
        model = _NoParameters
    try:
        read = model.model_validate(values)
    except ValidationError as error:
        raise refused_members(error, model, what="parameter") from error
    return None if model is _NoParameters else read


class _NoParameters(BaseModel, extra="forbid"):
    pass


@cache
def _repeatable(model: type[BaseModel]) -> frozenset[str]:
    return frozenset(
        field.alias or name
        for name, field in model.model_fields.items()
        if get_origin(field.annotation) in (list, tuple)
    )


# -- refusals -----------------------------------------------------------------------------------------------------


def refused_members(error: ValidationError, model: type[BaseModel], *, what: str = "member") -> Invalid:
    problems = [_problem(each, model, what) for each in error.errors(include_url=False)[:50]]
    message = "; ".join(f"{one['path'] or 'body'}: {one['message']}" for one in problems[:5])
    return Invalid(message, problems=problems)


def _problem(error: ErrorDetails, model: type[BaseModel], what: str) -> dict[str, Any]:
    place = (
        error["loc"][:1] if what == "parameter" else error["loc"]
    )  # a parameter that may come twice is no list
    path = ".".join(str(part) for part in place)
    suggestion = None
    match error["type"]:
        case "extra_forbidden":
            code = f"{what}.unknown"
            suggestion = nearest(str(error["loc"][-1]), _known(model, error["loc"][:-1]))
            message = f'unknown {what} "{str(error["loc"][-1])[:100]}"'
            message += f'; did you mean "{suggestion}"?' if suggestion else ""
        case "missing":
            code, message = f"{what}.missing", f'"{error["loc"][-1]}" is missing'
        case _:
            code, (message, suggestion) = f"{what}.invalid", _wrong(error)
    return {
        "severity": "error",
        "code": code,
        "path": path[:200],
        "message": message,
        "suggestion": suggestion,
    }


def _wrong(error: ErrorDetails) -> tuple[str, str | None]:
    """What was expected and found, and what of a few words may have been meant."""
    wanted, given = expected(error), error["input"]
    if wanted is None:
        text = error["msg"].removeprefix("Value error, ")
        return text[:1].lower() + text[1:], None
    words = re.findall("'([^']*)'", wanted)
    suggestion = nearest(given, words) if isinstance(given, str) else None
    if not error["loc"] and wanted == "an object":
        wanted = "a JSON object"
    hint = f'; did you mean "{suggestion}"?' if suggestion else ""
    return f"expected {wanted}, found {found(given)}{hint}", suggestion


def _known(model: type[BaseModel], way: tuple[int | str, ...]) -> list[str]:
    """The members that the object at `way` may have."""
    found: type[BaseModel] = model
    for step in way:
        field = next(
            (field for name, field in found.model_fields.items() if (field.alias or to_camel(name)) == step),
            None,
        )
        nested = _nested(field.annotation) if field is not None else found
        if nested is None:
            return []
        found = nested
    return [field.alias or name for name, field in found.model_fields.items()]


def _nested(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(
        (found for one in get_args(annotation) if one is not NoneType and (found := _nested(one))), None
    )


# -- headers ------------------------------------------------------------------------------------------------------


def read_idempotency_key(request: Request) -> str | None:
    """The `Idempotency-Key`, or None. Raises `Invalid` for one that is not 1 to 255 visible ASCII characters."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise Invalid(
            "an Idempotency-Key has 1 to 255 visible ASCII characters without spaces",
            code="idempotency.key_invalid",
        )
    return key
