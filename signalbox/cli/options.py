"""Options that several commands share, declared once so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Answer with JSON on stdout, for scripts.")]
InstanceId = Annotated[str, typer.Argument(metavar="ID", help="The instance's id.", show_default=False)]
Tenant = Annotated[str, typer.Option("--tenant", help="Name of the tenant.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="Show at most this many.")]
Statuses = Annotated[
    list[str] | None,
    typer.Option("--status", "-s", help="Only these statuses; may be repeated.", show_default=False),
]
Labels = Annotated[
    list[str] | None,
    typer.Option("--label", "-l", metavar="NAME=VALUE", help="May be repeated.", show_default=False),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        envvar="SIGNALBOX_DATA",
        help="Folder for database, key, logs and mail.",
        show_default=".signalbox",
        file_okay=False,
    ),
]
Orchestrators = Annotated[
    int | None,
    typer.Option(
        "--orchestrators",
        metavar="N",
        min=1,
        max=64,
        help="How many processes that step, all but the first in reserve.",
        show_default="2 on PostgreSQL, 1 on SQLite or on one core",
    ),
]
TaskRunners = Annotated[
    int, typer.Option("--task-runners", metavar="N", min=1, max=64, help="How many that call handlers.")
]

RUN = "Run"
DEFINE = "Definitions"
WORK = "Instances"
LOOK = "What happens"
"""Headings of `signalbox --help`."""
