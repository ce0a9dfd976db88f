# ruff: noqa: PLC0415 - what is heavy is loaded by the command that needs it: `signalbox --help` answers at once
"""Commands about schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from signalbox.cli import arguments
from signalbox.cli.exits import UsageError
from signalbox.cli.options import WORK, AsJson, Limit
from signalbox.cli.output import Output
from signalbox.cli.target import connect

if TYPE_CHECKING:
    from signalbox.client import CatchUp, Overlap
    from signalbox.shapes import Schedule, ScheduleRun

ScheduleId = Annotated[str, typer.Argument(metavar="ID", help="The schedule's id.", show_default=False)]

group = typer.Typer(no_args_is_help=True, help="Start instances at set times.")


def register(app: typer.Typer) -> None:
    app.add_typer(group, name="schedules", rich_help_panel=WORK)


@group.command("list")
def list_schedules(
    definition: Annotated[
        str | None, typer.Option("--definition", "-d", metavar="KEY", help="Only of this definition.")
    ] = None,
    paused: Annotated[
        bool | None, typer.Option("--paused/--not-paused", help="Only those.", show_default=False)
    ] = None,
    limit: Limit = 200,
    json: AsJson = False,
) -> None:
    """List schedules, newest first."""
    with connect() as client:
        found = list(client.schedules(definition_key=definition, paused=paused, limit=limit + 1))
    Output(json).show_first(limit, found, lambda shown: _render().schedules_table(shown))


@group.command("show")
def show_schedule(schedule_id: ScheduleId, json: AsJson = False) -> None:
    """Show a schedule, what it has done and its next runs."""
    with connect() as client:
        _show(Output(json), client.schedule(schedule_id))


@group.command("create")
def create_schedule(
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="The definition's key: its `id`.", show_default=False)
    ],
    cron: Annotated[
        str | None,
        typer.Option("--cron", metavar="TEXT", help="5 fields, 6 with seconds first, or @daily."),
    ] = None,
    every: Annotated[
        str | None, typer.Option("--every", metavar="DURATION", help="5m, 1h30m, PT1H: from now on.")
    ] = None,
    at: Annotated[str | None, typer.Option("--at", metavar="INSTANT", help="Once.")] = None,
    timezone: Annotated[
        str | None, typer.Option("--timezone", "-z", metavar="NAME", show_default="UTC")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="For people and histories.")] = None,
    overlap: Annotated[
        str | None,
        typer.Option(
            "--overlap", help="skip, queue, cancel or allow, while one before lives.", show_default="skip"
        ),
    ] = None,
    catch_up: Annotated[
        str | None,
        typer.Option("--catch-up", help="none, last or all of what was missed.", show_default="last"),
    ] = None,
    catch_up_limit: Annotated[
        int | None, typer.Option("--catch-up-limit", min=1, help="Of --catch-up all.")
    ] = None,
    jitter: Annotated[
        str | None, typer.Option("--jitter", metavar="DURATION", help="Put runs off by up to this.")
    ] = None,
    input: Annotated[
        str | None,
        typer.Option("--input", "-i", metavar="JSON|@FILE", help="May read ${scheduledAt} and ${firedAt}."),
    ] = None,
    business_key: Annotated[
        str | None, typer.Option("--business-key", "-k", help="May read the same.")
    ] = None,
    paused: Annotated[bool, typer.Option("--paused", help="Do not start anything yet.")] = False,
    replace: Annotated[
        str | None, typer.Option("--replace", metavar="ID", help="Change this schedule into it.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Create a schedule by --cron, --every or --at; with --replace, change one."""
    given_input = arguments.json_argument(input, "--input")
    if sum(one is not None for one in (cron, every, at)) != 1:
        raise UsageError("expected exactly one of --cron, --every and --at")
    with connect() as client:
        schedule = client.create_schedule(
            key,
            cron=cron,
            every=every,
            at=at,
            timezone=timezone,
            name=name,
            overlap=_overlap(overlap),
            catch_up=_catch_up(catch_up),
            catch_up_limit=catch_up_limit,
            jitter=jitter,
            input=given_input,
            business_key=business_key,
            paused=paused or None,
            schedule_id=replace,
        )
    _show(Output(json), schedule)


@group.command("rm")
def delete_schedule(schedule_id: ScheduleId, json: AsJson = False) -> None:
    """Delete a schedule; what it has started goes on."""
    with connect() as client:
        _show(Output(json), client.delete_schedule(schedule_id))


@group.command("pause")
def pause_schedule(schedule_id: ScheduleId, json: AsJson = False) -> None:
    """Let a schedule start nothing until it is resumed."""
    with connect() as client:
        _show(Output(json), client.pause_schedule(schedule_id))


@group.command("resume")
def resume_schedule(
    schedule_id: ScheduleId,
    catch_up: Annotated[
        bool, typer.Option("--catch-up", help="What came meanwhile was missed: its policy decides.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Let a paused schedule go on, with its next instant from now on."""
    with connect() as client:
        _show(Output(json), client.resume_schedule(schedule_id, catch_up=catch_up))


@group.command("trigger")
def fire_schedule(schedule_id: ScheduleId, json: AsJson = False) -> None:
    """Start one run now; what the schedule waits for stays as it is."""
    with connect() as client:
        instance = client.fire_schedule(schedule_id)
    Output(json).show(instance, lambda: _render().settled_line(instance))


@group.command("next")
def next_runs(
    schedule_id: ScheduleId,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=100)] = 10,
    json: AsJson = False,
) -> None:
    """Tell the next runs of a schedule."""
    with connect() as client:
        found: list[ScheduleRun] = client.next_runs(schedule_id, count)
    Output(json).show({"items": found}, lambda: _render().runs_table(found))


def _overlap(text: str | None) -> Overlap | None:
    match text:
        case None | "skip" | "queue" | "cancel" | "allow":
            return text
    raise UsageError(f'--overlap: expected skip, queue, cancel or allow, found "{text}"')


def _catch_up(text: str | None) -> CatchUp | None:
    match text:
        case None | "none" | "last" | "all":
            return text
    raise UsageError(f'--catch-up: expected none, last or all, found "{text}"')


def _show(out: Output, schedule: Schedule) -> None:
    out.show(schedule, lambda: _render().schedule_facts(schedule))


def _render() -> Any:
    from signalbox.cli import render

    return render
