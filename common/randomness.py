"""Random bytes for what is made in each step: read from the system a page at a time.

`os.urandom` lets go of the interpreter for each call, and on a busy worker some other thread takes it for up to five milliseconds: a fourteenth of
what a step cost. What is read here is given out once, and a process that was forked reads its own.
"""

from __future__ import annotations

import os
import threading

PAGE = 4_096
_turn = threading.Lock()
_unused = b""


def random_bytes(count: int) -> bytes:
    """Return `count` bytes from the system's generator, at most 4,096, that nobody else is given. Raises `ValueError` for more."""
    global _unused  # noqa: PLW0603 - one supply a process
    if not 0 <= count <= PAGE:
        raise ValueError(f"expected 0 to {PAGE} bytes, found {count}")
    with _turn:
        if len(_unused) < count:
            _unused = os.urandom(PAGE)
        given, _unused = _unused[:count], _unused[count:]
    return given


def _forget() -> None:
    global _turn, _unused
    _turn, _unused = threading.Lock(), b""


os.register_at_fork(after_in_child=_forget)
