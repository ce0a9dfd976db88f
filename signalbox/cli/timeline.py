"""A timeline that grows in the terminal: one line an entry, and at the bottom how the instance stands right now."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

from rich.console import Console
from rich.text import Text

from signalbox.cli.follow import follow
from signalbox.cli.render import configuration_text, entry_line
from signalbox.client import Client
from signalbox.shapes import Entry, Instance


def print_timeline(
    screen: Console,
    client: Client,
    instance_id: str,
    *,
    deadline: float | None = None,
    idle: Callable[[], object] = lambda: None,
    is_over: Callable[[Instance], bool] | None = None,
    told: int = 0,
) -> list[Entry]:
    """Print each entry as it arrives, until the instance has ended, `is_over` or `deadline` (monotonic); all of them.

    The first `told` entries are not printed: somebody has shown them. Times are told from the instance's creation. `idle` is called whenever nothing new was there.
    """
    began = client.instance(instance_id)["createdAt"]
    entries: list[Entry] = []
    status = screen.status(Text("waiting for its first step", "dim")) if screen.is_terminal else nullcontext()
    with status as spinner:

        def tell_status() -> None:
            idle()
            if spinner is not None:
                instance = client.instance(instance_id)
                spinner.update(
                    Text(f"{instance['status']}  {configuration_text(instance['configuration'])}", "dim")
                )

        for entry in follow(client, instance_id, deadline=deadline, idle=tell_status, is_over=is_over):
            entries.append(entry)
            if len(entries) > told:
                screen.print(entry_line(entry, began))
    return entries
