"""Options of tasks that a definition writes out and the kernel does not judge: what is of no use is refused at the door.

The policy of an AI task and the form of a HUMAN task. What is computed shows when the task runs: a policy refuses then and
never opens anything, a form takes no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from common.ai_policy import read_policy
from common.canonical import dumps
from common.errors import Invalid
from common.schemas import compile_schema, path_text, schema_problem
from statechart.ai import AI
from statechart.problems import Problem

Json = Any
Path = tuple[str | int, ...]

HUMAN = "HUMAN"
_JUDGES: Mapping[str, tuple[str, str, Callable[[Json], object]]] = {
    AI: ("policy", "task.policy", read_policy),
    HUMAN: ("form", "task.form", compile_schema),
}
"""By task type: the option, the code of what is wrong with it, and what raises `Invalid` for it."""


def option_problems(document: Json) -> Iterator[Problem]:
    """What can be said against the literal policies and forms of a document, wherever they stand."""
    for path, task, kind in _tasks(document, ()):
        option, code, judge = _JUDGES[kind]
        written = task.get(option)
        if written is None or "${" in dumps(written) or '"$.' in dumps(written):
            continue
        try:
            judge(written)
        except Invalid as error:
            yield schema_problem(error, code, path_text((*path, option)))


def _tasks(part: Json, path: Path) -> Iterator[tuple[Path, Mapping[str, Json], str]]:
    """Every object of a document that asks for a task of a judged type."""
    if isinstance(part, Mapping):
        kind = next(
            (one for one in (part.get("type"), part.get("src")) if isinstance(one, str) and one in _JUDGES),
            None,
        )
        if kind is not None:
            yield path, part, kind
        for name, inner in part.items():
            yield from _tasks(inner, (*path, name))
    elif isinstance(part, list):
        for index, inner in enumerate(part):
            yield from _tasks(inner, (*path, index))
