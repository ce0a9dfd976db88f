# ruff: noqa: PLC0415 - what is heavy is loaded by the command that needs it: `signalbox --help` answers at once
"""Commands about secrets. A value comes from a hidden prompt, from stdin or from a file: arguments are seen by everybody."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from signalbox.cli.exits import Exit, UsageError
from signalbox.cli.options import DEFINE, AsJson
from signalbox.cli.output import Output
from signalbox.cli.target import connect, local_settings, open_database

if TYPE_CHECKING:
    from rich.console import RenderableType

    from common.commands.secrets import Rotation
    from signalbox.shapes import Secret

secrets = typer.Typer(no_args_is_help=True, help="Set, list and delete the values behind ${secret.NAME}.")

MAX_READ_BYTES = 1_000_000
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="What stands in ${secret.NAME}.", show_default=False)
]


def register(app: typer.Typer) -> None:
    app.add_typer(secrets, name="secrets", rich_help_panel=DEFINE)


@secrets.command("set")
def set_secret(
    name: Name,
    from_file: Annotated[
        Path | None,
        typer.Option("--from-file", metavar="PATH", help="Take the value from a file, as it is."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Set a secret's value: asked for on a terminal, else read from stdin, up to a line feed at its end."""
    from rich.text import Text

    value = _read_file(from_file) if from_file is not None else _read_stdin(name)
    if not value:
        source = "stdin" if from_file is None else str(from_file)
        raise UsageError(f"{source}: expected the value of the secret, found nothing")
    with connect() as client:
        found = client.set_secret(name, value)
    Output(json).show(found, lambda: Text(f"secret {found['name']} is set, version {found['version']}"))


@secrets.command("ls")
def list_secrets(json: AsJson = False) -> None:
    """List secrets: names, versions and times, never values."""
    with connect() as client:
        found = list(client.secrets())
    Output(json).show({"items": found, "nextCursor": None}, lambda: _table(found))


@secrets.command("rm")
def delete_secret(name: Name, json: AsJson = False) -> None:
    """Delete a secret. Tasks that refer to it fail from now on."""
    from rich.text import Text

    with connect() as client:
        client.delete_secret(name)
    Output(json).show({"name": name, "deleted": True}, lambda: Text(f"secret {name} is deleted"))


@secrets.command()
def rotate(json: AsJson = False) -> None:
    """Seal all secrets of all tenants under the present SIGNALBOX_SECRET, in the database itself.

    SIGNALBOX_OLD_SECRETS names what they were sealed under. May be broken off and run again; exit 1 where some stay as they are.
    """
    from rich.text import Text

    from common.commands.secrets import Rotation, rotate
    from common.sealing import SealingKeys

    keys = SealingKeys.read(*local_settings().installation_secrets())
    out = Output(json)
    state = Rotation(0)
    with open_database() as database:
        for state in rotate(database, keys):
            if not json and state.done:
                out.note(Text(f"{state.done} of {state.total} sealed again", "dim"))
        names = _tenant_names(database) if state.unopened else {}
    left = [
        {"tenant": names.get(named.tenant_id, named.tenant_id), "name": named.name, "code": code}
        for named, code in state.unopened
    ]
    body = {"keyId": keys.current, "total": state.total, "resealed": state.done, "unopened": left}
    out.show(body, lambda: _rotated(state, left))
    if left:
        raise typer.Exit(Exit.FAILED)


def _read_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_READ_BYTES)
    except OSError as error:
        raise UsageError(f'--from-file: cannot read "{path}": {error.strerror}') from error
    return _text(raw, "--from-file")


def _read_stdin(name: str) -> str:
    if sys.stdin.isatty():
        value: str = typer.prompt(f"value of {name}", hide_input=True, confirmation_prompt=True)
        return value
    value = _text(sys.stdin.buffer.read(MAX_READ_BYTES), "stdin")
    return value.removesuffix("\r\n" if value.endswith("\r\n") else "\n")


def _text(raw: bytes, source: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        # Without the cause: its text would quote the value.
        raise UsageError(f"{source}: expected text in UTF-8; encode bytes, in base64 for example") from None


def _tenant_names(database: Any) -> dict[str, str]:
    from common.store.keys import list_tenants

    with database.reading() as tx:
        return list_tenants(tx)


def _table(found: list[Secret]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from signalbox.cli.render import instant, list_or, plain_table, unopened

    table = plain_table("name", "version", "created", "set", "by", "")
    for one in found:
        times = (instant(one["createdAt"]), instant(one["updatedAt"]))
        mark = Text("✗", "red") if one.get("readable") is False else ""  # an older API does not say
        table.add_row(one["name"], str(one["version"]), *times, one["updatedBy"], mark)
    shown = list_or("no secrets yet; set one with `signalbox secrets set NAME`", table)
    number = sum(one.get("readable") is False for one in found)
    return Group(shown, Text(f"✗ {unopened(number)}", "red")) if number else shown


def _rotated(state: Rotation, left: list[dict[str, Any]]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    if not state.total:
        return Text("every secret is sealed under the present SIGNALBOX_SECRET")
    lines = [Text(f"  ✗ {one['name']} of tenant {one['tenant']}: {_WHY[one['code']]}", "red") for one in left]
    return Group(Text(f"{state.done} of {state.total} secrets are sealed again"), *lines)


_WHY = {
    "secret.unreadable": "sealed under a secret that SIGNALBOX_OLD_SECRETS does not name",
    "secret.damaged": "damaged, or another's; set it again",
}
