# ruff: noqa: PLC0415 - what is heavy is loaded by the command that needs it: `signalbox --help` answers at once
"""Commands about the metadata of instances."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from signalbox.cli.arguments import json_argument
from signalbox.cli.options import WORK, AsJson, InstanceId, Limit
from signalbox.cli.output import Output
from signalbox.cli.target import connect

if TYPE_CHECKING:
    from rich.console import RenderableType

    from signalbox.shapes import Metadata

Key = Annotated[str, typer.Argument(metavar="KEY", help="Name of the value.", show_default=False)]

group = typer.Typer(no_args_is_help=True, help="Show and set what the handlers of an instance share.")


def register(app: typer.Typer) -> None:
    app.add_typer(group, name="metadata", rich_help_panel=WORK)


@group.command("list")
def list_values(instance_id: InstanceId, limit: Limit = 1_000, json: AsJson = False) -> None:
    """List the metadata of an instance, by key."""
    with connect() as client:
        found = list(client.metadata(instance_id, limit=limit + 1))
    Output(json).show_first(limit, found, _table)


@group.command("get")
def get_value(instance_id: InstanceId, key: Key, json: AsJson = False) -> None:
    """Show one value."""
    with connect() as client:
        found = client.metadata_value(instance_id, key)
    Output(json).show(found, lambda: _table([found]))


@group.command("set")
def set_value(
    instance_id: InstanceId,
    key: Key,
    value: Annotated[str, typer.Argument(metavar="JSON|@FILE", help="The value.", show_default=False)],
    expected: Annotated[
        str | None,
        typer.Option(
            "--expected", metavar="JSON|@FILE", help="Only in the place of this value; null: of none."
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Set a value."""
    given = json_argument(value, "JSON")
    named = {} if expected is None else {"expected": json_argument(expected, "--expected")}
    with connect() as client:
        found = client.set_metadata(instance_id, key, given, **named)
    Output(json).show(found, lambda: _table([found]))


@group.command("rm")
def remove_value(instance_id: InstanceId, key: Key, json: AsJson = False) -> None:
    """Delete a value."""
    with connect() as client:
        found = client.remove_metadata(instance_id, key)
    Output(json).show(found, lambda: _table([found]))


def _table(found: list[Metadata]) -> RenderableType:
    from signalbox.cli.render import metadata_table

    return metadata_table(found)
