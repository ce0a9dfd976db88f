"""The `signalbox` command: one Typer app, put together from the modules beside it."""

from __future__ import annotations

from typing import Annotated

import typer

from common.version import signalbox_version
from signalbox.cli import (
    archive,
    breakers,
    config,
    control,
    database,
    definitions,
    erasure,
    handlers,
    instances,
    limits,
    local,
    metadata,
    offline,
    overview,
    people,
    retention,
    schedules,
    secrets,
    suggestions,
    tasks,
    triggers,
)

app = typer.Typer(
    name="signalbox",
    help="Durable statecharts on Celery.\n\n"
    "`signalbox demo` shows it, `signalbox up` keeps it running on this machine. "
    "The other commands ask the API that SIGNALBOX_URL and SIGNALBOX_KEY name, else the one of `up`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"signalbox {signalbox_version()}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the version and end."),
    ] = False,
) -> None:
    """Nothing of its own: what every command has in common."""


for module in (
    local,
    definitions,
    offline,
    instances,
    control,
    metadata,
    erasure,
    tasks,
    people,
    suggestions,
    schedules,
    triggers,
    breakers,
    config,
    limits,
    handlers,
    overview,
    secrets,
    retention,
    archive,
    database,
):
    module.register(app)
