"""What a HUMAN task says for people: whose work it is, who may take it, what they are shown, what they may answer.

Read twice: at the door as far as it is written out, and whole when the task is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from statechart.actions import render_json
from statechart.draft import ActionFailed
from statechart.env import Json
from statechart.templates import is_template

MAX_CANDIDATES = 1_000
MAX_NAME = 500


def read_people(options: Mapping[str, Json]) -> None:
    """Raises `ActionFailed` for options of a HUMAN task that are of no use."""
    for name, problem in _problems(options):
        raise ActionFailed(f"task.{_CODES.get(name, name)}", f"{name}: {problem}")


def problems_of(written: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    """(option, what is wrong with it), for everything that is written out."""
    return _problems({name: value for name, value in written.items() if not is_template(value)})


def _problems(options: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    for name, expected, is_good in _SHAPES:
        value = options.get(name)
        if value is not None and not is_good(value):
            yield name, f"expected {expected}, found {render_json(value)[:80]}"


def _is_name(value: Json) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and value == value.strip()


def _are_names(value: Json) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) <= MAX_CANDIDATES
        and all(map(_is_name, value))
    )


_SHAPES = (
    ("assignee", "the name of a person, a text", _is_name),
    ("candidates", f"a list of at most {MAX_CANDIDATES:,} names, texts", _are_names),
    ("form", "a JSON Schema, an object or a boolean", lambda value: isinstance(value, dict | bool)),
    ("fourEyes", "true or false", lambda value: isinstance(value, bool)),
    ("title", "a text", lambda value: isinstance(value, str)),
    ("description", "a text", lambda value: isinstance(value, str)),
)
_CODES = {"fourEyes": "four_eyes"}
