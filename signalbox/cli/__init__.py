"""What people type. Commands parse, call and print; what they call speaks HTTP like any other caller."""

from __future__ import annotations

import os
import sys
import time
from typing import NoReturn

from common.errors import SignalboxError
from signalbox.cli.exits import Exit, Failed, UsageError, exit_code
from signalbox.cli.output import Output

STARTED = time.monotonic()
"""When this process began to do something: what it takes to load libraries is time, too."""


def main() -> NoReturn:
    """Run the command line of this process and exit with a code of `exits.py`."""
    as_json = "--json" in sys.argv[1:]
    try:
        sys.exit(_run_for_json() if as_json else _run())
    except SignalboxError as error:
        Output(as_json).fail(error)
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has seen enough (`signalbox ls | head`). Nothing may be written at our end any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.OK)


def _run() -> int:
    """Run the command; what is wrong with its options and arguments Typer tells people itself, and exits."""
    from signalbox.cli.app import app  # noqa: PLC0415 - typer is loaded when it is used, not by whoever imports us

    app()
    return Exit.OK


def _run_for_json() -> int:
    """Run the command and return its exit code. What Typer would tell people is raised as one of our own errors."""
    from typer import Abort  # noqa: PLC0415 - as above
    from typer._click.exceptions import ClickException  # noqa: PLC0415 - as above; Typer's own copy of Click

    from signalbox.cli.app import app  # noqa: PLC0415 - as above

    try:
        code: int | None = app(standalone_mode=False)  # None where the command has just ended
    except ClickException as error:
        raise UsageError(error.format_message()) from error
    except Abort:
        raise Failed("nothing is done: it was not confirmed") from None
    return Exit.OK if code is None else code
