"""What was heard before: whoever reaches the broker may play a sealed call again, which must not have anything done twice."""

from __future__ import annotations

from collections import OrderedDict

SENDERS_MAX = 1_000
"""Processes of whose calls one knows how many it has heard."""


class HeardOnce:
    """The numbers of the calls that were heard, by who sent them. For one thread."""

    def __init__(self) -> None:
        self._last: OrderedDict[str, int] = OrderedDict()

    def is_new(self, sender: str, number: int) -> bool:
        """Note the call that is the `number`th of `sender`; False where that one, or one after it, was noted before."""
        if number <= self._last.get(sender, 0):
            return False
        self._last[sender] = number
        self._last.move_to_end(sender)
        while len(self._last) > SENDERS_MAX:
            self._last.popitem(last=False)
        return True
