"""The door where no installation is asked: by `signalbox check`, and by tests of workflows.

Everything is found that applying a definition would find, but for what only an installation knows: which task types,
functions and definitions there are besides those that come along, and what they say of their input.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from common.canonical import dumps
from common.commands.definitions import find_problems
from common.store.definitions import PublishedTypes
from statechart import Problem
from task_runner import handlers
from task_runner.registry import REGISTRY

assert handlers.__all__, "importing them registers them"  # noqa: S101


def problems_of(document: Mapping[str, Any]) -> list[Problem]:
    """Everything that can be said against a document, errors first."""
    return find_problems(document, _what_comes_along())


@cache
def _what_comes_along() -> PublishedTypes:
    """The inputs of the built-in task types, as every runner publishes them; other types may be there or not."""
    known = [one for one in REGISTRY.all() if one.built_in and one.input_schema is not None]
    return PublishedTypes(
        None, frozenset(), inputs={(one.name, ""): dumps(one.input_schema) for one in known}
    )
