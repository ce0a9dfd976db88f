"""How this process takes memory from the system."""

from __future__ import annotations

import ctypes
import os
import sys

ARENAS = 2
_M_ARENA_MAX = -8  # malloc.h of glibc
_SETTING = "MALLOC_ARENA_MAX"


def take_few_arenas() -> None:
    """Have threads share the C library's pools of memory. Before they are started; MALLOC_ARENA_MAX in the environment wins.

    glibc makes up to eight pools a core, and keeps in each what its threads have let go of: bodies that pass through a hundred threads left
    a worker with 177 of 210 MB that nobody used. The interpreter's lock lets one thread at a time ask for memory anyway.
    """
    if sys.platform != "linux" or _SETTING in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # another C library has none, and other pools
        mallopt(_M_ARENA_MAX, ARENAS)
