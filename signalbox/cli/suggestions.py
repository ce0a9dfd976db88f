# ruff: noqa: PLC0415 - what is heavy is loaded by the command that needs it: `signalbox --help` answers at once
"""Commands about what models have suggested."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from signalbox.cli.options import LOOK, AsJson, Limit
from signalbox.cli.output import Output
from signalbox.cli.target import connect

if TYPE_CHECKING:
    from rich.console import RenderableType

    from signalbox.shapes import Instance, Suggestion

suggestions = typer.Typer(no_args_is_help=True, help="List, show, accept and reject what models suggest.")

Id = Annotated[str, typer.Argument(metavar="ID", show_default=False)]
Comment = Annotated[
    str | None, typer.Option("--comment", help="Kept with the suggestion and in the history.")
]


def register(app: typer.Typer) -> None:
    app.add_typer(suggestions, name="suggestions", rich_help_panel=LOOK)


@suggestions.command("list")
def list_suggestions(
    all: Annotated[bool, typer.Option("--all", help="The decided and expired ones too.")] = False,
    instance: Annotated[
        str | None, typer.Option("--instance", metavar="ID", help="Only those of this instance.")
    ] = None,
    limit: Limit = 50,
    json: AsJson = False,
) -> None:
    """List what waits for somebody's word, newest first."""
    with connect() as client:
        found = list(
            client.suggestions(instance_id=instance, status=None if all else "open", limit=limit + 1)
        )
    Output(json).show_first(limit, found, _table)


@suggestions.command("show")
def show_suggestion(suggestion_id: Id, json: AsJson = False) -> None:
    """Show a suggestion with its payload and reason."""
    with connect() as client:
        found = client.suggestion(suggestion_id)
    Output(json).show(found, lambda: _facts(found))


@suggestions.command("accept")
def accept_suggestion(suggestion_id: Id, comment: Comment = None, json: AsJson = False) -> None:
    """Accept a suggestion: its event is sent to the instance, as yours."""
    with connect() as client:
        instance = client.accept(suggestion_id, comment=comment)
    Output(json).show(instance, lambda: _settled_line(instance))


@suggestions.command("reject")
def reject_suggestion(suggestion_id: Id, comment: Comment = None, json: AsJson = False) -> None:
    """Reject a suggestion: nothing is sent, and that is on record."""
    with connect() as client:
        instance = client.reject(suggestion_id, comment=comment)
    Output(json).show(instance, lambda: _settled_line(instance))


def _table(found: list[Suggestion]) -> RenderableType:
    from signalbox.cli.render import suggestions_table

    return suggestions_table(found)


def _facts(found: Suggestion) -> RenderableType:
    from signalbox.cli.render import nested

    return nested(dict(found))


def _settled_line(instance: Instance) -> RenderableType:
    from signalbox.cli.render import settled_line

    return settled_line(instance)
