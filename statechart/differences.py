"""What differs between two documents: member by member, with the paths that problems have (`states.a.on.GO[0].guard`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

Json = Any
Kind = Literal["added", "removed", "changed", "reordered"]


class Difference(NamedTuple):
    """One member that differs; `before` and `after` are None where there is none. The path of the document itself is ""."""

    path: str
    kind: Kind
    before: Json = None
    after: Json = None


def differences(before: Json, after: Json) -> Iterator[Difference]:
    """Every difference: objects by their members, lists by position, everything else as a whole.

    An object whose members stand in another order is `reordered`, with their names: the order of states has a meaning.
    """
    yield from _differences(before, after, "")


def _differences(before: Json, after: Json, at: str) -> Iterator[Difference]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in (*before, *(name for name in after if name not in before)):
            path = f"{at}.{name}" if at else name
            if name not in after:
                yield Difference(path, "removed", before=before[name])
            elif name not in before:
                yield Difference(path, "added", after=after[name])
            else:
                yield from _differences(before[name], after[name], path)
        kept = [name for name in before if name in after]
        if kept != [name for name in after if name in before]:
            yield Difference(at, "reordered", before=list(before), after=list(after))
    elif isinstance(before, list) and isinstance(after, list):
        for index in range(max(len(before), len(after))):
            path = f"{at}[{index}]"
            if index >= len(after):
                yield Difference(path, "removed", before=before[index])
            elif index >= len(before):
                yield Difference(path, "added", after=after[index])
            else:
                yield from _differences(before[index], after[index], path)
    elif isinstance(before, bool) is not isinstance(after, bool) or before != after:
        yield Difference(at, "changed", before, after)
