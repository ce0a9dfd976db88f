"""The program `signalbox`: load the command line, then be it."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line of this process, which exits."""
    with loading():
        import_module("signalbox.cli.app")
        from signalbox.cli import main as run  # noqa: PLC0415 - it is loaded only now

    run()


@contextmanager
def loading() -> Iterator[None]:
    """Load code here, and nothing else.

    Ctrl-C simply ends the process meanwhile: raised in the middle of somebody's import it is a traceback, and where that import is of
    compiled code that does not expect it, a crash. What is loaded stays, and to look through it for garbage, again and again, takes a sixth of the time.
    """
    is_interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_interruptible:  # not where whoever started us has it ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        if is_interruptible:
            signal.signal(signal.SIGINT, signal.default_int_handler)
