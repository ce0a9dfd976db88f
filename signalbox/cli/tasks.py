# ruff: noqa: PLC0415 - what is heavy is loaded by the command that needs it: `signalbox --help` answers at once
"""Commands about tasks and incidents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from signalbox.cli import arguments
from signalbox.cli.control import act_on_many, require_definition
from signalbox.cli.exits import UsageError
from signalbox.cli.options import LOOK, AsJson, Limit, Statuses
from signalbox.cli.output import Output
from signalbox.cli.target import connect

if TYPE_CHECKING:
    from rich.console import RenderableType

    from signalbox.shapes import Incident, IncidentDetail, Instance, Task

tasks = typer.Typer(no_args_is_help=True, help="List and show tasks.")
incidents = typer.Typer(no_args_is_help=True, help="List, show and resolve incidents.")

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
    parent: Annotated[
        str | None, typer.Option("--parent", metavar="ID", help="Only the items of this MAP.")
    ] = None,
    assignee: Annotated[
        str | None, typer.Option("--assignee", metavar="PERSON", help="Only the work of this person.")
    ] = None,
    candidate: Annotated[
        str | None, typer.Option("--candidate", metavar="PERSON", help="Only what this person may claim.")
    ] = None,
    overdue: Annotated[bool, typer.Option("--overdue", help="Only what is past its due time.")] = False,
    limit: Limit = 50,
    json: AsJson = False,
) -> None:
    """List tasks, newest first."""
    if instance is not None and parent is not None:
        raise typer.BadParameter("--parent names the instance already", param_hint="--instance")
    with connect() as client:
        found = list(
            client.tasks(
                instance_id=instance, status=status or (), type=type, parent=parent, assignee=assignee,
                candidate=candidate, overdue=overdue, limit=limit + 1,
            )
        )  # fmt: skip
    Output(json).show_first(limit, found, _tasks_table)


@tasks.command("show")
def show_task(
    task_id: Annotated[str, typer.Argument(metavar="ID", show_default=False)], json: AsJson = False
) -> None:
    """Show a task with its attempts, and the trace of the last one that failed."""
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
        found = list(client.incidents(instance_id=instance, status=None if all else "open", limit=limit + 1))
    Output(json).show_first(limit, found, _incidents_table)


@incidents.command("show")
def show_incident(
    incident_id: Annotated[str, typer.Argument(metavar="ID", show_default=False)], json: AsJson = False
) -> None:
    """Show an incident with everything that is known about it."""
    with connect() as client:
        found = client.incident(incident_id)
    Output(json).show(found, lambda: _incident_facts(found))


@incidents.command("resolve")
def resolve_incident(
    incident_id: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="The incident's id; without it, a filter.", show_default=False),
    ] = None,
    skip: Annotated[
        bool,
        typer.Option(
            "--skip", help="Answer the failed task by hand, or leave the event out, instead of a retry."
        ),
    ] = False,
    output: Annotated[
        str | None,
        typer.Option("--output", metavar="JSON|@FILE", help="With --skip: the output of the task."),
    ] = None,
    code: Annotated[str | None, typer.Option("--code", help="All open incidents with this code.")] = None,
    definition: Annotated[
        str | None,
        typer.Option("--definition", "-d", metavar="KEY", help="All open incidents of this definition."),
    ] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Kept in the history.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell which it would concern.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before acting on many.")] = False,
    json: AsJson = False,
) -> None:
    """Resolve an incident, so that its instance goes on: retry what failed, or skip it."""
    given = {"code": code, "definitionKey": definition}
    wanted = {name: value for name, value in given.items() if value is not None}
    if (incident_id is None) == (not wanted):
        raise UsageError("expected either an incident's ID, or --code or --definition")
    if output is not None and not skip:
        raise UsageError("--output goes with --skip: a retry gets its output from the handler")
    value = arguments.json_argument(output, "--output")
    way: Literal["retry", "skip"] = "skip" if skip else "retry"
    out = Output(json)
    with connect() as client:
        if incident_id is not None:
            instance = client.resolve(incident_id, way, output=value, reason=reason)
            out.show(instance, lambda: _settled_line(instance))
            return
        act_on_many(
            out,
            lambda is_dry: client.resolve_all(way, wanted, output=value, reason=reason, dry_run=is_dry),
            way,
            "incident",
            dry_run=dry_run,
            yes=yes,
            on_none=lambda: require_definition(client, definition),
        )


def _settled_line(instance: Instance) -> RenderableType:
    from signalbox.cli.render import settled_line

    return settled_line(instance)


def _tasks_table(found: list[Task]) -> RenderableType:
    from signalbox.cli.render import tasks_table

    return tasks_table(found)


def _task_facts(found: Task) -> RenderableType:
    from signalbox.cli.render import task_facts

    return task_facts(found)


def _incidents_table(found: list[Incident]) -> RenderableType:
    from signalbox.cli.render import incidents_table

    return incidents_table(found)


def _incident_facts(found: IncidentDetail) -> RenderableType:
    from signalbox.cli.render import incident_facts

    return incident_facts(found)
