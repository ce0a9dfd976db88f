# ruff: noqa: PLC0415 - what is heavy is loaded by the command that needs it: `signalbox --help` answers at once
"""Erasing the data of ended instances: one by its id, or all that labels find."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from signalbox.cli import arguments
from signalbox.cli.control import DryRun, OfDefinition, OneId, Yes, act_on_many, require_definition
from signalbox.cli.exits import TimedOut, UsageError
from signalbox.cli.options import WORK, AsJson, Labels
from signalbox.cli.output import Output
from signalbox.cli.target import connect

if TYPE_CHECKING:
    from signalbox.client import Client
    from signalbox.shapes import Instance

WAIT_SECONDS = 10.0
PAUSE_SECONDS = 0.1


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel=WORK)(erase)


def erase(
    instance_id: OneId = None,
    label: Labels = None,
    subject: Annotated[
        str | None,
        typer.Option(
            "--subject", metavar="WHO", help='Every instance with the label "subject" of this value.'
        ),
    ] = None,
    definition: OfDefinition = None,
    reason: Annotated[
        str | None, typer.Option("--reason", help="Kept in the history: it must not name the person.")
    ] = None,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Cancel first what has not ended; else that is refused.")
    ] = False,
    with_children: Annotated[
        bool, typer.Option("--with-children/--without-children", help="Erase the children too, and theirs.")
    ] = True,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: AsJson = False,
) -> None:
    """Erase the data of ended instances: ids, states, types and times stay, and the history still verifies.

    Needs a key of an admin. With --label, --subject or --definition instead of an ID: every instance that matches.
    """
    labels = arguments.labels(label or ()) | ({"subject": subject} if subject is not None else {})
    wanted = {name: value for name, value in (("labels", labels), ("definitionKey", definition)) if value}
    if (instance_id is None) == (not wanted):
        raise UsageError("expected either an instance's ID or a filter; see `signalbox erase --help`")
    out = Output(json)
    asked: dict[str, Any] = {"reason": reason, "cancel": cancel, "children": with_children}
    with connect() as client:
        if instance_id is not None:
            if dry_run:
                raise UsageError("--dry-run goes with a filter; one instance answers by itself")
            instance = _erase_one(client, instance_id, asked)
            out.show(instance, lambda: _facts(instance))
            return
        act_on_many(
            out,
            lambda is_dry: client.erase_all(wanted, dry_run=is_dry, **asked),
            "erase the data of",
            "instance",
            dry_run=dry_run,
            yes=yes,
            on_none=lambda: require_definition(client, definition),
        )


def _erase_one(client: Client, instance_id: str, asked: dict[str, Any]) -> Instance:
    """Erase, and wait until it is done: the instance. What was erased before is erased again, so the instant must change."""
    before = client.instance(instance_id)["erasedAt"]
    client.erase(instance_id, **asked)
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        instance = client.instance(instance_id)
        if instance["erasedAt"] != before:
            return instance
        if time.monotonic() > deadline:
            raise TimedOut(
                f"the erasure of {instance_id} is accepted, and no orchestrator has done it in {WAIT_SECONDS:g} s"
            )
        time.sleep(PAUSE_SECONDS)


def _facts(instance: Instance) -> Any:
    from signalbox.cli.render import instance_facts

    return instance_facts(instance)
