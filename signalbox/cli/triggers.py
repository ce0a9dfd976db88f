# ruff: noqa: PLC0415 - what is heavy is loaded by the command that needs it: `signalbox --help` answers at once
"""Commands about triggers, and `publish`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from signalbox.cli import arguments
from signalbox.cli.exits import UsageError
from signalbox.cli.options import WORK, AsJson, Labels, Limit
from signalbox.cli.output import Output
from signalbox.cli.target import connect

if TYPE_CHECKING:
    from signalbox.shapes import Trigger

TriggerId = Annotated[str, typer.Argument(metavar="ID", help="The trigger's id.", show_default=False)]

group = typer.Typer(no_args_is_help=True, help="Start instances when events are published.")


def register(app: typer.Typer) -> None:
    app.add_typer(group, name="triggers", rich_help_panel=WORK)
    app.command(rich_help_panel=WORK)(publish)


def publish(
    type: Annotated[str, typer.Argument(metavar="TYPE", help="The event's type.", show_default=False)],
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", metavar="JSON|@FILE", help="An object: the event's other members."),
    ] = None,
    business_key: Annotated[
        str | None,
        typer.Option("--business-key", "-k", help="Deliver it to live instances of this key, too."),
    ] = None,
    definition: Annotated[
        str | None, typer.Option("--definition", metavar="KEY", help="Of the instances that get it.")
    ] = None,
    label: Labels = None,
    json: AsJson = False,
) -> None:
    """Publish an event: triggers that answer it start instances.

    With --business-key or --label it is delivered to live instances as well.
    """
    members = arguments.json_object(data, "--data") or {}
    if members.get("type", type) != type:
        raise UsageError(f'--data: its "type" is "{members["type"]}", the event to publish is "{type}"')
    labels = arguments.labels(label or ())
    with connect() as client:
        found = client.publish(
            {**members, "type": type},
            business_key=business_key,
            definition_key=definition,
            labels=labels or None,
        )
    Output(json).show({"items": found, "nextCursor": None}, lambda: _render().reactions_table(found))


@group.command("list")
def list_triggers(
    definition: Annotated[
        str | None, typer.Option("--definition", "-d", metavar="KEY", help="Only of this definition.")
    ] = None,
    event: Annotated[str | None, typer.Option("--event", help="Only of this pattern.")] = None,
    limit: Limit = 200,
    json: AsJson = False,
) -> None:
    """List triggers, newest first."""
    with connect() as client:
        found = list(client.triggers(definition_key=definition, event=event, limit=limit + 1))
    Output(json).show_first(limit, found, lambda shown: _render().triggers_table(shown))


@group.command("show")
def show_trigger(trigger_id: TriggerId, json: AsJson = False) -> None:
    """Show a trigger."""
    with connect() as client:
        _show(Output(json), client.trigger(trigger_id))


@group.command("create")
def create_trigger(
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="The definition's key: its `id`.", show_default=False)
    ],
    event: Annotated[
        str, typer.Argument(metavar="EVENT", help="A type, `foo.*` or `*`.", show_default=False)
    ],
    condition: Annotated[
        str | None, typer.Option("--condition", metavar="EXPRESSION", help="Over `event`.")
    ] = None,
    input: Annotated[
        str | None,
        typer.Option(
            "--input", "-i", metavar="JSON|@FILE", help="May read ${event.…}.", show_default="the event"
        ),
    ] = None,
    business_key: Annotated[
        str | None, typer.Option("--business-key", "-k", help="May read ${event.…}.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="For people and histories.")] = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Do not start anything.")] = False,
    replace: Annotated[
        str | None, typer.Option("--replace", metavar="ID", help="Change this trigger into it.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Create a trigger; with --replace, change one."""
    given_input = arguments.json_argument(input, "--input")
    with connect() as client:
        trigger = client.create_trigger(
            key,
            event,
            condition=condition,
            input=given_input,
            business_key=business_key,
            name=name,
            enabled=not disabled,
            trigger_id=replace,
        )
    _show(Output(json), trigger)


@group.command("rm")
def delete_trigger(trigger_id: TriggerId, json: AsJson = False) -> None:
    """Delete a trigger; what it has started goes on."""
    with connect() as client:
        _show(Output(json), client.delete_trigger(trigger_id))


def _show(out: Output, trigger: Trigger) -> None:
    out.show(trigger, lambda: _render().trigger_facts(trigger))


def _render() -> Any:
    from signalbox.cli import render

    return render
