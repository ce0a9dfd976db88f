"""Canonical JSON text: what is hashed, stored and compared.

A value enters at a door: `loads` for bytes from outside, `clean` for Python values from handlers. Behind the doors
`dumps` writes keys sorted, no spaces, integral numbers as integers. One JSON number type: integers within ±2^53,
finite floats. No NUL and no lone surrogate (PostgreSQL refuses both, and one such value would fail a group commit for ever).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

import orjson

from common.errors import Invalid, LimitExceeded

MAX_INTEGER = 2**53
MAX_DEPTH = 64
MAX_MEMBERS = 200_000
ANY = 2**62
_DUMP = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER
_WRITER_LEVELS = 254  # what orjson writes; it reads more


def dumps(value: Any) -> str:
    """Return the canonical text of a value that came through a door (or was computed from such values).

    Raises `Invalid` (`json.invalid`) for what JSON or the database cannot hold. NaN and infinities are the doors' to
    refuse, and the kernel's: looking for them here would cost a walk through every value.
    """
    try:
        text = orjson.dumps(value, None, _DUMP).decode()
    except TypeError as error:  # orjson.JSONEncodeError is a TypeError
        return _dumps_exactly(value, error)
    if "\\u0000" in text:  # may be an escaped backslash before u0000: look closer only then
        clean(value, max_depth=ANY, max_members=ANY)
    return text


def _dumps_exactly(value: Any, error: TypeError) -> str:
    """Store ±2^53 itself, which orjson takes for inexact; everything else that it refused stays refused."""
    if "53-bit" not in str(error):
        raise Invalid(f"value cannot be stored as JSON: {error}", code="json.invalid") from error
    return orjson.dumps(clean(value, max_depth=ANY, max_members=ANY), option=orjson.OPT_SORT_KEYS).decode()


def is_deeper(value: Any, text: str, levels: int) -> bool:
    """Does `value`, whose text is `text`, nest deeper than `levels`? Asks closely only where there are brackets enough for it."""
    if text.count("[") + text.count("{") <= levels:
        return False
    for _ in range(_WRITER_LEVELS - levels):
        value = [value]
    try:
        orjson.dumps(value)
    except TypeError:  # the text is there, so that nothing but the levels around it can be too much
        return True
    return False


def size(text: str) -> int:
    """How many bytes a text has in UTF-8: what the limits count."""
    return len(text) if text.isascii() else len(text.encode())


def read(text: str | bytes) -> Any:
    """Read text that `dumps` wrote: trusted, fast."""
    return orjson.loads(text)


def loads(
    raw: bytes | str, *, max_bytes: int, limit: str = "max_body_bytes", max_depth: int = MAX_DEPTH
) -> Any:
    """Read JSON from outside, strictly, and return the cleaned value.

    Raises `LimitExceeded` for size, depth or count and `Invalid` (`json.invalid`) for anything that is not plain JSON:
    duplicate keys, NaN and Infinity, NUL, lone surrogates, integers beyond ±2^53, invalid UTF-8.
    """
    try:
        found = len(raw) if isinstance(raw, bytes) else size(raw)
        if found > max_bytes:
            raise LimitExceeded(
                f"{found} bytes of JSON, at most {max_bytes} are allowed", limit=limit, allowed=max_bytes
            )
        text = raw.decode("utf-8") if isinstance(raw, bytes) else raw
        value = json.loads(
            text,
            object_pairs_hook=_no_duplicates,
            parse_constant=_no_constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except RecursionError as error:
        raise LimitExceeded(
            f"JSON nests deeper than {max_depth} levels", limit="max_json_depth", allowed=max_depth
        ) from error
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise Invalid(f"body is not UTF-8: byte {error.start} cannot be read", code="json.invalid") from error
    except json.JSONDecodeError as error:
        raise Invalid(
            f"body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}", code="json.invalid"
        ) from error
    return clean(value, max_depth=max_depth)


def clean(value: Any, *, max_depth: int = MAX_DEPTH, max_members: int = MAX_MEMBERS) -> Any:
    """Return `value` as plain JSON values, refusing what cannot be stored; tuples become arrays, 1.0 becomes 1.

    Raises `Invalid` (`json.invalid`) with the path of the first offence, `LimitExceeded` for depth and count.
    """
    return _Cleaner(max_depth, max_members).clean(value, (), 0)


def storable(text: str) -> str:
    """Text about an error as a database takes it: NUL and lone surrogates are replaced by something to see."""
    return text.replace("\x00", "␀").encode("utf-8", "replace").decode()


class _Cleaner:
    def __init__(self, max_depth: int, max_members: int) -> None:
        self.max_depth = max_depth
        self.max_members = max_members
        self.members = 0

    def clean(self, value: Any, path: tuple[str | int, ...], depth: int) -> Any:
        if value is None or value is True or value is False:
            return value
        if isinstance(value, str):
            return _text(value, path)
        if isinstance(value, int):
            return _whole(int(value), path)
        if isinstance(value, float):
            return _real(value, path)
        if isinstance(value, Mapping):
            self._enter(len(value), depth)
            return {
                _key(key, path): self.clean(item, (*path, str(key)), depth + 1) for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            self._enter(len(value), depth)
            return [self.clean(item, (*path, index), depth + 1) for index, item in enumerate(value)]
        return _refuse(
            f'a value of type "{type(value).__name__}" is not JSON; return objects, arrays, text, numbers, booleans or null',
            path,
        )

    def _enter(self, members: int, depth: int) -> None:
        self.members += members
        if depth >= self.max_depth:
            raise LimitExceeded(
                f"JSON nests deeper than {self.max_depth} levels",
                limit="max_json_depth",
                allowed=self.max_depth,
            )
        if self.members > self.max_members:
            raise LimitExceeded(
                f"JSON has more than {self.max_members} members",
                limit="max_json_members",
                allowed=self.max_members,
            )


def _key(key: Any, path: tuple[str | int, ...]) -> str:
    if not isinstance(key, str):
        _refuse(f"object keys are text, found {key!r}", path)
    return _text(key, path)


def _text(text: str, path: tuple[str | int, ...]) -> str:
    if text.isascii():
        if "\x00" in text:
            _refuse("text contains NUL (U+0000), which cannot be stored", path)
        return str(text)
    if "\x00" in text:
        _refuse("text contains NUL (U+0000), which cannot be stored", path)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        _refuse("text contains a lone surrogate, which is not Unicode", path)
    return str(text)


def _whole(number: int, path: tuple[str | int, ...]) -> int:
    if not -MAX_INTEGER <= number <= MAX_INTEGER:
        _refuse("integer beyond ±2^53; send it as text", path)
    return number


def _real(number: float, path: tuple[str | int, ...]) -> int | float:
    if not math.isfinite(number):
        _refuse(f"{number} is not a JSON number", path)
    if number.is_integer() and abs(number) <= MAX_INTEGER:
        return int(number)
    return number


def _refuse(message: str, path: tuple[str | int, ...]) -> NoReturn:
    where = ".".join(str(part) for part in path)
    raise Invalid(f"{where}: {message}" if where else message, code="json.invalid", path=where)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                # Escaped: a key that is not Unicode must not spoil the answer that tells of it.
                raise Invalid(f"duplicate key {json.dumps(key)} in an object", code="json.invalid")
            seen.add(key)
    return found


def _no_constant(name: str) -> NoReturn:
    raise Invalid(f"{name} is not JSON", code="json.invalid")


def _integer(text: str) -> int:
    if len(text) > 17:  # before int(), which is quadratic in the number of digits
        raise Invalid(f"integer beyond ±2^53: {text[:20]}…; send it as text", code="json.invalid")
    return int(text)


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise Invalid(f"number too large: {text[:20]}", code="json.invalid")
    return number
