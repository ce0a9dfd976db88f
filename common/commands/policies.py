"""Policies of AI tasks that a definition writes out: one that cannot be read is refused when the definition is applied.

What is computed shows when the task runs: it refuses then, and never opens anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from common.ai_policy import read_policy
from common.canonical import dumps
from common.errors import Invalid
from common.schemas import path_text
from statechart.ai import AI
from statechart.problems import Problem

Json = Any
Path = tuple[str | int, ...]


def policy_problems(document: Json) -> Iterator[Problem]:
    """What can be said against the literal policies of a document."""
    for path, task in _tasks(document, ()):
        policy = task["policy"]
        if "${" in dumps(policy) or '"$.' in dumps(policy):
            continue
        try:
            read_policy(policy)
        except Invalid as error:
            yield Problem("error", "task.policy", path_text((*path, "policy")), str(error))


def _tasks(part: Json, path: Path) -> Iterator[tuple[Path, Mapping[str, Json]]]:
    """Every object of a document that asks for an AI task with a policy, wherever it stands."""
    if isinstance(part, Mapping):
        if AI in (part.get("type"), part.get("src")) and part.get("policy") is not None:
            yield path, part
        for name, inner in part.items():
            yield from _tasks(inner, (*path, name))
    elif isinstance(part, list):
        for index, inner in enumerate(part):
            yield from _tasks(inner, (*path, index))
