# ruff: noqa: PLC0415 - what is heavy is loaded by the command that needs it: `signalbox --help` answers at once
"""Commands about definitions on a server: apply, list, show, and which version starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.errors import Invalid, SignalboxError, Unauthorized, Unavailable
from signalbox.cli.arguments import read_document
from signalbox.cli.exits import exit_code
from signalbox.cli.options import DEFINE, AsJson
from signalbox.cli.output import Output
from signalbox.cli.target import connect

if TYPE_CHECKING:
    from rich.console import RenderableType

    from signalbox.client import Availability, Client
    from signalbox.shapes import Definition, DefinitionDiff, DefinitionStatistics, DefinitionSummary

Key = Annotated[
    str, typer.Argument(metavar="KEY", help="The definition's key: its `id`.", show_default=False)
]
Number = Annotated[
    int, typer.Argument(metavar="VERSION", min=1, help="Number of the version.", show_default=False)
]

group = typer.Typer(
    no_args_is_help=True, help="List, show and compare definitions, and say which version starts."
)


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel=DEFINE)(apply)
    app.add_typer(group, name="definitions", rich_help_panel=DEFINE)


def apply(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE…", help="Definitions; - for stdin.", show_default=False)
    ],
    activate: Annotated[
        bool, typer.Option("--activate/--no-activate", help="Let the new version be the one that starts.")
    ] = True,
    json: AsJson = False,
) -> None:
    """Apply definitions: check them, store each as a new version, activate it.

    A definition that has not changed keeps its version. One that starts others of these comes after them. Exit 1 when
    one is refused; the others are applied.
    """
    out = Output(json)
    documents = [read_document(file) for file in files]  # nothing is applied while a file is not even JSON
    results: dict[int, Definition | SignalboxError] = {}
    with connect() as client:
        for place in children_first(documents):
            results[place] = _apply_one(client, documents[place], activate)
    applied: list[dict[str, Any]] = []
    failures: list[SignalboxError] = []
    for place, file in enumerate(files):
        result = results[place]
        if isinstance(result, SignalboxError):
            failures.append(result)
            applied.append({"file": file, "error": _told(result)})
        else:
            applied.append({"file": file, **result})
    out.show({"items": applied}, lambda: _applied(applied))
    if failures:
        raise typer.Exit(exit_code(failures[0]))


@group.command("list")
def list_definitions(
    search: Annotated[str | None, typer.Option("--search", help="Only keys with this text in them.")] = None,
    json: AsJson = False,
) -> None:
    """List the definitions."""
    with connect() as client:
        found = list(client.definitions(search=search or None))
    Output(json).show({"items": found, "nextCursor": None}, lambda: _table(found, search))


@group.command()
def show(
    key: Key,
    version: Annotated[int | None, typer.Option("--version", min=1, show_default="the active one")] = None,
    json: AsJson = False,
) -> None:
    """Show one version of a definition with its document."""
    with connect() as client:
        found = client.definition(key, version)
    Output(json).show(found, lambda: _facts(found))


@group.command()
def versions(key: Key, json: AsJson = False) -> None:
    """List the versions of a definition."""
    with connect() as client:
        found = list(client.versions(key))
    Output(json).show({"items": found, "nextCursor": None}, lambda: _table(found))


@group.command()
def diff(
    key: Key,
    older: Annotated[
        int | None, typer.Option("--from", min=1, show_default="the one before", help="The older version.")
    ] = None,
    newer: Annotated[
        int | None, typer.Option("--to", min=1, show_default="the active one", help="The newer version.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Tell what differs between two versions of a definition."""
    with connect() as client:
        found = client.diff(key, older=older, newer=newer)
    Output(json).show(found, lambda: _differences(found))


@group.command()
def stats(
    key: Key,
    days: Annotated[
        int,
        typer.Option(
            "--days", min=1, max=36_500, help="Instances that were created in the last so many days."
        ),
    ] = 30,
    json: AsJson = False,
) -> None:
    """Tell how its instances have fared: how they ended, how long they took, and how their tasks did."""
    with connect() as client:
        found = client.definition_stats(key, since=datetime.now(UTC) - timedelta(days=days))
    Output(json).show(found, lambda: _statistics(found))


