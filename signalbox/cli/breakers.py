# ruff: noqa: PLC0415 - what is heavy is loaded by the command that needs it: `signalbox --help` answers at once
"""Commands about circuit breakers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from signalbox.cli.options import WORK, AsJson, Limit
from signalbox.cli.output import Output
from signalbox.cli.target import connect

if TYPE_CHECKING:
    from rich.console import RenderableType

    from signalbox.shapes import Breaker

Type = Annotated[str, typer.Argument(metavar="TYPE", help="Of task: HTTP, AI, …", show_default=False)]
Target = Annotated[
    str, typer.Argument(metavar="TARGET", help="As the list shows it, or a URL.", show_default=False)
]

group = typer.Typer(
    no_args_is_help=True, help="See and turn what keeps tasks from calling a target that is down."
)


def register(app: typer.Typer) -> None:
    app.add_typer(group, name="breakers", rich_help_panel=WORK)


@group.command("list")
def list_breakers(
    state: Annotated[
        str | None, typer.Option("--state", metavar="STATE", help="closed, open or half_open.")
    ] = None,
    type: Annotated[str | None, typer.Option("--type", metavar="TYPE", help="Only of this type.")] = None,
    limit: Limit = 200,
    json: AsJson = False,
) -> None:
    """List circuit breakers, by type and target."""
    with connect() as client:
        found = list(client.breakers(state=state, type=type, limit=limit + 1))
    Output(json).show_first(limit, found, _view)


@group.command("open")
def open_breaker(type: Type, target: Target, json: AsJson = False) -> None:
    """Let no task call a target, until it is closed or reset."""
    with connect() as client:
        found = client.open_breaker(type, target)
    _show(Output(json), [found], found)


@group.command("close")
def close_breaker(type: Type, target: Target, json: AsJson = False) -> None:
    """Let every task call a target, however it answers, until it is reset."""
    with connect() as client:
        found = client.close_breaker(type, target)
    _show(Output(json), [found], found)


@group.command("reset")
def reset_breaker(type: Type, target: Target, json: AsJson = False) -> None:
    """Close a circuit breaker and leave it to itself again."""
    with connect() as client:
        found = client.reset_breaker(type, target)
    _show(Output(json), [found], found)


def _show(out: Output, found: list[Breaker], data: object) -> None:
    out.show(data, lambda: _view(found))


def _view(found: list[Breaker]) -> RenderableType:
    from signalbox.cli import render

    return render.breakers_table(found)
