# ruff: noqa: PLC0415 - what is heavy is loaded by the command that needs it: `signalbox --help` answers at once
"""Commands about the whole: figures, and how fast this machine is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from signalbox.cli.options import LOOK, AsJson
from signalbox.cli.output import Output
from signalbox.cli.target import connect

if TYPE_CHECKING:
    from rich.console import RenderableType

    from signalbox.shapes import Json


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel=LOOK)(stats)


def stats(json: AsJson = False) -> None:
    """Show how many instances and tasks there are, what waits, and which workers are here."""
    with connect() as client:
        found = client.stats()
    Output(json).show(found, lambda: _view(found))


def _view(found: dict[str, Json]) -> RenderableType:
    from signalbox.cli.render import stats_view

    return stats_view(found)
