"""What `up`, `demo` and `bench` tell while they work: parts as they get ready, notices as they come."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from signalbox.stack import PartFailed, Ready
from signalbox.supervisor import Notice


def ready_line(ready: Ready) -> Text:
    """A part that works now, and how long after the start."""
    return Text.assemble(
        ("  ✓ ", "green"), f"{ready.name:<13}", (f"{ready.seconds:5.2f} s  ", "dim"), (ready.detail, "dim")
    )


def notice_line(notice: Notice) -> Text:
    """One line about a part: its name as the prefix, so that lines of several parts can be told apart."""
    style = "yellow" if notice.severity == "warning" else ""
    return Text.assemble((f"{notice.part:>13} │ ", "bold"), (notice.text, style))


def tell_failure(console: Console, error: PartFailed) -> None:
    """Say which part did not start and how its log ends."""
    console.print(Text.assemble(("error", "bold red"), f": {error.message}"))
    for line in error.log_end:
        console.print(Text(f"    {line}", "dim"))
