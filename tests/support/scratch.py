"""Where the files of databases are kept during a run: in memory where there is room, and gone afterwards.

What fsync guards against is a machine that loses power, which no test takes away, and a killed process loses nothing without it.
Whoever measures times sets `TEST_FSYNC=on` (`make test` does for the timed suites), and has a disk to wait for.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IN_MEMORY = "/dev/shm"
ROOM = 4 << 30


def waits_for_disk() -> bool:
    """Does this run want databases that wait for a disk?"""
    return os.environ.get("TEST_FSYNC") == "on"


@contextmanager
def scratch_folder(prefix: str, *, on_disk: bool) -> Iterator[Path]:
    """A new folder, on the disk or, if there is room for a run's databases, in memory; deleted at the end."""
    # Not pytest's own folder: only its owner may enter that one, and PostgreSQL runs as someone else.
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=None if on_disk else _in_memory()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _in_memory() -> str | None:
    return IN_MEMORY if os.path.isdir(IN_MEMORY) and shutil.disk_usage(IN_MEMORY).free > ROOM else None
