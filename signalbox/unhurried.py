"""A stream for who must go on whatever happens to those who read it: `up` looks after processes and only tells of it.

A reader may go away (a closed pipe, a terminal that is gone), never have been there (a closed stdout), or stop reading (Ctrl-S,
a pager): then what is told is lost, or waits, and nobody waits for it.
"""

from __future__ import annotations

import io
import os
import queue
import threading
import time
from typing import TextIO

KEPT = 1_000
"""Pieces that wait for a reader who does not read; what comes after them is lost."""
LAST_WORDS_SECONDS = 1.0


class Unhurried(io.TextIOBase):
    """Writes to the file under `stream` from a thread of its own. None is a stream that was closed when the process began."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._waiting: queue.Queue[bytes] = queue.Queue(KEPT)
        self._is_heard = stream is not None
        if stream is not None:
            threading.Thread(target=self._tell, args=(stream.fileno(),), name="screen", daemon=True).start()

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def write(self, text: str, /) -> int:
        if self._is_heard and self._stream is not None and not self._waiting.full():
            self._waiting.put_nowait(text.encode(self._stream.encoding, "replace"))
        return len(text)

    def finish(self) -> None:
        """Give a reader who reads the time to hear the end."""
        until = time.monotonic() + LAST_WORDS_SECONDS
        while self._is_heard and self._waiting.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.005)

    def _tell(self, file: int) -> None:
        # Not through the stream: its lock, held by a thread that waits, would keep the interpreter from ending.
        try:
            while True:
                left = self._waiting.get()
                while left:
                    left = left[os.write(file, left) :]
                self._waiting.task_done()
        except OSError:
            self._is_heard = False  # nobody is there any more
