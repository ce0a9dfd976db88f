"""How a document names things: the order of keys, ids, targets, delays. The rules are XState v5's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from statechart.chart import StateNode
from statechart.problems import nearest

MOST_INDEXED = 2_000
"""Bytes of a text that a database finds rows by, such as the key of an obligation, which begins with the path of its state. PostgreSQL's
indexes hold 2,704 bytes an entry and SQLite's whatever comes; the door and the step say the same on both."""

_T = TypeVar("_T")
_SEGMENT = re.compile(r"(?:\A|\.)((?:[^\\.]|\\.)*)", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def js_order(mapping: Mapping[str, _T]) -> Iterable[tuple[str, _T]]:
    """The order in which JavaScript lists an object's keys: array indices ascending, then the others as written.

    XState's document order is this one, so a chart whose states are called "10" and "2" means the same here.
    """
    if len(mapping) < 2 or not any(key[:1].isdigit() for key in mapping):
        return mapping.items()
    indices = sorted((key for key in mapping if _is_array_index(key)), key=int)
    others = [key for key in mapping if not _is_array_index(key)]
    return [(key, mapping[key]) for key in (*indices, *others)]


def _is_array_index(key: str) -> bool:
    return (
        key.isascii() and key.isdigit() and len(key) <= 10 and str(int(key)) == key and int(key) < 2**32 - 1
    )


def delay_reference(key: str) -> str:
    """The DELAY in `xstate.after.DELAY.ID`: a number as JavaScript prints it, anything else as it stands."""
    try:
        number = float(key)
    except ValueError:
        return key
    return str(int(number)) if number.is_integer() else repr(number)


def is_indexed(text: str) -> bool:
    """Is it short enough for the database to find rows by?"""
    return len(text) <= MOST_INDEXED // 4 or len(text.encode("utf-8", "surrogatepass")) <= MOST_INDEXED


class UnknownTarget(Exception):
    """A target that leads nowhere, with what was probably meant."""

    def __init__(self, target: str, suggestion: str | None) -> None:
        self.suggestion = suggestion
        super().__init__(f"unknown target {target!r}")


def resolve_target(source: StateNode, target: str, by_id: Mapping[str, StateNode]) -> StateNode:
    """The state that a transition of `source` names: `sibling`, `sibling.child`, `.child`, `#id` or `#id.child`.

    Raises `UnknownTarget`.
    """
    if target.startswith("#"):
        found = find_by_id(target, by_id)
    elif target.startswith("."):
        found = descend(source, target[1:])
    else:
        found = descend(source.parent, target) if source.parent is not None else None
    if found is None:
        raise UnknownTarget(target, _suggested_target(source, target, by_id))
    return found


def find_by_id(reference: str, by_id: Mapping[str, StateNode]) -> StateNode | None:
    """`#id`, or `#id.child.grandchild`. A dot inside an id may be written with a backslash before it, as in XState."""
    identifier, *keys = split_path(reference[1:])
    if identifier in by_id and (found := _descend_by(by_id[identifier], keys)):
        return found
    return by_id.get(reference[1:])


def descend(node: StateNode | None, path: str) -> StateNode | None:
    """The state below `node` at a dotted path."""
    return _descend_by(node, split_path(path))


def _descend_by(node: StateNode | None, keys: Iterable[str]) -> StateNode | None:
    for key in keys:
        node = node.by_key.get(key) if node is not None else None
    return node


def split_path(path: str) -> list[str]:
    """The parts between the dots; a character after a backslash stands for itself (XState's `toStatePath`)."""
    if "\\" not in path:
        return path.split(".")
    return [_ESCAPED.sub(r"\1", part) for part in _SEGMENT.findall(path)]


def _suggested_target(source: StateNode, target: str, by_id: Mapping[str, StateNode]) -> str | None:
    if source.parent is None and not target.startswith((".", "#")) and descend(source, target) is not None:
        return f".{target}"
    return nearest(target, _targets_from(source, by_id))


def _targets_from(source: StateNode, by_id: Mapping[str, StateNode]) -> Iterator[str]:
    siblings = source.parent.children if source.parent is not None else ()
    yield from (sibling.key for sibling in siblings)
    yield from (f".{child.key}" for child in source.children)
    yield from (f"{sibling.key}.{child.key}" for sibling in siblings[:50] for child in sibling.children[:20])
    yield from (f"#{identifier}" for identifier in by_id)
