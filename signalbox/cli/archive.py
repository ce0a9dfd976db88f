# ruff: noqa: PLC0415 - what is heavy is loaded by the command that needs it: `signalbox --help` answers at once
"""Export and import of instances, in the database itself: JSON lines that keep ids, times and hashes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from signalbox.cli import arguments
from signalbox.cli.exits import Exit, UsageError
from signalbox.cli.options import RUN, AsJson, Labels, Statuses, Tenant
from signalbox.cli.output import Output
from signalbox.cli.target import find_tenant, open_database


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel=RUN)(export)
    app.command(name="import", rich_help_panel=RUN)(import_)


def export(
    instance: Annotated[
        list[str] | None,
        typer.Option("--instance", metavar="ID", help="Only these; may be repeated.", show_default=False),
    ] = None,
    definition: Annotated[
        str | None, typer.Option("--definition", "-d", metavar="KEY", help="Only of this definition.")
    ] = None,
    status: Statuses = None,
    label: Labels = None,
    tenant: Tenant = "default",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="A new file.", show_default="stdout")
    ] = None,
    json: AsJson = False,
) -> None:
    """Write instances with everything that belongs to them, one a line; without a filter, all of the tenant.

    What moves (neither finished, nor paused, nor failed) is in the file too, and no import takes it: pause it first.
    """
    from common.db.schema import head_version
    from common.ids import is_id
    from common.lifecycle import InstanceStatus
    from common.store.listing import InstanceFilter
    from signalbox.archive import Exported, export_lines

    if json and output is None:
        raise UsageError("--json tells about the export on stdout; say --output FILE with it")
    unknown = [one for one in instance or () if not is_id(one)]
    if unknown:
        raise UsageError(f'--instance: "{unknown[0]}" is no id')
    wanted = InstanceFilter(
        statuses=[InstanceStatus(one) for one in _known(status or [])],
        definition_key=definition,
        labels=list(arguments.labels(label or ()).items()),
        ids=instance or None,
    )
    done = Exported()
    with ExitStack() as stack:
        database = stack.enter_context(open_database())
        tenant_id = find_tenant(database, tenant)
        file: BinaryIO = sys.stdout.buffer if output is None else stack.enter_context(_new_file(output))
        for line in export_lines(database, tenant_id, wanted, schema=head_version(), done=done):
            file.write(line)
    told = {"definitions": done.definitions, "instances": done.instances, "live": done.live}
    if json:
        Output(json).write_json(told)
    else:
        sys.stderr.write(f"{done.instances} instances of {done.definitions} definition versions\n")
        if done.live:
            sys.stderr.write(
                f"{len(done.live)} of them were moving; no import takes them: {done.live[0]} …\n"
            )


def _known(statuses: list[str]) -> list[str]:
    from common.lifecycle import InstanceStatus

    for one in statuses:
        if one not in list(InstanceStatus):
            raise UsageError(f'--status: expected one of {", ".join(InstanceStatus)}, found "{one}"')
    return statuses


def _new_file(path: Path) -> BinaryIO:
    try:
        return path.open("xb")
    except OSError as error:
        raise UsageError(f'cannot write "{path}": {error.strerror}') from error


def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="From `signalbox export`; - for stdin.")],
    tenant: Annotated[
        str | None,
        typer.Option("--tenant", help="Name of the tenant, where it is made.", show_default="as it was"),
    ] = None,
    json: AsJson = False,
) -> None:
    """Take instances over from another database: ids, times and hashes stay, each is verified before it is committed.

    The tenant must have the id that it had; where there is none, it is made. What is here already is skipped, so an import may
    be said again. A file is read to its end first, stdin is not. Exit 4 when some were refused.
    """
    from rich.text import Text

    from common.config import Limits
    from signalbox.archive import Imported, check_lines, import_lines

    done = Imported()
    with open_database() as database:
        if file == "-":
            import_lines(database, _lines(sys.stdin.buffer), tenant=tenant, limits=Limits.load(), done=done)
        else:
            with _old_file(file) as opened:
                check_lines(_lines(opened))
                opened.seek(0)
                import_lines(database, _lines(opened), tenant=tenant, limits=Limits.load(), done=done)
    told = {
        "tenantId": done.tenant_id,
        "definitions": done.definitions,
        "imported": done.instances,
        "skipped": done.skipped,
        "refused": done.refused,
        "refusedCount": done.refusals,
    }
    said = f"{done.instances} instances imported, {done.skipped} were here already, {done.refusals} refused"
    lines = [said, *(f"{one['id']}: {one['message']} [{one['code']}]" for one in done.refused[:20])]
    Output(json).show(told, lambda: Text("\n".join(lines)))
    if done.refusals:
        raise typer.Exit(Exit.CONFLICT)


def _old_file(path: str) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise UsageError(f'cannot read "{path}": {error.strerror}') from error


def _lines(file: BinaryIO) -> Iterator[bytes]:
    from signalbox.archive import MAX_LINE

    while line := file.readline(MAX_LINE + 1):
        yield line
