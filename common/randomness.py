"""Random bytes for what is made in each step: read from the system a page at a time.

`os.urandom` lets go of the interpreter for each call, and on a busy worker some other thread takes it for up to five milliseconds: a fourteenth of
what a step cost. What is read here is given out once, and a process that was forked reads its own.
"""

from __future__ import annotations

import os
import threading

PAGE = 4_096
_turn = threading.Lock()
_page = b""
_given = 0  # bytes of the page


def random_bytes(count: int) -> bytes:
    """Return `count` bytes from the system's generator, at most 4,096, that nobody else is given. Raises `ValueError` for more."""
    global _page, _given
    if not 0 <= count <= PAGE:
        raise ValueError(f"expected 0 to {PAGE} bytes, found {count}")
    with _turn:
        if len(_page) - _given < count:
            _page, _given = os.urandom(PAGE), 0
        first, _given = _given, _given + count
        return _page[first:_given]


def _forget() -> None:
    global _turn, _page, _given
    _turn, _page, _given = threading.Lock(), b"", 0


os.register_at_fork(after_in_child=_forget)
