# ruff: noqa: PLC0415 - what is heavy is loaded by the command that needs it: `signalbox --help` answers at once
"""What people do with tasks from the command line: claim, delegate, complete, reject; and links for those without a key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from signalbox.cli import arguments
from signalbox.cli.exits import UsageError
from signalbox.cli.options import WORK, AsJson
from signalbox.cli.output import Output
from signalbox.cli.target import connect
from signalbox.cli.tasks import tasks

if TYPE_CHECKING:
    from rich.console import RenderableType

    from signalbox.shapes import SignedLink, Task

TaskId = Annotated[str, typer.Argument(metavar="ID", show_default=False)]
Outcome = Annotated[
    str | None, typer.Option("--output", "-o", metavar="JSON|@FILE", help="What it comes to.")
]
Person = Annotated[
    str, typer.Option("--person", metavar="ADDRESS", help="Who the link is for.", show_default=False)
]
ExpiresIn = Annotated[
    str | None, typer.Option("--expires-in", metavar="DURATION", help="How long it works.", show_default="7d")
]


def register(app: typer.Typer) -> None:
    """The verbs of tasks stand beside `tasks list`; a link that sends an event is about an instance."""
    app.command("link", rich_help_panel=WORK)(link_event)


@tasks.command("claim")
def claim(
    task_id: TaskId,
    assignee: Annotated[
        str | None,
        typer.Option("--for", metavar="PERSON", help="Whose work it becomes.", show_default="yours"),
    ] = None,
    json: AsJson = False,
) -> None:
    """Claim a HUMAN task: it becomes your work."""
    with connect() as client:
        task = client.claim_task(task_id, assignee=assignee)
    _show(Output(json), task)


@tasks.command("unclaim")
def unclaim(task_id: TaskId, json: AsJson = False) -> None:
    """Give a HUMAN task back."""
    with connect() as client:
        task = client.unclaim_task(task_id)
    _show(Output(json), task)


@tasks.command("delegate")
def delegate(
    task_id: TaskId,
    assignee: Annotated[str, typer.Argument(metavar="PERSON", show_default=False)],
    json: AsJson = False,
) -> None:
    """Let somebody else take a HUMAN task over."""
    with connect() as client:
        task = client.delegate_task(task_id, assignee)
    _show(Output(json), task)


@tasks.command("complete")
def complete(task_id: TaskId, output: Outcome = None, json: AsJson = False) -> None:
    """Complete a HUMAN task with what its form asks for."""
    value = arguments.json_argument(output, "--output")
    with connect() as client:
        task = client.complete_task(task_id, value)
    _show(Output(json), task)


@tasks.command("reject")
def reject(
    task_id: TaskId,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the history.", show_default=False)],
    output: Outcome = None,
    json: AsJson = False,
) -> None:
    """Reject a HUMAN task: it fails for good, with the reason."""
    value = arguments.json_argument(output, "--output")
    with connect() as client:
        task = client.reject_task(task_id, reason, output=value)
    _show(Output(json), task)


@tasks.command("fail")
def fail(
    task_id: TaskId,
    message: Annotated[str, typer.Option("--message", "-m", help="What went wrong.", show_default=False)],
    code: Annotated[str, typer.Option("--code", help="A name to compare with.")] = "task.failed",
    json: AsJson = False,
) -> None:
    """Fail a HUMAN task for good, with an error of your own."""
    with connect() as client:
        task = client.fail_task(task_id, code, message)
    _show(Output(json), task)


@tasks.command("link")
def link_task(
    task_id: TaskId,
    person: Person,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="JSON|@FILE", help="It completes the task with this."),
    ] = None,
    reject: Annotated[
        str | None, typer.Option("--reject", metavar="REASON", help="It rejects the task.")
    ] = None,
    expires_in: ExpiresIn = None,
    json: AsJson = False,
) -> None:
    """Make a link by which a person decides a HUMAN task, once and without a key."""
    if (output is None) == (reject is None):
        raise UsageError("expected either --output, which completes the task, or --reject")
    value = arguments.json_argument(output, "--output")
    with connect() as client:
        link = client.link_task(task_id, person, output=value, reject=reject, expires_in=expires_in)
    Output(json).show(link, lambda: _link_line(link))


def link_event(
    instance_id: Annotated[str, typer.Argument(metavar="ID", help="The instance.", show_default=False)],
    type: Annotated[str, typer.Argument(metavar="TYPE", help="The event's type.", show_default=False)],
    person: Person,
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", metavar="JSON|@FILE", help="An object: the event's other members."),
    ] = None,
    expires_in: ExpiresIn = None,
    json: AsJson = False,
) -> None:
    """Make a link by which a person sends an event to an instance, once and without a key."""
    members = arguments.json_object(data, "--data") or {}
    with connect() as client:
        link = client.link_event(instance_id, person, {**members, "type": type}, expires_in=expires_in)
    Output(json).show(link, lambda: _link_line(link))


def _show(out: Output, task: Task) -> None:
    out.show(task, lambda: _line(task))


def _line(task: Task) -> RenderableType:
    from rich.text import Text

    from signalbox.cli.render import status_text

    whose = f", the work of {task['assignee']}" if task.get("assignee") else ""
    return Text.assemble(f"{task['name']} {task['id']}: ", status_text(task["status"]), whose)


def _link_line(link: SignedLink) -> RenderableType:
    from rich.text import Text

    from signalbox.cli.render import instant

    return Text.assemble(
        link["url"], (f"\nfor {link['person']}, once, until {instant(link['expiresAt'])}", "dim")
    )
