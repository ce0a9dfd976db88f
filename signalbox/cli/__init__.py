"""What people type. Commands parse, call and print; what they call speaks HTTP like any other caller."""

from __future__ import annotations

import os
import sys
import time
from typing import NoReturn

from common.errors import SignalboxError
from signalbox.cli.exits import Exit, exit_code
from signalbox.cli.output import Output

STARTED = time.monotonic()
"""When this process began to do something: what it takes to load libraries is time, too."""


def main() -> NoReturn:
    """Run the command line of this process and exit with a code of `exits.py`."""
    from signalbox.cli.app import app  # noqa: PLC0415 - typer is loaded when it is used, not by whoever imports us

    try:
        app()
    except SignalboxError as error:
        Output(as_json="--json" in sys.argv[1:]).fail(error)
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has seen enough (`signalbox ls | head`). Nothing may be written at our end any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.OK)
    sys.exit(Exit.OK)
