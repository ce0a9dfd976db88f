"""What a process keeps of what it has made, by how many they are and by how large they are together; `Shared`, of stored texts that
many have in common.

Who may apply definitions decides how large they are: by their number alone a thousand of them may take all the memory that there is.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from hashlib import sha256
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

KNOWN = 20_000
"""Ids of which it is known what their text is: an entry takes some hundred bytes."""


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


class Shared(Generic[Value]):
    """What was made of the texts used last, by the ids that they are stored under. Texts never change under their ids.

    It is kept by what a text says: a thousand tenants that have each applied the same definition share what was made of it, which would
    else be made again and again. Of 20,000 ids it is known what their text is. Safe for several threads.
    """

    def __init__(self, *, most: int, characters: int) -> None:
        self._texts: Kept[str, bytes] = Kept(most=KNOWN, characters=KNOWN)
        self._made: Kept[bytes, Value] = Kept(most=most, characters=characters)

    def find(self, id: str) -> Value | None:
        """What is kept for the text of an id."""
        digest = self._texts.find(id)
        return None if digest is None else self._made.find(digest)

    def keep(self, id: str, text: str, make: Callable[[str], tuple[Value, int]]) -> Value:
        """What is kept for this text, which is stored under `id`; else what `make` makes of it, with the characters that it counts."""
        digest = sha256(text.encode()).digest()
        made = self._made.find(digest)
        if made is None:
            made, characters = make(text)
            self._made.keep(digest, made, characters)
        self._texts.keep(id, digest, 1)
        return made
