"""`signalbox up`: everything on this machine, kept running until Ctrl-C."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TextIO, cast

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from common.config import Settings
from common.errors import Misconfigured
from signalbox.cli.exits import Exit
from signalbox.cli.output import console
from signalbox.cli.render import facts
from signalbox.folder import DataFolder
from signalbox.parts import Workers
from signalbox.processes import ForkServer
from signalbox.screen import notice_line, ready_line, tell_failure
from signalbox.signals import Signals
from signalbox.stack import PartFailed, Plan, Stack
from signalbox.supervisor import Notice
from signalbox.unhurried import Unhurried


def run_up(
    data: Path | None,
    *,
    port: int | None,
    has_flower: bool,
    has_broker: bool,
    workers: Workers,
    fork_server: ForkServer,
) -> Exit:
    """Bring the stack up, keep it up, take it down; the exit code."""
    plan = _plan(data, port=port, has_flower=has_flower, has_broker=has_broker, workers=workers)
    told = Unhurried(sys.stdout)
    try:
        return _run(plan, console(cast("TextIO", told)), fork_server)
    finally:
        told.finish()


def _run(plan: Plan, screen: Console, fork_server: ForkServer) -> Exit:
    def say(notice: Notice) -> None:
        screen.print(notice_line(notice))

    with Signals() as signals, Stack(plan, say, fork_server=fork_server) as stack:
        stack.is_unwanted = lambda: signals.stops > 0
        stack.hurried = lambda: signals.stops > 1
        try:
            if not _bring_up(stack, signals, screen):
                return Exit.INTERRUPTED
        except PartFailed as error:
            tell_failure(screen, error)
            return Exit.FAILED
        screen.print(_panel(stack, screen))
        while not signals.stops:
            signals.wait(stack.tick())
        _take_down(stack, screen)
    return Exit.OK


def _plan(
    data: Path | None, *, port: int | None, has_flower: bool, has_broker: bool, workers: Workers
) -> Plan:
    settings = Settings.load()
    given = settings.model_fields_set
    return Plan(
        folder=DataFolder.at(data or settings.data),
        cwd=Path.cwd(),
        environment=os.environ.copy(),
        database_url=settings.database_url if "database_url" in given else None,
        redis_url=settings.redis_url if has_broker and "redis_url" in given else None,
        secret=settings.secret.get_secret_value() if settings.secret else None,
        port=settings.port if port is None and "port" in given else port,
        drain_seconds=settings.drain_seconds,
        has_broker=has_broker,
        has_flower=has_flower,
        workers=workers,
    )


def _bring_up(stack: Stack, signals: Signals, screen: Console) -> bool:
    """Tell each part as it gets ready; False when we were asked to stop meanwhile."""
    screen.print(Text.assemble(("Signalbox", "bold"), f" starts in {stack.folder.path}"))
    try:
        for ready in stack.start():
            screen.print(ready_line(ready))
    except OSError as error:  # of its lock, secret, logs or a part: a full disk, or somebody else's file
        where = "" if error.filename is None else f'"{error.filename}": '
        raise Misconfigured(
            f'cannot start in "{stack.folder.path}": {where}{error.strerror or error}; make room or see who may write there, '
            "or name another folder with --data"
        ) from error
    return signals.stops == 0


def _panel(stack: Stack, screen: Console) -> RenderableType:
    body = Group(
        facts(
            [
                ("URL", Text(stack.url, "bold cyan")),
                ("key", Text(stack.key, "bold")),
                ("", Text(f"in {stack.folder.key_path}, where the `signalbox` command finds it", "dim")),
                ("docs", f"{stack.url}/docs"),
                ("Flower", stack.flower_url),
                ("logs", str(stack.folder.logs)),
                ("mail", str(stack.folder.mail)),
                ("stop", "Ctrl-C drains and stops every process; twice hurries"),
            ]
        ),
        Text(""),
        Text("signalbox apply FILE · signalbox start KEY --watch · signalbox ls", "dim"),
    )
    if not screen.is_terminal:
        return Group(Text("Signalbox is up"), body)
    return Panel(
        body, title="Signalbox is up", title_align="left", border_style="green", expand=False, padding=(1, 2)
    )


def _take_down(stack: Stack, screen: Console) -> None:
    screen.print(Text("stopping: workers finish what they hold, Ctrl-C again hurries", "dim"))
    began = time.monotonic()
    stack.stop()
    screen.print(
        Text(f"stopped in {time.monotonic() - began:.1f} s; everything is kept in {stack.folder.path}", "dim")
    )
