# ruff: noqa: PLC0415 - what is heavy is loaded by the command that needs it: `signalbox --help` answers at once
"""Commands about instances: start, list, show, watch, send, and their history."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from signalbox.cli import arguments
from signalbox.cli.exits import Exit, TimedOut, UsageError
from signalbox.cli.options import WORK, AsJson, InstanceId, Labels, Limit, Statuses
from signalbox.cli.output import Output
from signalbox.cli.target import connect

if TYPE_CHECKING:
    from signalbox.client import Client
    from signalbox.shapes import Instance

Timeout = Annotated[
    float | None, typer.Option("--timeout", min=0, metavar="SECONDS", help="Give up after this long: exit 6.")
]


def register(app: typer.Typer) -> None:
    for command in (start, ls, show, watch, send, history, explain, results, note):
        app.command(rich_help_panel=WORK)(command)


def start(
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="The definition's key: its `id`.", show_default=False)
    ],
    input: Annotated[
        str | None, typer.Option("--input", "-i", metavar="JSON|@FILE", help="What the instance works on.")
    ] = None,
    context: Annotated[
        str | None,
        typer.Option("--context", metavar="JSON|@FILE", help="Laid over the definition's context."),
    ] = None,
    business_key: Annotated[
        str | None,
        typer.Option(
            "--business-key", "-k", help="At most one live instance has it; a second start finds it."
        ),
    ] = None,
    reject: Annotated[
        bool,
        typer.Option(
            "--reject", help="Exit 4 where a live instance has the business key, instead of showing it."
        ),
    ] = False,
    label: Labels = None,
    version: Annotated[int | None, typer.Option("--version", min=1, show_default="the active one")] = None,
    priority: Annotated[int | None, typer.Option("--priority", help="Higher runs first.")] = None,
    start_at: Annotated[
        str | None, typer.Option("--start-at", metavar="INSTANT", help="RFC 3339, not before.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show what happens until it ends.")] = False,
    wait: Annotated[
        float | None,
        typer.Option("--wait", min=0, metavar="SECONDS", help="Answer when it has come to rest."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Start an instance of a definition.

    With --watch or --wait: exit 1 when the instance fails, is cancelled or times out.
    """
    out = Output(json)
    given_input = arguments.json_argument(input, "--input")
    given_context = arguments.json_object(context, "--context")
    labels = arguments.labels(label or ())
    with connect() as client:
        instance = client.start(
            key,
            version=version,
            business_key=business_key,
            input=given_input,
            context=given_context,
            priority=priority,
            start_at=start_at,
            labels=labels or None,
            on_conflict="reject" if reject else None,
            wait=None if watch else wait,
        )
        if watch:
            instance = _watch(out, client, instance["id"], wait)
        else:
            _show_line(out, instance)
    _exit_by_status(instance, is_awaited=watch or wait is not None)


def ls(
    status: Statuses = None,
    definition: Annotated[str | None, typer.Option("--definition", "-d", metavar="KEY")] = None,
    business_key: Annotated[str | None, typer.Option("--business-key", "-k")] = None,
    state: Annotated[
        str | None, typer.Option("--state", help="Dotted path of a state that is active.")
    ] = None,
    label: Labels = None,
    parent: Annotated[
        str | None, typer.Option("--parent", metavar="ID", help="The children of this instance.")
    ] = None,
    queued: Annotated[
        bool | None,
        typer.Option("--queued/--not-queued", help="Those that wait for a place.", show_default=False),
    ] = None,
    limit: Limit = 50,
    json: AsJson = False,
) -> None:
    """List instances, newest first."""
    labels = arguments.labels(label or ())
    with connect() as client:
        found = list(
            client.instances(
                status=status or (),
                definition_key=definition,
                business_key=business_key,
                state=state,
                labels=labels,
                parent_id=parent,
                queued=queued,
                limit=limit + 1,
            )
        )
    Output(json).show_first(limit, found, lambda shown: _render().instances_table(shown))


def show(instance_id: InstanceId, json: AsJson = False) -> None:
    """Show an instance: status, state, data, tasks, children and open incidents."""
    with connect() as client:
        instance = client.instance(instance_id)
        tasks = list(client.tasks(instance_id=instance_id, limit=20))
        children = list(client.instances(parent_id=instance_id, limit=20))
        incidents = list(client.incidents(instance_id=instance_id, status="open", limit=20))
    Output(json).show(
        {**instance, "tasks": tasks, "children": children, "incidents": incidents},
        lambda: _render().instance_facts(instance, tasks, incidents, children),
    )


def watch(
    instance_id: InstanceId,
    timeout: Timeout = None,
    json: AsJson = False,
) -> None:
    """Show what happens to an instance, from its beginning until it ends.

    With --json: one entry a line as it arrives. Exit 1 when the instance fails, is cancelled or times out.
    """
    with connect() as client:
        instance = _watch(Output(json), client, instance_id, timeout)
    _exit_by_status(instance, is_awaited=True)


