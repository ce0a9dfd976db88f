# ruff: noqa: PLC0415 - what is heavy is loaded by the command that needs it: `signalbox --help` answers at once
"""Commands that run Signalbox on this machine: the whole stack, or one process of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from signalbox.cli.options import RUN, Data, Orchestrators, TaskRunners
from signalbox.demo import Play
from signalbox.entry import loading

if TYPE_CHECKING:
    from signalbox.parts import Duty
    from signalbox.processes import ForkServer

worker = typer.Typer(no_args_is_help=True, help="Run a worker; options that are not ours go to Celery.")
PRIVATE = 0o077
STDERR = 2
CELERYS = {"allow_extra_args": True, "ignore_unknown_options": True}


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel=RUN)(up)
    app.command(rich_help_panel=RUN)(demo)
    app.command(rich_help_panel=RUN)(api)
    app.add_typer(worker, name="worker", rich_help_panel=RUN)


def up(
    data: Data = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", "-p", envvar="SIGNALBOX_PORT", min=1, max=65_535, show_default="8000 or a free one"
        ),
    ] = None,
    flower: Annotated[bool, typer.Option("--flower", help="Run Flower too, on the loopback.")] = False,
    no_broker: Annotated[
        bool, typer.Option("--no-broker", help="Run without a broker: workers look for work.")
    ] = False,
    orchestrators: Orchestrators = None,
    task_runners: TaskRunners = 1,
) -> None:
    """Run everything on this machine: database, broker, API and workers. Ctrl-C drains and stops it."""
    fork_server = _begin_fork_server(os.environ)
    with loading():
        from signalbox.parts import Workers
        from signalbox.up import run_up

    raise typer.Exit(
        run_up(
            data,
            port=port,
            has_flower=flower,
            has_broker=not no_broker,
            workers=Workers(orchestrators, task_runners),
            fork_server=fork_server,
        )
    )


def demo(
    name: Annotated[
        Play, typer.Argument(help="Which one: hello, order or approval.", show_default="hello")
    ] = Play.HELLO,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder of the demo.", show_default=".signalbox/demo", file_okay=False),
    ] = None,
) -> None:
    """Show a whole workflow from end to end on real parts, and stop again."""
    # The parts begin in the demo's folder: no module of the current one is for them.
    fork_server = _begin_fork_server({**os.environ, "PYTHONSAFEPATH": "1"})
    with loading():
        from signalbox.demo.run import run_demo

    raise typer.Exit(run_demo(name, data, fork_server=fork_server))


def api(
    port: Annotated[
        int | None,
        typer.Option("--port", "-p", envvar="SIGNALBOX_PORT", min=0, max=65_535, show_default="8000"),
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", envvar="SIGNALBOX_HOST", show_default="127.0.0.1, the loopback")
    ] = None,
) -> None:
    """Run the HTTP API."""
    from signalbox.parts import api_command

    chosen = {"SIGNALBOX_PORT": None if port is None else str(port), "SIGNALBOX_HOST": host}
    _become(api_command(), {name: value for name, value in chosen.items() if value is not None})


@worker.command("orchestrator", context_settings=CELERYS, add_help_option=False)
def orchestrator(context: typer.Context) -> None:
    """Run an orchestrator: it advances instances and fires timers."""
    _run_worker("orchestrator", context.args)


@worker.command("task-runner", context_settings=CELERYS, add_help_option=False)
def task_runner(context: typer.Context) -> None:
    """Run a task runner: it calls handlers."""
    _run_worker("task-runner", context.args)


def _begin_fork_server(environment: Mapping[str, str]) -> ForkServer:
    """Have the code of workers and API loaded by the process that will fork them, while we load our own."""
    from signalbox.processes import ForkServer, can_adopt, have_standard_files

    have_standard_files()
    os.umask(PRIVATE)  # database, logs and mail are this user's alone, whatever the children write
    fork_server = ForkServer()
    if can_adopt():
        fork_server.begin(environment, _current_folder(), output=STDERR)
    return fork_server


def _current_folder() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        from common.errors import Misconfigured

        raise Misconfigured("the current folder was removed; change to one that is there") from None


def _run_worker(duty: Duty, options: list[str]) -> None:
    from signalbox.parts import worker_command

    # `exec` keeps the process: its id tells several workers of one machine apart in Flower.
    _become(worker_command(duty, options, name=f"{duty}-{os.getpid()}"), {})


def _become(command: tuple[str, ...], chosen: dict[str, str]) -> None:
    """Replace this process by another one of Signalbox, which comes to the same settings."""
    from signalbox.cli.target import local_environment, local_settings

    os.execve(command[0], command, {**local_environment(local_settings()), **chosen})  # noqa: S606 - no shell
