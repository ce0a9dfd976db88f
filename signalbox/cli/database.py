# ruff: noqa: PLC0415 - what is heavy is loaded by the command that needs it: `signalbox --help` answers at once
"""Commands that open the database themselves: its schema, API keys, and the search for what must never be."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.errors import Misconfigured, NotFound
from signalbox.cli.exits import Exit, Failed, UsageError
from signalbox.cli.options import LOOK, RUN, AsJson, Tenant
from signalbox.cli.output import Output
from signalbox.cli.target import find_tenant, local_settings, open_database

if TYPE_CHECKING:
    from rich.console import RenderableType

    from common.db.tables import Role
    from common.sealing import SealingKeys

READ_ONLY = (
    "the database takes no writes: it is a standby, or default_transaction_read_only is on; "
    "mend that, or name the primary in DATABASE_URL"
)
FULL = "the database has no room left on its disk, so nothing can be written: make some there"
ONE_WALL = "PostgreSQL does not keep the API's callers to their tenants; only its code does"
SHOWN = 20
"""Findings that a person is shown: one cause may have damaged thousands of instances."""
ROLES = ("viewer", "operator", "author", "worker", "admin")

db = typer.Typer(no_args_is_help=True, help="The database's schema.")
keys = typer.Typer(no_args_is_help=True, help="Create, list and revoke API keys, in the database itself.")


def register(app: typer.Typer) -> None:
    app.add_typer(db, name="db", rich_help_panel=RUN)
    app.add_typer(keys, name="keys", rich_help_panel=RUN)
    app.command(rich_help_panel=LOOK)(doctor)


@db.command()
def upgrade(json: AsJson = False) -> None:
    """Bring the schema up to what this version of Signalbox needs."""
    from rich.text import Text

    from common.config import redact_url
    from common.db.migrate import upgrade as upgrade_schema
    from common.db.schema import head_version
    from signalbox.access import opened_database

    url = local_settings().database_url
    with opened_database(url, name="signalbox-cli") as database:
        before, after = upgrade_schema(database)
    if before != after:
        said = f"schema upgraded from {before or 'nothing'} to {after}"
    elif after != head_version():
        said = f"schema is at {after}, of a newer version of Signalbox than this one, which runs on it; nothing to do"
    else:
        said = f"schema is at {after}"
    Output(json).show(
        {"database": redact_url(url), "before": before, "after": after},
        lambda: Text(f"{redact_url(url)}: {said}"),
    )


@db.command()
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file.", show_default=False)],
    json: AsJson = False,
) -> None:
    """Copy a SQLite database into a new file, while everything runs. PostgreSQL has tools of its own.

    The secret of its folder is not in it: keep a copy of that too, in another place.
    """
    from rich.text import Text

    with open_database() as database:
        database.backup(file)
    size = file.stat().st_size
    Output(json).show({"file": str(file), "bytes": size}, lambda: Text(f"{file}: {size:,} bytes"))


@db.command()
def vacuum(json: AsJson = False) -> None:
    """Rewrite the database's files, so that no bytes of what was erased or deleted are left in them.

    With SQLite others wait meanwhile; with PostgreSQL each table is locked while it is rewritten (VACUUM FULL).
    """
    from rich.text import Text

    from common.store.erasure import TABLES_WITH_BODIES

    with open_database() as database:
        is_done = database.vacuum(TABLES_WITH_BODIES)
    if not is_done:
        raise Failed(
            "the file is rewritten, but somebody reads from its write-ahead log all the time; try again"
        )
    Output(json).show(
        {"vacuumed": True}, lambda: Text("rewritten; nothing that was deleted is left in the files")
    )


@keys.command()
def create(
    name: Annotated[
        str, typer.Option("--name", help="Stands in the history as the actor.", show_default=False)
    ],
    role: Annotated[
        str, typer.Option("--role", help="viewer, operator, author, worker or admin.")
    ] = "operator",
    tenant: Tenant = "default",
    expires_in_days: Annotated[
        float | None,
        typer.Option("--expires-in-days", min=0, show_default="never", help="When it ends by itself."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Create an API key and show it, for the only time. The tenant is made if there is none of this name."""
    from common.credentials import read_secret
    from common.store import keys as store

    settings = local_settings()
    secret = read_secret(settings.secret.get_secret_value() if settings.secret else None)
    expires_at = None if expires_in_days is None else datetime.now(UTC) + timedelta(days=expires_in_days)
    with open_database() as database, database.transaction() as tx:
        tenant_id = store.ensure_tenant(tx, tenant)
        issued = store.issue_key(
            tx, tenant_id, name=name, role=_role(role), secret=secret, expires_at=expires_at
        )
    body = {
        "id": issued.id,
        "name": issued.name,
        "role": issued.role.value,
        "prefix": issued.prefix,
        "key": issued.key,
    }
    Output(json).show(body, lambda: _issued(body))


