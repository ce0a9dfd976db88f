# ruff: noqa: PLC0415 - what is heavy is loaded by the command that needs it: `signalbox --help` answers at once
"""Commands about the whole: figures, and how fast this machine is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from signalbox.cli.arguments import json_argument, read_object
from signalbox.cli.exits import UsageError
from signalbox.cli.options import LOOK, AsJson, Orchestrators, TaskRunners
from signalbox.cli.output import Output
from signalbox.cli.target import connect

if TYPE_CHECKING:
    from rich.console import RenderableType

    from signalbox.shapes import Json


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel=LOOK)(stats)
    app.command(rich_help_panel=LOOK)(bench)


def stats(json: AsJson = False) -> None:
    """Show how many instances and tasks there are, what waits, and which workers are here."""
    with connect() as client:
        found = client.stats()
    Output(json).show(found, lambda: _view(found))


def bench(
    instances: Annotated[
        int, typer.Option("--instances", "-n", min=1, help="How many, per way of asking.")
    ] = 1_000,
    steps: Annotated[
        int, typer.Option("--steps", min=1, max=1_000, help="Tasks of the built-in workflow.")
    ] = 3,
    definition: Annotated[
        str | None,
        typer.Option("--definition", metavar="FILE", help="Another workflow, which ends by itself."),
    ] = None,
    input: Annotated[str | None, typer.Option("--input", "-i", metavar="JSON|@FILE")] = None,
    latency: Annotated[
        bool, typer.Option("--latency", help="One at a time, with a tenth of the instances.")
    ] = False,
    live: Annotated[bool, typer.Option("--live", help="Started while the workers run.")] = False,
    backlog: Annotated[bool, typer.Option("--backlog", help="All started before the workers come.")] = False,
    postgres: Annotated[
        bool, typer.Option("--postgres", help="On a real PostgreSQL from the development wheel.")
    ] = False,
    environment: Annotated[
        bool,
        typer.Option("--environment", help='On DATABASE_URL and REDIS_URL; adds a tenant "bench" there.'),
    ] = False,
    http: Annotated[bool, typer.Option("--http", help="Start through the API, not in process.")] = False,
    light: Annotated[
        bool, typer.Option("--light", help="The built-in workflow's tasks by a light handler.")
    ] = False,
    orchestrators: Orchestrators = None,
    task_runners: TaskRunners = 1,
    json: AsJson = False,
) -> None:
    """Measure workflows a second and their latency, on a stack of its own.

    Without --latency, --live and --backlog all three are measured.
    """
    from signalbox.bench import Mode, Options, measure
    from signalbox.parts import Workers
    from signalbox.signals import end_in_order_on_sigterm

    end_in_order_on_sigterm()
    if postgres and environment:
        raise UsageError("--postgres and --environment name two databases; expected one of them")
    if light and definition:
        raise UsageError("--light is about the tasks of the built-in workflow; expected it or --definition")
    ways: list[tuple[Mode, bool]] = [("latency", latency), ("live", live), ("backlog", backlog)]
    chosen = [mode for mode, is_chosen in ways if is_chosen]
    out = Output(json)
    report = measure(
        Options(
            instances=instances,
            steps=steps,
            modes=chosen or ["latency", "live", "backlog"],
            where="postgres" if postgres else "environment" if environment else "embedded",
            over_http=http,
            document=read_object(definition) if definition else None,
            input=json_argument(input, "--input"),
            is_light=light,
            workers=Workers(orchestrators, task_runners),
        ),
        tell=lambda line: out.note(f"  {line}"),
    )
    out.show(report, lambda: _bench_view(report))


def _bench_view(report: dict[str, Json]) -> RenderableType:
    from signalbox.cli.render import bench_view

    return bench_view(report)


def _view(found: dict[str, Json]) -> RenderableType:
    from signalbox.cli.render import stats_view

    return stats_view(found)
