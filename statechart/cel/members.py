"""Reading members and elements: `a.b.c`, `a.?b`, `a[0]`, `has(a.b)`, and why one cannot be read."""

from __future__ import annotations

from typing import Any, NamedTuple

from statechart.cel.errors import INDEX, MISSING, TYPE, ExpressionFailed, Place
from statechart.cel.scope import Run, Scope
from statechart.cel.values import kind


class Step(NamedTuple):
    """One member of a path; with `optional` null where it is missing."""

    key: str
    at: int
    optional: bool


class Chain(NamedTuple):
    """Members in reading order, with what the messages about them need: the owner's name and the whole text."""

    owner: str
    steps: tuple[Step, ...]
    text: str

    def missing(self, position: int, value: Any) -> ExpressionFailed:
        """Why the member at `position` cannot be read from `value`."""
        step = self.steps[position]
        owner = ".".join((self.owner, *(before.key for before in self.steps[:position])))
        return no_member(owner, value, step.key, Place(self.text, step.at))


def extra_reader(name: str, place: Place) -> Run:
    def read(scope: Scope) -> Any:
        try:
            return scope.extra[name]
        except KeyError:
            raise place.failed(MISSING, f'"{name}" has no value here') from None

    return read


def reader(root: Run, chain: Chain) -> Run:
    keys = tuple(step.key for step in chain.steps)
    if len(keys) == 1:
        key = keys[0]

        def read_member(scope: Scope) -> Any:
            value = root(scope)
            try:
                return value[key]
            except (KeyError, TypeError):
                raise chain.missing(0, value) from None

        return read_member

    def read(scope: Scope) -> Any:
        value = start = root(scope)
        try:
            for key in keys:
                value = value[key]
        except (KeyError, TypeError):
            raise unreadable(start, chain) from None
        return value

    return read


def unreadable(value: Any, chain: Chain) -> ExpressionFailed:
    """Why a chain of members cannot be read: walks it again up to the member that is not there."""
    position = 0
    while isinstance(value, dict) and chain.steps[position].key in value:
        value = value[chain.steps[position].key]
        position += 1
    return chain.missing(position, value)


def no_member(owner: str, value: Any, key: str, place: Place) -> ExpressionFailed:
    if isinstance(value, dict):
        return place.failed(MISSING, f'{owner[:80]} has no member "{key[:80]}"', key, value)
    if value is None:
        return place.failed(MISSING, f'{owner[:80]} is null and has no member "{key[:80]}"')
    hint = "; its length is size(…)" if key in {"length", "size"} else ""
    return place.failed(
        TYPE, f'{owner[:80]} is a {kind(value)} and has no members such as "{key[:80]}"{hint}'
    )


def optional_reader(root: Run, chain: Chain) -> Run:
    """From the first `.?` on, what is missing makes the whole chain null."""

    def read(scope: Scope) -> Any:
        value = root(scope)
        forgiving = False
        for position, step in enumerate(chain.steps):
            forgiving = forgiving or step.optional
            if isinstance(value, dict) and step.key in value:
                value = value[step.key]
            elif forgiving and (value is None or isinstance(value, dict)):
                return None
            else:
                raise chain.missing(position, value)
        return value

    return read


def presence(root: Run, chain: Chain) -> Run:
    """`has(a.b.c)`: false where a member is missing, or one on the way is null."""

    def test(scope: Scope) -> bool:
        try:
            value = root(scope)
        except ExpressionFailed as error:
            if error.code in {MISSING, INDEX}:
                return False
            raise
        for position, step in enumerate(chain.steps):
            if value is None:
                return False
            if not isinstance(value, dict):
                raise chain.missing(position, value)
            if step.key not in value:
                return False
            value = value[step.key]
        return True

    return test


def element(value: Any, wanted: Any, optional: bool, place: Place) -> Any:
    """`value[wanted]`: an element of a list by number, a member of a map by name."""
    match value:
        case list():
            if type(wanted) is float and wanted.is_integer():
                wanted = int(wanted)
            if type(wanted) is not int:
                raise place.failed(TYPE, f"a list is indexed by an integer, found {kind(wanted)}")
            if 0 <= wanted < len(value):
                return value[wanted]
            if optional:
                return None
            raise place.failed(INDEX, f"index {wanted} is outside a list of {len(value)}")
        case dict():
            if type(wanted) is not str:
                raise place.failed(TYPE, f"a map is indexed by a string, found {kind(wanted)}")
            if wanted in value:
                return value[wanted]
            if optional:
                return None
            raise no_member("the map", value, wanted, place)
        case None:
            if optional:
                return None
            raise place.failed(MISSING, "cannot index null")
        case str():
            raise place.failed(TYPE, "a string is not indexed; write charAt(…) or substring(…)")
    raise place.failed(TYPE, f"only lists and maps are indexed, found {kind(value)}")
