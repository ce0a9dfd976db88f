"""Names of tools as providers take them: letters, digits, `_` and `-`, at most 64. And back, exactly. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

LONGEST = 64


class WireNames:
    """Names of ours and theirs, one to one for the tools that were offered."""

    def __init__(self, names: Iterable[str]) -> None:
        self._theirs: dict[str, str] = {}
        self._ours: dict[str, str] = {}
        for name in names:
            wire = _plain(name)
            number = 1
            while wire in self._ours:
                number += 1
                wire = f"{_plain(name)[: LONGEST - 4]}_{number}"
            self._theirs[name], self._ours[wire] = wire, name

    def theirs(self, name: str) -> str:
        """The name on the wire; also of one that was never offered, which a model has made up before."""
        return self._theirs.get(name) or _plain(name)

    def ours(self, wire: str) -> str:
        """The tool that a name on the wire stands for; a name that stands for none stays as it is."""
        return self._ours.get(wire, wire)


def _plain(name: str) -> str:
    return re.sub("[^A-Za-z0-9_-]", "_", name)[:LONGEST] or "_"
