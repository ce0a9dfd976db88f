"""The bounds of an instance's metadata, said once: for handlers, for the API, for the test kit. Light to import."""

from __future__ import annotations

from typing import Any

from common.canonical import clean, dumps, size
from common.errors import Invalid, LimitExceeded

MAX_KEY = 200
MAX_BYTES = 64_000
"""Of one value."""
MAX_KEYS = 1_000
"""Of one instance."""


def key_text(key: Any) -> str:
    """The name of a value. Raises `Invalid` (`metadata.invalid`, `json.invalid`)."""
    if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY:
        raise Invalid(
            f"metadata key: expected text of 1 to {MAX_KEY} characters, found {key!r:.80}",
            code="metadata.invalid",
        )
    return str(clean(key))


def value_text(value: Any) -> str:
    """A value as it is stored. Raises `Invalid` (`json.invalid`) and `LimitExceeded`."""
    text = dumps(clean(value))
    if size(text) > MAX_BYTES:
        raise LimitExceeded(
            f"metadata of {size(text)} bytes, at most {MAX_BYTES} are allowed; store it elsewhere and keep a reference",
            limit="max_metadata_bytes",
            allowed=MAX_BYTES,
        )
    return text


def too_many_keys() -> LimitExceeded:
    """What is said to who would give an instance one key more than it may have."""
    return LimitExceeded(
        f"an instance has at most {MAX_KEYS:,} metadata keys", limit="max_metadata_keys", allowed=MAX_KEYS
    )
