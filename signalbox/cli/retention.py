# ruff: noqa: PLC0415 - what is heavy is loaded by the command that needs it: `signalbox --help` answers at once
"""Retention, in the database itself: what is due, and sweeping it now."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from signalbox.cli.options import RUN, AsJson
from signalbox.cli.output import Output
from signalbox.cli.target import find_tenant, local_settings, open_database

if TYPE_CHECKING:
    from rich.console import RenderableType

retention = typer.Typer(no_args_is_help=True, help="Delete finished instances whose time of keeping is over.")


def register(app: typer.Typer) -> None:
    app.add_typer(retention, name="retention", rich_help_panel=RUN)


@retention.command()
def status(
    tenant: Annotated[
        str | None, typer.Option("--tenant", help="Only of this tenant.", show_default="all")
    ] = None,
    json: AsJson = False,
) -> None:
    """Tell how many finished instances are due to be deleted, and how many were.

    Days are those of this command's own settings, which hold where a definition says nothing.
    """
    from common.commands.retention import retention_status
    from common.retention import Keeping

    with open_database() as database:
        tenant_id = None if tenant is None else find_tenant(database, tenant)
        with database.reading() as tx:
            found = retention_status(tx, Keeping.of(local_settings()), tenant_id=tenant_id)
    Output(json).show(found, lambda: _view(found))


@retention.command()
def run(json: AsJson = False) -> None:
    """Delete what is due now, of all tenants, by the settings of this command; orchestrators do it by themselves."""
    from rich.text import Text

    from common.retention import Keeping
    from orchestrator.retention import sweep
    from signalbox.cli.render import count

    began = time.monotonic()
    with open_database() as database:
        deleted = sweep(database, Keeping.of(local_settings()), rest=_rest)
    body = {"deleted": deleted, "seconds": round(time.monotonic() - began, 3)}
    Output(json).show(body, lambda: Text(f"{count(deleted, 'instance')} deleted in {body['seconds']:g} s"))


def _rest(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _view(found: Any) -> RenderableType:
    from signalbox.cli.render import facts, instant

    kept = ", ".join(
        f"{status} {'for ever' if days is None else f'{days:g} days'}"
        for status, days in found["keptDays"].items()
    )
    return facts(
        [
            ("kept by the settings", kept),
            ("due", str(found["due"])),
            ("the oldest finished", instant(found["oldestFinishedAt"])),
            ("deleted so far", str(found["deleted"])),
            ("the last", instant(found["lastDeletedAt"])),
        ]
    )
