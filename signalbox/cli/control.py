# ruff: noqa: PLC0415 - what is heavy is loaded by the command that needs it: `signalbox --help` answers at once
"""Control of instances: pause, resume, step, retry, restart, cancel; one by its id, or all that a filter finds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from signalbox.cli import arguments
from signalbox.cli.exits import Exit, UsageError
from signalbox.cli.options import WORK, AsJson, InstanceId, Labels, Statuses
from signalbox.cli.output import Output
from signalbox.cli.target import connect

if TYPE_CHECKING:
    from signalbox.client import Client, ControlVerb
    from signalbox.shapes import BulkPage, Instance

OneId = Annotated[
    str | None,
    typer.Argument(metavar="[ID]", help="The instance's id; without it, a filter.", show_default=False),
]
Reason = Annotated[str | None, typer.Option("--reason", help="Kept in the history.")]
OfDefinition = Annotated[
    str | None, typer.Option("--definition", "-d", metavar="KEY", help="Only of this definition.")
]
InState = Annotated[
    str | None, typer.Option("--state", help="Only where this state is active: a dotted path.")
]
All = Annotated[
    bool,
    typer.Option("--all", help="Every one of your tenant, whatever its definition, in place of a filter."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell whom it would concern.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before acting on many.")]


def register(app: typer.Typer) -> None:
    for command in (pause, resume, step, retry, restart, cancel, compensate, compensations):
        app.command(rich_help_panel=WORK)(command)


def pause(
    instance_id: OneId = None,
    definition: OfDefinition = None,
    status: Statuses = None,
    state: InState = None,
    label: Labels = None,
    reason: Reason = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: AsJson = False,
) -> None:
    """Pause an instance: running tasks finish, nothing new starts, what comes waits.

    With --definition, --status, --state or --label instead of an ID: every instance that matches.
    """
    _say("pause", instance_id, _filter(definition, status, state, label), reason, dry_run, yes, Output(json))


def resume(
    instance_id: OneId = None,
    definition: OfDefinition = None,
    state: InState = None,
    label: Labels = None,
    all: All = False,
    reason: Reason = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: AsJson = False,
) -> None:
    """Resume a paused instance where it stands; what waited is taken in its order.

    With --definition, --state or --label instead of an ID: every paused instance that matches; with --all: every one.
    """
    wanted = _filter(definition, None, state, label)
    _say("resume", instance_id, _among(wanted, "paused", all=all), reason, dry_run, yes, Output(json))


def step(instance_id: InstanceId, json: AsJson = False) -> None:
    """Take a paused instance one event further: its tasks run, the oldest thing that waits is taken."""
    with connect() as client:
        instance = client.step(instance_id)
    _show(Output(json), instance)


def retry(
    instance_id: OneId = None,
    definition: OfDefinition = None,
    state: InState = None,
    label: Labels = None,
    all: All = False,
    reason: Reason = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: AsJson = False,
) -> None:
    """Retry a failed instance: its failed task, or the event whose step failed. Its incidents are resolved.

    With --definition, --state or --label instead of an ID: every failed instance that matches; with --all: every one.
    """
    wanted = _filter(definition, None, state, label)
    _say("retry", instance_id, _among(wanted, "failed", all=all), reason, dry_run, yes, Output(json))


def restart(
    instance_id: InstanceId,
    state: Annotated[
        str | None,
        typer.Option("--state", help="Dotted path of the state to enter.", show_default="the initial one"),
    ] = None,
    context: Annotated[
        str | None, typer.Option("--context", metavar="JSON|@FILE", help="Laid over the context.")
    ] = None,
    reason: Reason = None,
    json: AsJson = False,
) -> None:
    """Restart an instance from a chosen state: what is open is cancelled, the context stays."""
    given = arguments.json_object(context, "--context")
    with connect() as client:
        instance = client.restart(instance_id, state=state, context=given, reason=reason)
    _show(Output(json), instance)


def cancel(
    instance_id: OneId = None,
    definition: OfDefinition = None,
    status: Statuses = None,
    state: InState = None,
    label: Labels = None,
    reason: Reason = None,
    without: Annotated[
        bool, typer.Option("--without-compensation", help="Undo nothing; with an ID only.")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: AsJson = False,
) -> None:
    """Cancel an instance: exit actions run, open tasks, timers and children are cancelled, what was done is undone.

    With --definition, --status, --state or --label instead of an ID: every instance that matches.
    """
    if without:
        if instance_id is None:
            raise UsageError("--without-compensation goes with an instance's ID")
        with connect() as client:
            _show(Output(json), client.cancel(instance_id, compensate=False, reason=reason))
        return
    _say("cancel", instance_id, _filter(definition, status, state, label), reason, dry_run, yes, Output(json))


def compensate(
    instance_id: OneId = None,
    definition: OfDefinition = None,
    status: Statuses = None,
    state: InState = None,
    label: Labels = None,
    reason: Reason = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: AsJson = False,
) -> None:
    """Undo what an instance has done, last first, and end it: a failed one failed, any other cancelled.

    With --definition, --status, --state or --label instead of an ID: every instance that matches.
    """
    wanted = _filter(definition, status, state, label)
    _say("compensate", instance_id, wanted, reason, dry_run, yes, Output(json))


def compensations(instance_id: InstanceId, json: AsJson = False) -> None:
    """List what an instance has done that can be undone, in the order of its undoing, and how far that is."""
    from signalbox.cli.render import compensations_view

    with connect() as client:
        found = client.compensations(instance_id)
    Output(json).show(found, lambda: compensations_view(found))


def _filter(
    definition: str | None, status: list[str] | None, state: str | None, label: list[str] | None
) -> dict[str, Any]:
    given = {
        "definitionKey": definition,
        "status": status or None,
        "state": state,
        "labels": arguments.labels(label or ()) or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _among(wanted: dict[str, Any], status: str, *, all: bool) -> dict[str, Any]:
    """The only status in which a verb makes sense narrows a filter; it makes one for who says `--all`, and for nobody else."""
    if all and wanted:
        raise UsageError(
            "--all takes every definition, state and label; leave it out, or --definition, --state and --label"
        )
    return {**wanted, "status": [status]} if wanted or all else {}


def _say(
    verb: ControlVerb,
    instance_id: str | None,
    wanted: dict[str, Any],
    reason: str | None,
    dry_run: bool,
    yes: bool,
    out: Output,
) -> None:
    if (instance_id is None) == (not wanted):
        raise UsageError(f"expected either an instance's ID or a filter; see `signalbox {verb} --help`")
    with connect() as client:
        if instance_id is not None:
            if dry_run:
                raise UsageError("--dry-run goes with a filter; one instance answers by itself")
            _show(out, client.control(instance_id, verb, reason=reason))
            return
        act_on_many(
            out,
            lambda is_dry: client.control_all(verb, wanted, reason=reason, dry_run=is_dry),
            verb,
            "instance",
            dry_run=dry_run,
            yes=yes,
            on_none=lambda: require_definition(client, wanted.get("definitionKey")),
        )


def act_on_many(
    out: Output,
    ask: Callable[[bool], Iterator[BulkPage]],
    doing: str,
    thing: str,
    *,
    dry_run: bool,
    yes: bool,
    on_none: Callable[[], None],
) -> None:
    """Count first and ask, then act, with the count going up on stderr. Exit 4 when some were refused.

    `doing` is what is about to be done, and `thing` the word for each of whom it is done to. `on_none` is called where none match, and raises where
    none could.
    """
    from signalbox.cli.render import count

    if not dry_run and not yes:
        concerned = sum(len(page["accepted"]) for page in ask(True))
        if concerned and not _is_wanted(f"{doing} {count(concerned, thing)}"):
            raise typer.Exit(Exit.OK)
    accepted: list[str] = []
    refused: list[Any] = []
    for page in ask(dry_run):
        accepted += page["accepted"]
        refused += page["refused"]
        if page["nextCursor"] is not None:
            sys.stderr.write(f"{len(accepted)} …\n")
    if not accepted and not refused:
        on_none()
    answer = {"dryRun": dry_run, "accepted": accepted, "refused": refused}
    out.show(answer, lambda: _bulk_view(f"{doing} {count(len(accepted), thing)}", answer))
    if refused and not dry_run:
        raise typer.Exit(Exit.CONFLICT)


def require_definition(client: Client, key: str | None) -> None:
    """Raise `NotFound` for a key that no version of any definition has: who misspells it should not be told that all is well."""
    if key is not None:
        next(client.versions(key), None)


def _is_wanted(doing: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError(f"this would {doing}; say --yes to do it, or --dry-run to see which")
    return typer.confirm(f"{doing}?", err=True)


def _bulk_view(doing: str, answer: dict[str, Any]) -> Any:
    from signalbox.cli.render import bulk_view

    return bulk_view(doing, answer)


def _show(out: Output, instance: Instance) -> None:
    from signalbox.cli.render import settled_line

    out.show(instance, lambda: settled_line(instance))
