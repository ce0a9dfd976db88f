"""`signalbox demo [NAME]`: a whole workflow from end to end, on real parts, with real times."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

from rich.text import Text

from common.errors import SignalboxError
from signalbox.cli import STARTED
from signalbox.cli.exits import Exit
from signalbox.cli.output import console
from signalbox.client import Client
from signalbox.demo import Play
from signalbox.demo.stage import Stage
from signalbox.folder import DEFAULT_FOLDER, DataFolder
from signalbox.processes import ForkServer
from signalbox.screen import notice_line
from signalbox.signals import end_in_order_on_sigterm
from signalbox.stack import Plan, Stack

DEMO_FOLDER = DEFAULT_FOLDER / "demo"
# The demo shows the embedded stack, whatever is set for others: it must not reach a real database or mail server.
_NOT_FOR_THE_DEMO = ("DATABASE_URL", "REDIS_URL", "SMTP_URL")


_TRY_NEXT: Mapping[str, str] = {
    "signalbox demo order": "an order: side by side, retried, each item packed",
    "signalbox demo approval": "an AI under policy, and a person who decides by a link",
    "signalbox up": "keep the stack running; it prints its URL and key",
    "signalbox apply FILE": "apply a definition of your own",
    "signalbox --help": "everything else",
}


def run_demo(name: Play, data: Path | None, *, fork_server: ForkServer) -> Exit:
    """Show one demo; the exit code."""
    interruption = end_in_order_on_sigterm()
    screen = console(sys.stdout)
    folder = DataFolder.at(data or DEMO_FOLDER)
    # Children start in the demo's folder: a `.env` of the current one is not for them.
    plan = Plan(folder=folder, cwd=folder.path, environment=_environment(os.environ))
    with Stack(plan, lambda notice: screen.print(notice_line(notice)), fork_server=fork_server) as stack:
        stage = Stage(screen, stack, check=interruption.check)
        try:
            stage.print(Text.assemble(("Signalbox", "bold"), "  durable statecharts on Celery"))
            stage.start_stack()
            with stack.client() as client:
                _play_of(name)(stage, client)
        except SignalboxError as error:
            stage.show_failure(error)
            return Exit.FAILED
        stopping = time.monotonic()
        stack.stop()
        stage.show_end(
            total=time.monotonic() - STARTED,
            stopping=time.monotonic() - stopping,
            next=[(command, what) for command, what in _TRY_NEXT.items() if not command.endswith(name)],
        )
    return Exit.OK


def _play_of(name: Play) -> Callable[[Stage, Client], None]:
    play: Callable[[Stage, Client], None] = import_module(f"signalbox.demo.{name}").play
    return play


def _environment(mine: Mapping[str, str]) -> dict[str, str]:
    kept = {
        name: value
        for name, value in mine.items()
        if name not in _NOT_FOR_THE_DEMO and not name.startswith("SIGNALBOX_")
    }
    return {**kept, "SIGNALBOX_HANDLERS": "signalbox.examples.handlers"}
