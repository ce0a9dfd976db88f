"""The stage of a demo: the embedded stack in a folder of its own, and how everything is shown on it.

Whatever is shown was asked of the API. The stack is taken down again at the end; the folder stays, with its database and the
mail, and a second run goes on with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
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
from signalbox.cli.render import between, duration, history_table, json_block, status_text, verdict_line
from signalbox.cli.timeline import print_timeline
from signalbox.client import Client
from signalbox.screen import ready_line
from signalbox.shapes import Entry, Instance, Json, Task
from signalbox.stack import PartFailed, Stack

PATIENCE_SECONDS = 20.0
LOG_LINES = 8
SHOWN_HEADERS = ("From", "To", "Subject", "Date", "Message-ID")


class DemoFailed(SignalboxError):
    """A step of the demo did not do what it should."""

    code = "demo.failed"


class Stage:
    """Where scenes are shown, in the order in which a visitor sees them. `check` is asked at each whether to go on."""

    def __init__(self, screen: Console, stack: Stack, *, check: Callable[[], None] = lambda: None) -> None:
        self._check = check
        self.screen = screen
        self.stack = stack
        self._scene = 0
        self._told = 0
        self._times: list[tuple[str, str]] = []

    # --- scenes that every demo has -------------------------------------------------------------------------------

    def start_stack(self) -> None:
        self.heading("Start the stack: each part a process of its own, on this machine")
        began = time.monotonic()
        for ready in self.stack.start():
            self.print(ready_line(ready))
        self.note_time("stack up", _seconds(time.monotonic() - began))

    def apply(self, client: Client, name: str) -> None:
        """Apply an example definition, and draw it."""
        self.heading(f"Apply the definition {name}")
        document = examples.document(name)
        for line in arrows(document):
            self.print(Text(line, "cyan"), indent=4)
        began = time.monotonic()
        definition = client.apply(document)
        took = timedelta(seconds=time.monotonic() - began)
        self.print(
            Text.assemble(
                ("  ✓ ", "green"),
                f"version {definition['version']}, ",
                status_text(definition["status"]),
                (f"  {duration(took)}, checked and stored", "dim"),
            )
        )
        self.note_time("definition applied", duration(took))

    def start(self, client: Client, name: str, input: Json = None) -> Instance:
        self.heading("Start an instance over HTTP, and watch it")
        given = "" if input is None else ', "input": {…}'
        self.print(
            Text(f'POST {self.stack.url}/api/v1/instances {{"definitionKey": "{name}"{given}}}', "dim"),
            indent=4,
        )
        if input is not None:
            self.print(json_block(input), indent=4)
        began = time.monotonic()
        instance = client.start(name, input=input)
        took = timedelta(seconds=time.monotonic() - began)
        self.note_time("start accepted, answered", duration(took))
        self.print(
            Text.assemble(("  ✓ ", "green"), instance["id"], (f"  accepted in {duration(took)}", "dim"))
        )
        self.print(Text(""))
        return instance

    def watch(
        self, client: Client, instance: Instance, *, until: Callable[[Instance], bool] | None = None
    ) -> Instance:
        """Show what happens until it has ended, or until `until` holds; goes on where the last watch stopped."""
        entries = print_timeline(
            self.screen,
            client,
            instance["id"],
            deadline=time.monotonic() + PATIENCE_SECONDS,
            idle=self.stack.tick,
            is_over=until,
            told=self._told,
        )
        self._told = len(entries)
        return client.instance(instance["id"])

    def watch_to_the_end(self, client: Client, instance: Instance) -> Instance:
        """Raises `DemoFailed` unless it is completed in time."""
        ended = self.watch(client, instance)
        if ended["status"] != InstanceStatus.COMPLETED:
            why = f": {ended['error']['message']}" if ended["error"] else ""
            raise DemoFailed(
                f'instance {ended["id"]} is "{ended["status"]}" after {PATIENCE_SECONDS:g} s, '
                f'expected "completed"{why}'
            )
        self.print(Text(""))
        took = between(ended["createdAt"], ended["finishedAt"] or ended["createdAt"])
        self.print(
            Text.assemble(
                ("  ✓ ", "green"), status_text(ended["status"]), f" {duration(took)} after its start"
            )
        )
        return ended

    def show_mail(self, tasks: Sequence[Task], *, body: bool = False) -> None:
        """The mails that e-mail tasks wrote, their text too where `body`."""
        for task in tasks:
            path = self.mail_of(task)
            self.print(Text(str(path), "bold"), indent=2)
            self.print(_headers(path), indent=4)
            if body:
                self.print(Text(""))
                self.print(Text(text_of(path)), indent=4)

    def mail_of(self, task: Task) -> Path:
        path = self.stack.folder.mail / f"{task['id']}.eml"
        if not path.exists():
            raise DemoFailed(
                f'task {task["id"]} ({task["type"]}) is "{task["status"]}", but wrote no mail to {path}'
            )
        return path

    def show_history(self, client: Client, instance: Instance) -> list[Entry]:
        self.heading("Its history: one row a consumed event, each hash covers the one before")
        entries = list(client.history(instance["id"]))
        verdict = client.verify(instance["id"])
        self.print(history_table(entries), indent=2)
        self.print(Text.assemble("  ", verdict_line(verdict)))
        if not verdict["valid"]:
            raise DemoFailed(f"the history of {instance['id']} does not verify: {verdict['problems']}")
        return entries

    def show_context(self, instance: Instance) -> None:
        self.heading("The context that it ended with")
        self.print(json_block(instance["context"]), indent=2)

    def show_times(self, instance: Instance, entries: Sequence[Entry], tasks: Sequence[Task]) -> None:
        self.heading("How long it took")
        began = instance["createdAt"]
        for when, what in milestones(instance, entries, tasks):
            self.note_time(what, f"+{duration(between(began, when))}")
        grid = Table.grid(padding=(0, 3))
        grid.add_column()
        grid.add_column(justify="right", style="bold")
        for what, took in self._times:
            grid.add_row(what, took)
        self.print(grid, indent=2)

    # --- its end --------------------------------------------------------------------------------------------------

    def show_failure(self, error: SignalboxError) -> None:
        """What went wrong, and how the logs of the processes end."""
        self.print(Text(""))
        self.print(Text.assemble(("the demo failed", "bold red"), f": {error.message}"))
        if isinstance(error, PartFailed):
            logs = {error.fields["part"]: error.log_end}
        else:
            logs = {
                name: self.stack.supervisor.log_end(name, LOG_LINES) for name in self.stack.supervisor.names()
            }
        for name, lines in logs.items():
            self.print(Text(f"--- end of {name}.log", "bold"))
            for line in lines:
                self.print(Text(line, "dim"), indent=2)
        self.print(Text(f"the logs are in {self.stack.folder.logs}", "dim"))

    def show_end(self, *, total: float, stopping: float, next: Sequence[tuple[str, str]]) -> None:
        """Everything is stopped: how long it all took, and what to try next, (command, what it does)."""
        self.print(Text(""))
        self.print(
            Text.assemble(
                ("✓ ", "green"),
                f"all processes stopped in {_seconds(stopping)}; the whole demo took {_seconds(total)}",
            )
        )
        self.heading("Try next", numbered=False)
        grid = Table.grid(padding=(0, 3))
        for command, what in next:
            grid.add_row(Text(command, "bold"), Text(what, "dim"))
        self.print(grid, indent=2)

    # --- on the screen ------------------------------------------------------------------------------------------

    def heading(self, text: str, *, numbered: bool = True) -> None:
        self._check()
        self.print(Text(""))
        if numbered:
            self._scene += 1
            self.print(Text.assemble((f"{self._scene}  ", "bold cyan"), (text, "bold")))
        else:
            self.print(Text(text, "bold"))

    def print(self, renderable: RenderableType, *, indent: int = 0) -> None:
        self.screen.print(Padding(renderable, (0, 0, 0, indent), expand=False) if indent else renderable)

    def say(self, text: str) -> None:
        """A sentence about what is seen."""
        self.print(Text(text, "dim"), indent=2)

    def note_time(self, what: str, took: str) -> None:
        self._times.append((what, took))


def arrows(document: Mapping[str, Json]) -> list[str]:
    """The transitions of a chart's outermost states, one a line: "start ── WORKFLOW_START ──▶ notify"."""
    return [
        f"{name} ── {event} ──▶ {target}"
        for name, state in document["states"].items()
        for event, transitions in _transitions(state)
        for target in _targets(transitions)
    ]


