# ruff: noqa: PLC0415 - what is heavy is loaded by the command that needs it: `signalbox --help` answers at once
"""Commands about tasks and incidents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from signalbox.cli.options import LOOK, AsJson, Limit, Statuses
from signalbox.cli.output import Output
from signalbox.cli.target import connect

if TYPE_CHECKING:
    from rich.console import RenderableType

    from signalbox.shapes import Incident, Task

tasks = typer.Typer(no_args_is_help=True, help="List and show tasks.")
incidents = typer.Typer(no_args_is_help=True, help="List and show incidents.")

OfInstance = Annotated[
    str | None, typer.Option("--instance", metavar="ID", help="Only those of this instance.")
]


def register(app: typer.Typer) -> None:
    app.add_typer(tasks, name="tasks", rich_help_panel=LOOK)
    app.add_typer(incidents, name="incidents", rich_help_panel=LOOK)


@tasks.command("list")
def list_tasks(
    status: Statuses = None,
    type: Annotated[str | None, typer.Option("--type", "-t", help="Only this task type.")] = None,
    instance: OfInstance = None,
    limit: Limit = 50,
    json: AsJson = False,
) -> None:
    """List tasks, newest first."""
    with connect() as client:
        found = list(client.tasks(instance_id=instance, status=status or (), type=type, limit=limit))
    Output(json).show({"items": found, "nextCursor": None}, lambda: _tasks_table(found))


@tasks.command("show")
def show_task(
    task_id: Annotated[str, typer.Argument(metavar="ID", show_default=False)], json: AsJson = False
) -> None:
    """Show a task with its attempts."""
    with connect() as client:
        found = client.task(task_id)
    Output(json).show(found, lambda: _task_facts(found))


@incidents.command("list")
def list_incidents(
    all: Annotated[bool, typer.Option("--all", help="The resolved ones too.")] = False,
    instance: OfInstance = None,
    limit: Limit = 50,
    json: AsJson = False,
) -> None:
    """List what stopped instances and waits for somebody to look."""
    with connect() as client:
        found = list(client.incidents(instance_id=instance, status=None if all else "open", limit=limit))
    Output(json).show({"items": found, "nextCursor": None}, lambda: _incidents_table(found))


@incidents.command("show")
def show_incident(
    incident_id: Annotated[str, typer.Argument(metavar="ID", show_default=False)], json: AsJson = False
) -> None:
    """Show an incident with everything that is known about it."""
    with connect() as client:
        found = client.incident(incident_id)
    Output(json).show(found, lambda: _incident_facts(found))


def _tasks_table(found: list[Task]) -> RenderableType:
    from signalbox.cli.render import tasks_table

    return tasks_table(found)


def _task_facts(found: Task) -> RenderableType:
    from signalbox.cli.render import task_facts

    return task_facts(found)


def _incidents_table(found: list[Incident]) -> RenderableType:
    from signalbox.cli.render import incidents_table

    return incidents_table(found)


def _incident_facts(found: Incident) -> RenderableType:
    from signalbox.cli.render import nested

    return nested(dict(found))