def send(
    instance_id: InstanceId,
    type: Annotated[str, typer.Argument(metavar="TYPE", help="The event's type.", show_default=False)],
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", metavar="JSON|@FILE", help="An object: the event's other members."),
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option("--wait", min=0, metavar="SECONDS", help="Answer when it has come to rest."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Send an event to an instance. With --wait it is told, too, when nothing takes the event."""
    members = arguments.json_object(data, "--data") or {}
    if members.get("type", type) != type:
        raise UsageError(f'--data: its "type" is "{members["type"]}", the event to send is "{type}"')
    with connect() as client:
        before = 0 if wait is None else client.instance(instance_id)["sequence"]
        instance = client.send(instance_id, {**members, "type": type}, wait=wait)
        untaken = None if wait is None else _untaken(client, instance_id, type, since=before + 1)
    if untaken is None:
        _show_line(Output(json), instance)
    else:
        Output(json).show({**instance, "untaken": untaken}, lambda: _render().untaken_view(instance, untaken))


def history(
    instance_id: InstanceId,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Check the hash chain and replay it; exit 1 when it does not verify."),
    ] = False,
    json: AsJson = False,
) -> None:
    """Show everything that happened to an instance."""
    from rich.console import Group

    with connect() as client:
        entries = list(client.history(instance_id))
        verdict = client.verify(instance_id) if verify else None
    answer: dict[str, Any] = {"items": entries, "nextCursor": None}
    if verdict is not None:
        answer["verify"] = verdict
    Output(json).show(
        answer,
        lambda: Group(
            _render().history_table(entries),
            *([_render().verdict_line(verdict)] if verdict is not None else []),
        ),
    )
    if verdict is not None and not verdict["valid"]:
        raise typer.Exit(Exit.FAILED)


def explain(instance_id: InstanceId, json: AsJson = False) -> None:
    """Tell why an instance stands where it stands, and what would move it."""
    with connect() as client:
        found = client.explain(instance_id)
    Output(json).show(found, lambda: _render().explain_view(found))


def results(instance_id: InstanceId, limit: Limit = 200, json: AsJson = False) -> None:
    """Show what the work of an instance has come to: the newest task of each place in its definition."""
    with connect() as client:
        found = list(client.results(instance_id, limit=limit + 1))
    Output(json).show_first(limit, found, lambda shown: _render().results_table(shown))


def note(
    instance_id: InstanceId,
    text: Annotated[str, typer.Argument(metavar="TEXT", show_default=False)],
    json: AsJson = False,
) -> None:
    """Append a note to an instance's history."""
    from rich.text import Text

    with connect() as client:
        answer = client.note(instance_id, text)
    Output(json).show(answer, lambda: Text("noted"))


def _untaken(client: Client, instance_id: str, type: str, *, since: int) -> dict[str, Any] | None:
    """What the history says of an event that has changed nothing: {event, entry, reason, taken, guarded}. None for any other.

    `guarded` are those that a state would take, if only a condition held that does not, whatever the event says.
    """
    told = [
        one for one in client.history(instance_id, since=since) if one["payload"].get("eventType") == type
    ]
    if not told or any(one["type"] == "event.received" for one in told):
        return None  # it waits, or was taken; or another one like it was, and nobody can tell which is ours
    chart = client.explain(instance_id)["chart"] or {}
    events = chart.get("events", ())
    last = told[-1]
    return {
        "event": type,
        "entry": last["type"],
        "reason": last["payload"].get("reason"),
        "taken": [event["type"] for event in events if event["accepted"] is not False],
        "guarded": [event["type"] for event in events if event["accepted"] is False],
    }


def _watch(out: Output, client: Client, instance_id: str, timeout: float | None) -> Instance:
    """Print a timeline as it grows. Raises `TimedOut` when `timeout` seconds have passed before the end."""
    from signalbox.cli.follow import ENDED

    deadline = None if timeout is None else time.monotonic() + timeout
    if out.as_json:
        _watch_as_json(out, client, instance_id, deadline)
    else:
        _watch_on_screen(client, instance_id, deadline)
    instance = client.instance(instance_id)
    if instance["status"] not in ENDED:
        raise TimedOut(
            f"instance {instance_id} is {instance['status']} after {timeout:g} s", status=instance["status"]
        )
    return instance


def _watch_on_screen(client: Client, instance_id: str, deadline: float | None) -> None:
    from signalbox.cli.output import console
    from signalbox.cli.timeline import print_timeline

    screen = console(sys.stdout)
    print_timeline(screen, client, instance_id, deadline=deadline)
    screen.print(_render().settled_line(client.instance(instance_id)))


def _watch_as_json(out: Output, client: Client, instance_id: str, deadline: float | None) -> None:
    from signalbox.cli.follow import follow

    for entry in follow(client, instance_id, deadline=deadline):
        out.write_json_line(entry)


def _show_line(out: Output, instance: Instance) -> None:
    out.show(instance, lambda: _render().settled_line(instance))


def _exit_by_status(instance: Instance, *, is_awaited: bool) -> None:
    from signalbox.cli.follow import ENDED, has_succeeded

    if is_awaited and instance["status"] in ENDED and not has_succeeded(instance):
        raise typer.Exit(Exit.FAILED)


def _render() -> Any:
    from signalbox.cli import render

    return render
