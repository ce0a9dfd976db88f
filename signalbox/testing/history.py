"""What happened to an instance, as a test reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

from common.canonical import dumps, read
from common.clock import instant_text

LAST = 10
_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Entry:
    """One dotted entry of a history: `sequence` "12.3", and the facts of its type."""

    sequence: str
    type: str
    at: str
    actor: str
    facts: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.facts[name]

    def __str__(self) -> str:
        told = dumps(self.facts)
        told = told if len(told) <= _WIDTH else f"{told[:_WIDTH]}…"
        return f"{self.sequence:>6}  {self.at}  {self.type}  {told}"


class History(Sequence[Entry]):
    """The entries of one instance, in order."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = tuple(entries)

    @classmethod
    def of(cls, rows: Sequence[dict[str, Any]]) -> History:
        """Read history rows as the orchestrator makes them."""
        return cls([entry for row in rows for entry in _entries(row)])

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> History: ...
    def __getitem__(self, index: int | slice) -> Entry | History:
        return History(self._entries[index]) if isinstance(index, slice) else self._entries[index]

    def __len__(self) -> int:
        return len(self._entries)

    def types(self) -> list[str]:
        """The type of every entry, in order."""
        return [entry.type for entry in self._entries]

    def of_type(self, type: str) -> list[Entry]:
        """The entries of one type, in order."""
        return [entry for entry in self._entries if entry.type == type]

    def __str__(self) -> str:
        return "\n".join(str(entry) for entry in self._entries)


def _entries(row: dict[str, Any]) -> Iterator[Entry]:
    for position, change in enumerate(read(row["changes"]), start=1):
        facts = {name: value for name, value in change.items() if name != "type"}
        yield Entry(
            f"{row['sequence']}.{position}", change["type"], instant_text(row["at"]), row["actor"], facts
        )