@keys.command("list")
def list_keys(tenant: Tenant = "default", json: AsJson = False) -> None:
    """List the keys of a tenant, the revoked ones too."""
    from common.store import keys as store

    with open_database() as database:
        tenant_id = find_tenant(database, tenant)
        with database.reading() as tx:
            found = [_record(key) for key in store.list_keys(tx, tenant_id)]
    Output(json).show({"items": found, "nextCursor": None}, lambda: _keys_table(found))


@keys.command()
def revoke(
    key_id: Annotated[
        str, typer.Argument(metavar="ID", help="The key's id, from `keys list`.", show_default=False)
    ],
    tenant: Tenant = "default",
    json: AsJson = False,
) -> None:
    """Revoke a key: it is refused from now on."""
    from rich.text import Text

    from common.ids import is_id
    from common.store import keys as store

    with open_database() as database:
        tenant_id = find_tenant(database, tenant)
        with database.transaction() as tx:
            is_revoked = is_id(key_id) and store.revoke_key(tx, tenant_id, key_id)
    if not is_revoked:
        raise NotFound(
            f'tenant "{tenant}" has no usable key "{key_id}"; see `signalbox keys list`', code="key.not_found"
        )
    Output(json).show({"id": key_id, "revoked": True}, lambda: Text(f"key {key_id} is revoked"))


def _role(text: str) -> Role:
    from common.db.tables import Role

    if text not in ROLES:
        raise UsageError(f'--role: expected one of {", ".join(ROLES)}, found "{text}"')
    return Role(text)


