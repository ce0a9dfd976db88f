"""Definitions that travel with the package, so that an installed Signalbox can show and measure itself."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import orjson

__all__ = ["document"]


def document(name: str) -> dict[str, Any]:
    """The definition of this name, such as `hello-workflow`. Raises `FileNotFoundError` for another one."""
    content: dict[str, Any] = orjson.loads(files(__name__).joinpath(f"{name}.json").read_bytes())
    return content
