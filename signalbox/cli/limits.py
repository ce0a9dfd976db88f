# ruff: noqa: PLC0415 - what is heavy is loaded by the command that needs it: `signalbox --help` answers at once
"""Commands about limits: how many tasks of a type or a key run at once, and how often one starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from signalbox.cli.exits import UsageError
from signalbox.cli.options import WORK, AsJson
from signalbox.cli.output import Output
from signalbox.cli.target import connect

if TYPE_CHECKING:
    from rich.console import RenderableType

    from signalbox.shapes import Limit

limits = typer.Typer(no_args_is_help=True, help="Bound how many tasks run at once, and how often one starts.")

Key = Annotated[
    str, typer.Argument(metavar="KEY", help="type:TYPE, or key:TEXT of a definition.", show_default=False)
]


def register(app: typer.Typer) -> None:
    app.add_typer(limits, name="limits", rich_help_panel=WORK)


@limits.command("list")
def list_limits(json: AsJson = False) -> None:
    """List limits by key, with what runs and what waits under each."""
    with connect() as client:
        found = list(client.limits())
    Output(json).show({"items": found, "nextCursor": None}, lambda: _table(found))


@limits.command("show")
def show_limit(key: Key, json: AsJson = False) -> None:
    """Show a limit."""
    with connect() as client:
        found = client.limit(key)
    Output(json).show(found, lambda: _facts(found))


@limits.command("set")
def set_limit(
    key: Key,
    max_running: Annotated[
        int | None, typer.Option("--max-running", "-m", min=0, help="So many run at once; 0: none.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option("--rate", "-r", metavar="COUNT/TIME", help="So many start in a time: 10/1s.")
    ] = None,
    burst: Annotated[
        int | None, typer.Option("--burst", min=1, help="The most that start at once.", show_default="COUNT")
    ] = None,
    json: AsJson = False,
) -> None:
    """Set a limit: what is left out does not bound any more. It counts more than what definitions say of the key."""
    count, per = (None, None) if rate is None else _read_rate(rate)
    if max_running is None and count is None:
        raise UsageError("expected --max-running, --rate or both, found neither")
    if burst is not None and count is None:
        raise UsageError("--burst: expected with --rate, found alone")
    with connect() as client:
        found = client.set_limit(key, max_running=max_running, count=count, per=per, burst=burst)
    Output(json).show(found, lambda: _facts(found))


@limits.command("delete")
def delete_limit(key: Key, json: AsJson = False) -> None:
    """Delete a limit. One of a definition stands again with its next task."""
    from rich.text import Text

    with connect() as client:
        client.delete_limit(key)
    Output(json).show({"key": key, "deleted": True}, lambda: Text(f"limit {key} is deleted"))


def _read_rate(text: str) -> tuple[int, str]:
    count, slash, per = text.partition("/")
    if not slash or not count.isascii() or not count.isdigit() or not per:
        raise UsageError(f'--rate: expected COUNT/TIME such as 10/1s, found "{text}"')
    return int(count), per


def _rate_text(one: Limit) -> str:
    rate = one["rate"]
    if rate is None:
        return ""
    return f"{rate['count']} in {rate['perMs'] / 1000:g} s, {rate['burst']} at once"


def _table(found: list[Limit]) -> RenderableType:
    from signalbox.cli.render import list_or, plain_table

    table = plain_table("key", "source", "running", "of", "waiting", "rate", "tokens")
    for one in found:
        most = "" if one["maxRunning"] is None else str(one["maxRunning"])
        tokens = "" if one["tokens"] is None else f"{one['tokens']:g}"
        table.add_row(
            one["key"], one["source"], str(one["running"]), most, str(one["waiting"]), _rate_text(one), tokens
        )
    return list_or("no limits yet; set one with `signalbox limits set type:HTTP --max-running 3`", table)


def _facts(one: Limit) -> RenderableType:
    from rich.text import Text

    from signalbox.cli.render import facts, instant

    most = one["maxRunning"]
    return facts(
        [
            ("limit", Text(one["key"], "bold")),
            ("source", one["source"]),
            ("running", str(one["running"]) if most is None else f"{one['running']} of {most}"),
            ("waiting", str(one["waiting"])),
            ("rate", _rate_text(one) or None),
            ("tokens", None if one["tokens"] is None else f"{one['tokens']:g}"),
            ("set", f"{instant(one['updatedAt'])} by {one['updatedBy']}"),
        ]
    )
