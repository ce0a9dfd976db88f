# ruff: noqa: PLC0415 - what is heavy is loaded by the command that needs it: `signalbox --help` answers at once
"""Commands about configuration values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from common.errors import NotFound
from signalbox.cli.arguments import json_argument
from signalbox.cli.exits import UsageError
from signalbox.cli.options import DEFINE, AsJson, Limit
from signalbox.cli.output import Output
from signalbox.cli.target import connect

if TYPE_CHECKING:
    from rich.console import RenderableType

    from signalbox.client import Client, Scope
    from signalbox.shapes import Config, Resolved

SCOPES = ("tenant", "module", "instance")

Module = Annotated[
    str, typer.Argument(metavar="MODULE", help="What the value belongs to.", show_default=False)
]
Key = Annotated[str, typer.Argument(metavar="KEY", help="Its name.", show_default=False)]
InScope = Annotated[
    str | None,
    typer.Option(
        "--scope", help="tenant, module or instance.", show_default="module, or with --for instance"
    ),
]
For = Annotated[
    str | None,
    typer.Option("--for", metavar="SCOPE_ID", help="Whose value: a business key, or the id of an instance."),
]

group = typer.Typer(no_args_is_help=True, help="Set and resolve configuration values. Never secrets.")


def register(app: typer.Typer) -> None:
    app.add_typer(group, name="config", rich_help_panel=DEFINE)


@group.command("set")
def set_value(
    module: Module,
    key: Key,
    value: Annotated[str, typer.Argument(metavar="JSON|@FILE", help="The value.", show_default=False)],
    scope: InScope = None,
    scope_id: For = None,
    description: Annotated[str | None, typer.Option("--description", help="What it is for.")] = None,
    json: AsJson = False,
) -> None:
    """Set a value in its scope."""
    chosen = _scope(scope, scope_id)
    given = json_argument(value, "JSON")
    with connect() as client:
        found = client.set_config(
            module, key, given, scope=chosen, scope_id=scope_id, description=description
        )
    Output(json).show(found, lambda: _table([found]))


@group.command("get")
def get_value(
    module: Module, key: Key, scope: InScope = None, scope_id: For = None, json: AsJson = False
) -> None:
    """Show the value that is set in one scope."""
    with connect() as client:
        found = _find(client, module, key, _scope(scope, scope_id), scope_id)
    Output(json).show(found, lambda: _table([found]))


@group.command("list")
def list_values(
    module: Annotated[str | None, typer.Option("--module", "-m", help="Only of this module.")] = None,
    scope: Annotated[str | None, typer.Option("--scope", help="Only of this scope.")] = None,
    scope_id: For = None,
    limit: Limit = 200,
    json: AsJson = False,
) -> None:
    """List what is set, newest first."""
    chosen = None if scope is None and scope_id is None else _scope(scope, scope_id)
    with connect() as client:
        found = list(client.configs(module=module, scope=chosen, scope_id=scope_id, limit=limit + 1))
    Output(json).show_first(limit, found, _table)


@group.command("rm")
def remove_value(
    module: Module, key: Key, scope: InScope = None, scope_id: For = None, json: AsJson = False
) -> None:
    """Delete the value of one scope; what is wider holds from then on."""
    with connect() as client:
        found = _find(client, module, key, _scope(scope, scope_id), scope_id)
        client.remove_config(found["id"])
    Output(json).show(found, lambda: _table([found]))


@group.command("resolve")
def resolve_values(
    module: Module,
    keys: Annotated[list[str], typer.Argument(metavar="KEY…", help="Their names.", show_default=False)],
    scope_id: For = None,
    definition: Annotated[
        str | None,
        typer.Option("--definition", "-d", metavar="KEY", help="Whose defaults are asked last."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Tell which values hold, and where each comes from."""
    with connect() as client:
        found = client.resolve_config(module, keys, scope_id=scope_id, definition_key=definition)
    Output(json).show({"results": found}, lambda: _resolved(found))


def _scope(scope: str | None, scope_id: str | None) -> Scope:
    """The scope that was named, else the one that `--for` implies."""
    if scope is None:
        return "module" if scope_id is None else "instance"
    match scope:
        case "tenant" | "module" | "instance":
            return scope
    raise UsageError(f'--scope: expected one of {", ".join(SCOPES)}, found "{scope}"')


def _find(client: Client, module: str, key: str, scope: Scope, scope_id: str | None) -> Config:
    found = list(client.configs(module=module, key=key, scope=scope, scope_id=scope_id, limit=2))
    if not found:
        raise NotFound(f'no value "{module}.{key}" in scope "{scope}"', code="config.not_found")
    if len(found) > 1:
        raise UsageError("expected --for SCOPE_ID: several instances have a value of their own")
    return found[0]


def _table(found: list[Config]) -> RenderableType:
    from signalbox.cli.render import configs_table

    return configs_table(found)


def _resolved(found: dict[str, Resolved]) -> RenderableType:
    from signalbox.cli.render import resolved_table

    return resolved_table(found)