@group.command()
def activate(key: Key, version: Number, json: AsJson = False) -> None:
    """Let new instances start with this version."""
    _set_availability(key, version, "activate", json)


@group.command()
def deactivate(key: Key, version: Number, json: AsJson = False) -> None:
    """Let no new instance start with this version; running ones stay on it."""
    _set_availability(key, version, "deactivate", json)


@group.command()
def archive(key: Key, version: Number, json: AsJson = False) -> None:
    """Put a version away: it stays readable, and only a restore brings it back."""
    _set_availability(key, version, "archive", json)


@group.command()
def restore(key: Key, version: Number, json: AsJson = False) -> None:
    """Apply the document of an old version again, as the next version, and let that one start."""
    _set_availability(key, version, "restore", json)


def _set_availability(key: str, version: int, verb: Availability, as_json: bool) -> None:
    with connect() as client:
        found = client.set_availability(key, version, verb)
    Output(as_json).show(found, lambda: _line(found))


def children_first(documents: Sequence[Any]) -> list[int]:
    """The places of documents in the order to apply them in: each after those whose instances it starts.

    So a parent is not warned of a child that comes right behind it, and starts none before it is there. Where they start
    each other, the one that was given first comes last.
    """
    places = {
        document["id"]: place
        for place, document in enumerate(documents)
        if isinstance(document, dict) and isinstance(document.get("id"), str)
    }
    ordered: dict[int, None] = {}
    begun: set[int] = set()

    def order(place: int) -> None:
        if place in begun:
            return
        begun.add(place)
        for key in _started_by(documents[place]):
            if key in places:
                order(places[key])
        ordered[place] = None

    for place in range(len(documents)):
        order(place)
    return list(ordered)


def _started_by(part: Any) -> Iterator[str]:
    """Every key that is written out as a `definitionKey`, in the order of the document."""
    if isinstance(part, dict):
        key = part.get("definitionKey")
        if isinstance(key, str):
            yield key
    inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    for one in inner:
        yield from _started_by(one)


def _apply_one(client: Client, document: Any, activate: bool) -> Definition | SignalboxError:
    """The applied definition, or why it was refused. No answer and no access are not about this file: they raise."""
    if not isinstance(document, dict):
        from statechart.expected import found

        return Invalid(
            f"expected a JSON object, a definition, found {found(document)}", code="definition.invalid"
        )
    try:
        return client.apply(document, activate=activate)
    except (Unavailable, Unauthorized):
        raise
    except SignalboxError as error:
        return error


def _told(error: SignalboxError) -> dict[str, Any]:
    problems = error.problems if isinstance(error, Invalid) else []
    return {"code": error.code, "message": error.message, "problems": problems}


def _applied(applied: list[dict[str, Any]]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from signalbox.cli.render import problem_line

    lines: list[RenderableType] = []
    for one in applied:
        error = one.get("error")
        if error:
            lines.append(Text.assemble(("✗ ", "red"), (one["file"], "bold"), f": {error['message']}"))
            lines.extend(problem_line(problem) for problem in error["problems"])
        else:
            lines.append(Text.assemble(("✓ ", "green"), (one["file"], "bold"), ": ", _line(one)))
            lines.extend(problem_line(problem) for problem in one.get("warnings") or ())
    return Group(*lines)


def _line(one: Any) -> Any:
    from rich.text import Text

    from signalbox.cli.render import status_text

    return Text.assemble((one["key"], "bold"), f" version {one['version']}, ", status_text(one["status"]))


def _table(found: list[DefinitionSummary], search: str | None = None) -> RenderableType:
    from signalbox.cli.render import definitions_table

    return definitions_table(found, search=search)


def _differences(found: DefinitionDiff) -> RenderableType:
    from signalbox.cli.render import definition_diff

    return definition_diff(found)


def _statistics(found: DefinitionStatistics) -> RenderableType:
    from signalbox.cli.render import definition_stats

    return definition_stats(found)


def _facts(found: Definition) -> RenderableType:
    from signalbox.cli.render import definition_facts

    return definition_facts(found)
