"""Arguments that hold JSON: given in place, as `@file`, or as a file of its own. Read strictly, before anyone is asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import canonical
from common.errors import Invalid, LimitExceeded
from signalbox.cli.exits import UsageError

MAX_BYTES = 50_000_000
"""What a command reads at all; the server's own limits are lower."""
STDIN = "-"


def json_argument(text: str | None, option: str) -> Any:
    """Read the value of `option`: JSON, or `@path` of a file with JSON. None stays None.

    Raises `UsageError` that names the option.
    """
    if text is None:
        return None
    source = read_source(text[1:]) if text.startswith("@") else text
    try:
        return canonical.loads(source, max_bytes=MAX_BYTES)
    except Invalid as error:
        message = error.message.removeprefix("body is ")
        raise UsageError(
            f"{option}: {message}; expected JSON such as '{{\"order\": 7}}', or @file, found {_short(text)}"
        ) from error


def json_object(text: str | None, option: str) -> dict[str, Any] | None:
    """As `json_argument`, for options whose value is an object."""
    value = json_argument(text, option)
    if value is None or isinstance(value, dict):
        return value
    raise UsageError(f"{option}: expected a JSON object, found {_short(str(text))}")


def labels(pairs: Sequence[str]) -> dict[str, str]:
    """Read `--label name=value` options. Raises `UsageError` for one without `=`."""
    found = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not (name and separator):
            raise UsageError(f'--label: expected name=value, found "{pair}"')
        found[name] = value
    return found


def read_document(path: str) -> Any:
    """Read a JSON file, or stdin for `-`.

    Raises `UsageError` when it cannot be read, `Invalid` (`json.invalid`) with line, column and the place when it is
    not JSON.
    """
    text = read_source(path)
    try:
        json.loads(text, parse_int=len)  # digits without end must not be read as a number here
    except json.JSONDecodeError as error:
        raise Invalid(
            f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}\n{_excerpt(error)}",
            code="json.invalid",
        ) from error
    except RecursionError as error:
        raise Invalid(f"{path}: JSON nests too deep to be read", code="json.invalid") from error
    try:
        return canonical.loads(text, max_bytes=MAX_BYTES)
    except LimitExceeded as error:
        raise Invalid(f"{path}: {error.message}", code=error.code) from error
    except Invalid as error:
        raise Invalid(f"{path}: {error.message}", code=error.code) from error


def read_object(path: str) -> dict[str, Any]:
    """As `read_document`, for a file that holds a definition: anything but an object is `Invalid`."""
    document = read_document(path)
    if not isinstance(document, dict):
        raise Invalid(
            f"{path}: a definition is a JSON object, found {type(document).__name__}",
            code="definition.invalid",
        )
    return document


def read_source(path: str) -> str:
    """The text of a file, or of stdin for `-`. Raises `UsageError`."""
    try:
        return sys.stdin.read() if path == STDIN else Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f'cannot read "{path}": {error.strerror}') from error
    except UnicodeDecodeError as error:
        raise UsageError(f'cannot read "{path}": byte {error.start} is not UTF-8') from error


def _excerpt(error: json.JSONDecodeError) -> str:
    """The offending line with a mark below the column."""
    line = error.doc.splitlines()[error.lineno - 1] if error.doc.strip() else ""
    start = max(0, error.colno - 60)
    shown = line[start : start + 100].replace("\t", " ")
    return f"    {shown}\n    {' ' * (error.colno - 1 - start)}^"


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}…"
