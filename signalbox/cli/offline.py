# ruff: noqa: PLC0415 - what is heavy is loaded by the command that needs it: `signalbox --help` answers at once
"""Commands that need no server: check, simulate and draw a definition with the kernel itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.errors import Invalid
from signalbox.cli.arguments import json_argument, read_document, read_object
from signalbox.cli.exits import Exit, Failed, UsageError
from signalbox.cli.options import DEFINE, AsJson
from signalbox.cli.output import Output
from signalbox.cli.target import connect

if TYPE_CHECKING:
    from rich.console import RenderableType

FORMS = ("mermaid", "svg")


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel=DEFINE)(check)
    app.command(rich_help_panel=DEFINE)(simulate)
    app.command(rich_help_panel=DEFINE)(diagram)


def check(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE…", help="Definitions; - for stdin.", show_default=False)
    ],
    json: AsJson = False,
) -> None:
    """Find what is wrong with definitions, without a server. Exit 1 when one has errors.

    Nothing is said of what only an installation knows: what task types and definitions of yours there are.
    """
    out = Output(json)
    report: list[dict[str, Any]] = [{"file": file, "problems": _problems(file)} for file in files]
    out.show({"files": report}, lambda: _report(report))
    if any(problem["severity"] == "error" for one in report for problem in one["problems"]):
        raise typer.Exit(Exit.FAILED)


def simulate(
    spec: Annotated[
        str | None, typer.Argument(metavar="SPEC", help="A definition.", show_default=False)
    ] = None,
    events: Annotated[
        str | None, typer.Argument(metavar="EVENTS", help="A JSON array of events.", show_default=False)
    ] = None,
    batch: Annotated[
        bool,
        typer.Option(
            "--batch",
            help="Read JSON lines {id, spec, events, input?}, write {id, snapshots} or {id, error}.",
        ),
    ] = False,
    config: Annotated[
        str | None,
        typer.Option(
            "--config", metavar="JSON|@FILE", help="What expressions read as config: {module: {key: value}}."
        ),
    ] = None,
    input: Annotated[
        str | None, typer.Option("--input", metavar="JSON|@FILE", help="What it is started with.")
    ] = None,
    json: AsJson = False,  # noqa: ARG001 - the answer is JSON in any case
) -> None:
    """Run a definition through events on a virtual clock and print the snapshots.

    Prints a JSON array: the first snapshot, then one after each event; {"advance_ms": N} moves the clock.
    """
    if batch:
        _simulate_lines()
        return
    if spec is None or events is None:
        raise UsageError("expected SPEC and EVENTS, two JSON files, or --batch with JSON lines on stdin")
    import statechart
    from statechart.expected import found

    script = read_document(events)
    if not isinstance(script, list):
        raise UsageError(f"{events}: expected a JSON array of events, found {found(script)}")

    try:
        values = json_argument(config, "--config")
        given = json_argument(input, "--input")
        snapshots = statechart.simulate(read_object(spec), script, config=values, input=given)
    except statechart.DefinitionInvalid as error:
        raise _refused(spec, error.problems) from error
    except statechart.StepFailed as error:
        raise Failed(f"{spec}: {error}", code=error.code) from error
    Output(as_json=True).write_json(snapshots)


def diagram(
    source: Annotated[str, typer.Argument(metavar="FILE|KEY", help="A definition's file, or its key.")],
    form: Annotated[str, typer.Option("--format", "-f", help="mermaid or svg.")] = "mermaid",
    version: Annotated[
        int | None, typer.Option("--version", help="Of a key.", show_default="the active one")
    ] = None,
    json: AsJson = False,
) -> None:
    """Draw a definition as Mermaid text or as SVG: a file without a server, a key from the server."""
    if form not in FORMS:
        raise UsageError(f'--format: expected "mermaid" or "svg", found "{form}"')
    is_file = source == "-" or source.endswith(".json") or Path(source).is_file()
    drawing = _draw_file(source, form) if is_file else _draw_key(source, version, form)
    if json:
        Output(as_json=True).write_json({"format": form, "diagram": drawing})
    else:
        sys.stdout.write(drawing if drawing.endswith("\n") else f"{drawing}\n")


def _simulate_lines() -> None:
    import statechart

    for line in statechart.simulate_lines(sys.stdin):
        sys.stdout.write(f"{line.rstrip()}\n")
        sys.stdout.flush()


def _problems(file: str) -> list[dict[str, Any]]:
    """Every problem of one file, but for what only an installation knows; text that is not JSON is one too."""
    import statechart

    try:
        document = read_document(file)
    except Invalid as error:
        return [
            {
                "severity": "error",
                "code": error.code,
                "path": "",
                "message": error.message,
                "suggestion": None,
            }
        ]
    if not isinstance(document, dict):
        return [problem.to_json() for problem in statechart.check(document)]
    from signalbox.door import problems_of

    return [problem.to_json() for problem in problems_of(document)]


def _report(report: list[dict[str, Any]]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from signalbox.cli.render import count, problem_line

    lines: list[RenderableType] = []
    for one in report:
        problems = one["problems"]
        errors = sum(problem["severity"] == "error" for problem in problems)
        warnings = count(len(problems) - errors, "warning")
        said = f"{count(errors, 'error')}, {warnings}" if problems else "no problems"
        mark, style = ("✗", "red") if errors else ("✓", "green")
        lines.append(Text.assemble((f"{mark} ", style), (one["file"], "bold"), f": {said}"))
        lines.extend(problem_line(problem) for problem in problems)
    return Group(*lines)


def _draw_file(file: str, form: str) -> str:
    import statechart

    try:
        chart = statechart.load(read_object(file))
    except statechart.DefinitionInvalid as error:
        raise _refused(file, error.problems) from error
    return statechart.diagram(chart, format="svg" if form == "svg" else "mermaid")


def _draw_key(key: str, version: int | None, form: str) -> str:
    with connect() as client:
        return client.diagram(key, version, form="svg" if form == "svg" else "mermaid")


def _refused(file: str, problems: Any) -> Invalid:
    return Invalid(
        f"{file}: the definition is invalid",
        code="definition.invalid",
        problems=[problem.to_json() for problem in problems],
    )