def _issued(body: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    return Group(
        Text(body["key"], "bold"),
        Text(f'key "{body["name"]}" with role {body["role"]}; it is shown only now', "dim"),
    )


def _record(key: Any) -> dict[str, Any]:
    from common.clock import instant_text

    def told(instant: datetime | None) -> str | None:
        return None if instant is None else instant_text(instant)

    return {
        "id": key.id,
        "name": key.name,
        "role": key.role.value,
        "prefix": key.prefix,
        "createdAt": told(key.created_at),
        "expiresAt": told(key.expires_at),
        "revokedAt": told(key.revoked_at),
    }


def _keys_table(found: list[dict[str, Any]]) -> RenderableType:
    from signalbox.cli.render import instant, list_or, plain_table

    table = plain_table("id", "name", "role", "prefix", "created", "expires", "revoked")
    for key in found:
        table.add_row(
            key["id"],
            key["name"],
            key["role"],
            f"sb_{key['prefix']}_…",
            *(instant(key[name]) for name in ("createdAt", "expiresAt", "revokedAt")),
        )
    return list_or("no keys yet; create one with `signalbox keys create --name NAME`", table)


def doctor(
    replay: Annotated[
        bool, typer.Option("--replay/--no-replay", help="Replay every history: thorough, a step per event.")
    ] = True,
    json: AsJson = False,
) -> None:
    """Look for what must never be: broken chains, obligations without rows, instances that nothing will wake.

    Exit 1 when something is found. Works while everything runs, and on a database that nobody uses.
    """
    from common.commands.doctor import examine

    out = Output(json)
    keys = _sealing_keys(out)
    with open_database() as database:
        report = examine(database, replay=replay, keys=keys)
    out.show(report, lambda: _diagnosis(report))
    if not report["healthy"]:
        raise typer.Exit(Exit.FAILED)


def _sealing_keys(out: Output) -> SealingKeys | None:
    """The keys of the installation's secrets. None without them, or where they are malformed: all else can be examined all the same."""
    from rich.text import Text

    from common.sealing import SealingKeys

    secret, older = local_settings().installation_secrets()
    if secret is None:
        return None
    try:
        return SealingKeys.read(secret, older)
    except Misconfigured as error:
        out.note(Text(f"which secrets can be opened was not examined: {error}", "yellow"))
        return None


def _diagnosis(report: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from signalbox.cli.render import count, facts, section, unopened

    problems, delays = report["problems"], report["delays"]
    unattended = [f"  ! {reason}" for reason in _reasons(delays)]
    examined = f"{count(report['instances'], 'instance')} examined"
    if problems:
        head = Text.assemble(("✗ ", "red"), (count(len(problems), "problem"), "bold red"), f", {examined}")
    elif unattended:
        head = Text.assemble(("! ", "yellow"), ("healthy, but nobody works", "yellow"), f", {examined}")
    else:
        head = Text.assemble(("✓ ", "green"), ("healthy", "green"), f", {examined}")
    lines = [Text(f"  ✗ {_finding(problem)}", "red") for problem in problems[:SHOWN]]
    if len(problems) > SHOWN:
        kinds = Counter(problem["code"] for problem in problems)
        told = ", ".join(f"{number} {code}" for code, number in kinds.most_common())
        lines.append(Text(f"  these are the first {SHOWN} of {told}; --json has them all", "red"))
    lines += [Text(line, "yellow") for line in unattended]
    lines += [Text(f"  ! {_holder(one)}", "yellow") for one in delays["holders"]]
    if delays["unrestricted"] is not None:
        lines.append(Text(f"  ! {ONE_WALL}: {delays['unrestricted']}", "yellow"))
    if delays["unopened"]:
        told = unopened(sum(delays["unopened"].values()))
        lines.append(Text(f"  ! {told} (the key's id: {', '.join(delays['unopened'])})", "yellow"))
    waiting = facts(
        [
            ("expired leases", _if_any(delays["expiredLeases"])),
            ("overdue timers", _if_any(delays["overdueTimers"])),
            ("overdue tasks", _if_any(delays["overdueTasks"])),
            ("events in inboxes", _if_any(delays["inboxWaiting"])),
            ("oldest of them", f"{delays['inboxOldestSeconds']:.1f} s" if delays["inboxWaiting"] else None),
        ]
    )
    return Group(
        head,
        *lines,
        *([section("waiting (an ordinary backlog, or nobody works)", waiting)] if waiting.row_count else []),
    )


def _reasons(delays: dict[str, Any]) -> list[str]:
    """Why nothing goes on. Where nothing can be written no worker can say that it is alive: no one else is missed then."""
    from common.commands.unattended import ORCHESTRATOR, TASK_RUNNER, Unattended

    if delays["readOnly"]:
        return [READ_ONLY]
    if delays["full"]:
        return [FULL]
    nobody_steps = [] if delays["orchestrators"] else [Unattended(ORCHESTRATOR)]
    nobody_runs = [Unattended(TASK_RUNNER, type_) for type_ in delays["unclaimableTypes"]]
    return [one.reason for one in nobody_steps + nobody_runs]


def _holder(one: dict[str, Any]) -> str:
    who = ", ".join(part for part in (one["application"], one["user"], one["state"]) if part)
    waiting = f"; {one['waiting']} wait for it" if one["waiting"] else ""
    return (
        f"session {one['pid']} of PostgreSQL ({who}) has held locks for {one['seconds']:.0f} s, and what it has locked stands still{waiting}: "
        f"end its transaction there, or `SELECT pg_terminate_backend({one['pid']})`"
    )


def _finding(problem: dict[str, Any]) -> str:
    where = " ".join(
        str(problem[name]) for name in ("instanceId", "sequence") if problem.get(name) is not None
    )
    return f"{problem['code']}: {f'{where}: ' if where else ''}{problem['message']}"


def _if_any(count: int) -> str | None:
    return str(count) if count else None
