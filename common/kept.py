"""What a process keeps of what it has made, by how many they are and by how large they are together.

Who may apply definitions decides how large they are: by their number alone a thousand of them may take all the memory that there is.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Kept(Generic[Key, Value]):
    """The values used last: `most` of them, whose texts have so many `characters` together; a single one however large. Safe for several threads."""

    def __init__(self, *, most: int, characters: int) -> None:
        self._most = most
        self._characters = characters
        self._values: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._sum = 0
        self._turn = threading.Lock()

    def find(self, key: Key) -> Value | None:
        """What is kept for a key; it was used now."""
        with self._turn:
            found = self._values.get(key)
            if found is None:
                return None
            self._values.move_to_end(key)
            return found[0]

    def keep(self, key: Key, value: Value, characters: int) -> None:
        """Keep what was made of a text of so many characters, in the place of what was used longest ago."""
        with self._turn:
            self._drop(key)
            self._values[key] = value, characters
            self._sum += characters
            while len(self._values) > self._most or (self._sum > self._characters and len(self._values) > 1):
                self._drop(next(iter(self._values)))

    def forget(self, key: Key) -> None:
        """Keep nothing for a key."""
        with self._turn:
            self._drop(key)

    def _drop(self, key: Key) -> None:
        gone = self._values.pop(key, None)
        if gone is not None:
            self._sum -= gone[1]