def _transitions(state: Mapping[str, Json]) -> list[tuple[str, Json]]:
    found = list(state.get("on", {}).items())
    found += [(f"after {delay}", transition) for delay, transition in state.get("after", {}).items()]
    if "onDone" in state:
        found.append(("done", state["onDone"]))
    invoke = state.get("invoke")
    if isinstance(invoke, Mapping):
        name = invoke.get("id") or invoke.get("src")
        found += [
            (f"{name} {how}", invoke[on])
            for on, how in (("onDone", "done"), ("onError", "failed"))
            if on in invoke
        ]
    return found


def _targets(transitions: Json) -> list[str]:
    listed = transitions if isinstance(transitions, list) else [transitions]
    targets = [one if isinstance(one, str) else one.get("target") for one in listed]
    return list(dict.fromkeys(target for target in targets if target))


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


def text_of(path: Path) -> str:
    """The text of a mail that was written to a file."""
    message = message_from_bytes(path.read_bytes(), policy=email_policy)
    body = message.get_body(("plain",))
    return "" if body is None else str(body.get_content()).strip()


def _headers(path: Path) -> RenderableType:
    message = message_from_bytes(path.read_bytes(), policy=email_policy)
    grid = Table.grid(padding=(0, 2))
    for name in SHOWN_HEADERS:
        if message[name] is not None:
            grid.add_row(Text(f"{name}:", "dim"), Text(str(message[name])))
    return grid


def _seconds(seconds: float) -> str:
    return duration(timedelta(seconds=seconds))
