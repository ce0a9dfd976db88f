# ruff: noqa: PLC0415 - what is heavy is loaded by the command that needs it: `signalbox --help` answers at once
"""Commands about task types: which there are, what they take and give, and who does them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from signalbox.cli.options import DEFINE, AsJson
from signalbox.cli.output import Output
from signalbox.cli.target import connect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from signalbox.shapes import Handler, Member

handlers = typer.Typer(no_args_is_help=True, help="List and show task types.")


def register(app: typer.Typer) -> None:
    app.add_typer(handlers, name="handlers", rich_help_panel=DEFINE)


@handlers.command("list")
def list_handlers(
    category: Annotated[
        str | None, typer.Option("--category", "-c", help="api-call, message, human, ai, flow, data or code.")
    ] = None,
    json: AsJson = False,
) -> None:
    """List task types: the engine's own, and those that task runners offer."""
    with connect() as client:
        found = client.handlers(category=category)
    Output(json).show({"items": found, "nextCursor": None}, lambda: _table(found))


@handlers.command("show")
def show_handler(
    type: Annotated[str, typer.Argument(metavar="TYPE", help="A task type.", show_default=False)],
    name: Annotated[str | None, typer.Option("--name", help="A function, where TYPE is SYSTEM.")] = None,
    json: AsJson = False,
) -> None:
    """Show a task type: what it takes and gives, with examples."""
    with connect() as client:
        found = client.handler(type, name=name)
    Output(json).show(found, lambda: _facts(found))


def _table(found: list[Handler]) -> RenderableType:
    from signalbox.cli.render import list_or, plain_table, short

    table = plain_table("type", "name", "category", "runners", "description", right=("runners",))
    for one in found:
        runners = "" if one["runners"] is None else str(one["runners"])
        first = one["description"].partition("\n")[0]
        table.add_row(one["type"], one["name"] or "", one["category"], runners, short(first, 80))
    return list_or("no task types match", table)


def _facts(one: Handler) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from signalbox.cli.render import facts, instant, json_block, section

    runners = "none is needed" if one["runners"] is None else str(one["runners"])
    kinds = [kind for kind in ("light", "isolated") if one[kind]]
    parts: list[RenderableType] = [
        facts(
            [
                ("type", Text(one["type"], "bold")),
                ("name", one["name"]),
                ("title", one["title"]),
                ("category", one["category"]),
                ("runners", runners),
                ("runs", ", ".join(kinds)),
                ("published", instant(one["publishedAt"])),
            ]
        )
    ]
    if one["description"]:
        parts.append(section("description", Text(one["description"])))
    for title, members, schema in (
        ("input", one["parameters"], one["inputSchema"]),
        ("output", one["outputs"], one["outputSchema"]),
    ):
        if members:
            parts.append(section(title, _members_table(members)))
        elif schema:
            parts.append(section(title, json_block(schema)))
    if one["retry"] is not None:
        parts.append(section("retry", json_block(one["retry"])))
    for example in one["examples"]:
        parts.append(section(example["says"], json_block(example["task"])))
    return Group(*parts)


def _members_table(members: Sequence[Member]) -> RenderableType:
    from signalbox.cli.render import compact, plain_table

    table = plain_table("member", "type", "", "description")
    for member in members:
        needed = "required" if member["required"] else ""
        if "default" in member:
            needed = f"default {compact(member['default'])}"
        table.add_row(member["name"], member["type"], needed, member["description"])
    return table
