"""`signalbox demo`: hello-workflow from end to end, on real parts, with real times.

Brings up the embedded stack in a folder of its own, asks the API for everything that it shows, and takes the stack down
again. The folder stays, with its database and the mail; a second run goes on with it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from email import message_from_bytes
from email.policy import default as email_policy
from pathlib import Path

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from common.errors import SignalboxError
from common.lifecycle import InstanceStatus
from signalbox import examples
from signalbox.cli import STARTED
from signalbox.cli.exits import Exit
from signalbox.cli.output import console
from signalbox.cli.render import between, duration, history_table, json_block, status_text, verdict_line
from signalbox.cli.timeline import print_timeline
from signalbox.client import Client
from signalbox.folder import DEFAULT_FOLDER, DataFolder
from signalbox.screen import notice_line, ready_line
from signalbox.shapes import Entry, Instance, Json, Task
from signalbox.signals import end_in_order_on_sigterm
from signalbox.stack import PartFailed, Plan, Stack

DEMO_FOLDER = DEFAULT_FOLDER / "demo"
DEFINITION = "hello-workflow"
PATIENCE_SECONDS = 20.0
PRIVATE = 0o077
LOG_LINES = 8
SHOWN_HEADERS = ("From", "To", "Subject", "Date", "Message-ID")

# The demo shows the embedded stack, whatever is set for others: it must not reach a real database or mail server.
_NOT_FOR_THE_DEMO = ("DATABASE_URL", "REDIS_URL", "SMTP_URL")


class DemoFailed(SignalboxError):
    """A step of the demo did not do what it should."""

    code = "demo.failed"


def run_demo(data: Path | None) -> Exit:
    """Show everything; the exit code."""
    os.umask(PRIVATE)
    end_in_order_on_sigterm()
    screen = console(sys.stdout)
    folder = DataFolder.at(data or DEMO_FOLDER)
    # Children start in the demo's folder: a `.env` of the current one is not for them.
    plan = Plan(folder=folder, cwd=folder.path, environment=_environment(os.environ))
    with Stack(plan, lambda notice: screen.print(notice_line(notice))) as stack:
        demo = Demo(screen, stack)
        try:
            demo.show()
        except SignalboxError as error:
            demo.show_failure(error)
            return Exit.FAILED
        stopping = time.monotonic()
        stack.stop()
        demo.show_end(total=time.monotonic() - STARTED, stopping=time.monotonic() - stopping)
    return Exit.OK


def _environment(mine: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in mine.items()
        if name not in _NOT_FOR_THE_DEMO and not name.startswith("SIGNALBOX_")
    }


class Demo:
    """The scenes, in the order in which a visitor sees them."""

    def __init__(self, screen: Console, stack: Stack) -> None:
        self._screen = screen
        self._stack = stack
        self._scene = 0
        self._times: list[tuple[str, str]] = []

    def show(self) -> None:
        """All scenes. Raises `SignalboxError` for the first thing that is not as it should be."""
        self._print(Text.assemble(("Signalbox", "bold"), "  durable statecharts on Celery"))
        self._start_stack()
        with self._stack.client() as client:
            self._apply(client)
            instance = self._start_and_watch(client)
            tasks = list(client.tasks(instance_id=instance["id"]))
            self._show_mail(tasks)
            entries = self._show_history(client, instance)
            self._heading("The context that it ended with")
            self._print(json_block(instance["context"]), indent=2)
            self._show_times(instance, entries, tasks)

    def show_failure(self, error: SignalboxError) -> None:
        """What went wrong, and how the logs of the processes end."""
        self._print(Text(""))
        self._print(Text.assemble(("the demo failed", "bold red"), f": {error.message}"))
        if isinstance(error, PartFailed):
            logs = {error.fields["part"]: error.log_end}
        else:
            logs = {
                name: self._stack.supervisor.log_end(name, LOG_LINES)
                for name in self._stack.supervisor.names()
            }
        for name, lines in logs.items():
            self._print(Text(f"--- end of {name}.log", "bold"))
            for line in lines:
                self._print(Text(line, "dim"), indent=2)
        self._print(Text(f"the logs are in {self._stack.folder.logs}", "dim"))

    def show_end(self, *, total: float, stopping: float) -> None:
        """Everything is stopped: how long it all took, and what to try next."""
        self._print(Text(""))
        self._print(
            Text.assemble(
                ("✓ ", "green"),
                f"all processes stopped in {_seconds(stopping)}; the whole demo took {_seconds(total)}",
            )
        )
        self._heading("Try next", numbered=False)
        grid = Table.grid(padding=(0, 3))
        for command, what in (
            ("signalbox up", "keep the stack running; it prints its URL and key"),
            ("signalbox apply FILE", "apply a definition of your own"),
            (f"signalbox start {DEFINITION} --watch", "start one and see it move"),
            ("signalbox --help", "everything else"),
        ):
            grid.add_row(Text(command, "bold"), Text(what, "dim"))
        self._print(grid, indent=2)

    # --- the scenes ---------------------------------------------------------------------------------------------

    def _start_stack(self) -> None:
        self._heading("Start the stack: each part a process of its own, on this machine")
        began = time.monotonic()
        for ready in self._stack.start():
            self._print(ready_line(ready))
        self._note_time("stack up", f"{_seconds(time.monotonic() - began)}")

    def _apply(self, client: Client) -> None:
        self._heading(f"Apply the definition {DEFINITION}")
        document = examples.document(DEFINITION)
        for line in arrows(document):
            self._print(Text(line, "cyan"), indent=4)
        began = time.monotonic()
        definition = client.apply(document)
        took = timedelta(seconds=time.monotonic() - began)
        self._print(
            Text.assemble(
                ("  ✓ ", "green"),
                f"version {definition['version']}, ",
                status_text(definition["status"]),
                (f"  {duration(took)}, checked and stored", "dim"),
            )
        )
        self._note_time("definition applied", duration(took))

    def _start_and_watch(self, client: Client) -> Instance:
        self._heading("Start an instance over HTTP, and watch it")
        self._print(
            Text(f'POST {self._stack.url}/api/v1/instances {{"definitionKey": "{DEFINITION}"}}', "dim"),
            indent=4,
        )
        began = time.monotonic()
        instance = client.start(DEFINITION)
        took = timedelta(seconds=time.monotonic() - began)
        self._note_time("start accepted, answered", duration(took))
        self._print(
            Text.assemble(("  ✓ ", "green"), instance["id"], (f"  accepted in {duration(took)}", "dim"))
        )
        self._print(Text(""))
        print_timeline(
            self._screen,
            client,
            instance["id"],
            deadline=time.monotonic() + PATIENCE_SECONDS,
            idle=self._stack.tick,
        )
        ended = client.instance(instance["id"])
        if ended["status"] != InstanceStatus.COMPLETED:
            why = f": {ended['error']['message']}" if ended["error"] else ""
            raise DemoFailed(
                f'instance {ended["id"]} is "{ended["status"]}" after {PATIENCE_SECONDS:g} s, '
                f'expected "completed"{why}'
            )
        self._print(Text(""))
        took = between(ended["createdAt"], ended["finishedAt"] or ended["createdAt"])
        self._print(
            Text.assemble(
                ("  ✓ ", "green"), status_text(ended["status"]), f" {duration(took)} after its start"
            )
        )
        return ended

    def _show_mail(self, tasks: Sequence[Task]) -> None:
        self._heading("The mail that it sent")
        for task in tasks:
            path = self._stack.folder.mail / f"{task['id']}.eml"
            if not path.exists():
                raise DemoFailed(
                    f'task {task["id"]} ({task["type"]}) is "{task["status"]}", but wrote no mail to {path}'
                )
            self._print(Text(str(path), "bold"), indent=2)
            self._print(_headers(path), indent=4)

    def _show_history(self, client: Client, instance: Instance) -> list[Entry]:
        self._heading("Its history: one row a consumed event, each hash covers the one before")
        entries = list(client.history(instance["id"]))
        verdict = client.verify(instance["id"])
        self._print(history_table(entries), indent=2)
        self._print(Text.assemble("  ", verdict_line(verdict)))
        if not verdict["valid"]:
            raise DemoFailed(f"the history of {instance['id']} does not verify: {verdict['problems']}")
        return entries

    def _show_times(self, instance: Instance, entries: Sequence[Entry], tasks: Sequence[Task]) -> None:
        self._heading("How long it took")
        began = instance["createdAt"]
        for when, what in milestones(instance, entries, tasks):
            self._note_time(what, f"+{duration(between(began, when))}")
        grid = Table.grid(padding=(0, 3))
        grid.add_column()
        grid.add_column(justify="right", style="bold")
        for what, took in self._times:
            grid.add_row(what, took)
        self._print(grid, indent=2)

    # --- on the screen ------------------------------------------------------------------------------------------

    def _heading(self, text: str, *, numbered: bool = True) -> None:
        self._print(Text(""))
        if numbered:
            self._scene += 1
            self._print(Text.assemble((f"{self._scene}  ", "bold cyan"), (text, "bold")))
        else:
            self._print(Text(text, "bold"))

    def _print(self, renderable: RenderableType, *, indent: int = 0) -> None:
        self._screen.print(Padding(renderable, (0, 0, 0, indent), expand=False) if indent else renderable)

    def _note_time(self, what: str, took: str) -> None:
        self._times.append((what, took))


def arrows(document: Mapping[str, Json]) -> list[str]:
    """The transitions of a flat definition, one a line: "start ── WORKFLOW_START ──▶ notify"."""
    return [
        f"{name} ── {event} ──▶ {transition['target']}"
        for name, state in document["states"].items()
        for event, transition in state.get("on", {}).items()
    ]


def milestones(instance: Instance, entries: Sequence[Entry], tasks: Sequence[Task]) -> list[tuple[str, str]]:
    """(instant, what happened) from the start to the end of an instance, in order of time."""
    found = [(entries[0]["at"], "first step taken")] if entries else []
    for task in tasks:
        for attempt in task["attempts"]:
            found.append((attempt["startedAt"], f"{task['type']} task claimed"))
            if attempt["endedAt"]:
                found.append((attempt["endedAt"], f"{task['type']} task {attempt['outcome']}"))
    if instance["finishedAt"]:
        found.append((instance["finishedAt"], "instance completed"))
    return sorted(found, key=lambda one: one[0])


def _headers(path: Path) -> RenderableType:
    message = message_from_bytes(path.read_bytes(), policy=email_policy)
    grid = Table.grid(padding=(0, 2))
    for name in SHOWN_HEADERS:
        if message[name] is not None:
            grid.add_row(Text(f"{name}:", "dim"), Text(str(message[name])))
    return grid


def _seconds(seconds: float) -> str:
    return duration(timedelta(seconds=seconds))
