"""Row-level security of PostgreSQL: the second wall between tenants, behind the `WHERE` of every store function.

The API answers callers in sessions of the role `ROLE`, which are told one tenant at a time (`common.db.tenants`). What binds that role is a
restrictive policy on each table with a tenant: no statement finds or writes a row of another one, and none at all before a
tenant is told. Everybody else passes: owners by the rules of PostgreSQL, other logins by the permissive policy `everybody` that the
migrations give each such table. So this holds up code that has forgotten a `WHERE`, and nobody who writes SQL of his own
(docs/decisions/row-level-security.md).

Roles belong to the whole server and a login may often not make any. Therefore they are no migration: `secure` makes what is
missing with each upgrade, as far as the login may, and `why_unrestricted` tells whether that was enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from common.db.engine import sqlstate
from common.db.tables import api_keys, handlers, history, metadata, tenants, tombstones, workers

ROLE = "signalbox_api"
TENANT = "signalbox.tenant"
"""The setting of a session that names its tenant."""
POLICY = "of_tenant"
SECURED_SINCE = "0007"
"""The version of the schema from which on tables may have policies."""

_ALL = ("SELECT", "INSERT", "UPDATE", "DELETE")
_READ = ("SELECT",)
_NARROW: Mapping[str, Sequence[str]] = {
    api_keys.name: (),  # looked up before there is a tenant, by the login itself
    tenants.name: _READ,
    history.name: _READ,  # written by steps alone
    tombstones.name: _READ,
    handlers.name: _READ,
    workers.name: _READ,
}
RIGHTS: Mapping[str, Sequence[str]] = {name: _NARROW.get(name, _ALL) for name in sorted(metadata.tables)}
"""What the role may do with each table."""
WALLED: Mapping[str, str] = {
    name: "id" if name == tenants.name else "tenant_id"
    for name, table in sorted(metadata.tables.items())
    if name == tenants.name or "tenant_id" in table.c
}
"""Each table whose rows belong to a tenant, and the column that says to which."""

_INSUFFICIENT_PRIVILEGE = "42501"
_MADE_MEANWHILE = {"42710", "23505", "XX000"}
"""Somebody else was faster, in another database of the server: the role, the row of a membership, a row that was just changed."""
_TRIES = 3
_SHOWN = 3
"""So many of what is missing are named: who has restored without rights misses a hundred, and one command makes them all."""
_SINCE_MEMBERSHIPS_SAY_SET = 160_000

_TABLES = text(
    "SELECT c.relname AS name, c.relrowsecurity AS is_secured, EXISTS (SELECT FROM pg_policy AS p JOIN pg_roles AS r"
    " ON r.oid = ANY (p.polroles) WHERE p.polrelid = c.oid AND NOT p.polpermissive AND p.polcmd = '*'"
    " AND p.polname = :policy AND r.rolname = :role) AS has_policy,"
    " ARRAY(SELECT verb FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS verb"
    " WHERE has_table_privilege(CAST(:role AS name), c.oid, verb)) AS verbs"
    " FROM pg_class AS c WHERE c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('instances'))"
    " AND c.relkind IN ('r', 'p') ORDER BY c.relname"
)
_ROLE = text(
    "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = :role"  # None: there is none
)
_SCHEMA = text(
    "SELECT quote_ident(nspname), has_schema_privilege(CAST(:role AS name), n.oid, 'USAGE') FROM pg_namespace AS n JOIN pg_class AS c"
    " ON c.relnamespace = n.oid WHERE c.oid = to_regclass('instances')"
)

_UNBOUND = text(
    "SELECT name FROM unnest(CAST(:names AS text[])) AS name WHERE row_security_active(to_regclass(name)) IS NOT TRUE"
)


def secure(tx: Connection) -> None:
    """Make the role, let this login take it, and give it its policies and rights: what is missing, as far as the login may.

    Asks for nothing that is there, so that an upgrade of what is new already locks nothing. The caller commits.
    """
    if tx.execute(_ROLE, {"role": ROLE}).one_or_none() is None:
        _attempt(tx, f"CREATE ROLE {ROLE} NOLOGIN")
        if tx.execute(_ROLE, {"role": ROLE}).one_or_none() is None:
            return
    for _ in range(_TRIES):
        if _may_be_taken(tx) or not _attempt(tx, f"GRANT {ROLE} TO SESSION_USER{_as_set_alone(tx)}"):
            break
    for schema, is_open in tx.execute(_SCHEMA, {"role": ROLE}).all():
        if not is_open:
            _attempt(tx, f"GRANT USAGE ON SCHEMA {schema} TO {ROLE}")
    for name, _, has_policy, verbs in _tables(tx):
        column = WALLED.get(name)
        # The policy before the rights: what is open is walled, wherever this ends.
        if column is not None and not has_policy:
            _attempt(
                tx,
                f"CREATE POLICY {POLICY} ON {name} AS RESTRICTIVE TO {ROLE}"
                f" USING ({column} = nullif(current_setting('{TENANT}', true), '')::uuid)",
            )
        missing = [verb for verb in RIGHTS.get(name, ()) if verb not in verbs]
        if missing:
            _attempt(tx, f"GRANT {', '.join(missing)} ON {name} TO {ROLE}")


def why_unrestricted(tx: Connection) -> str | None:
    """Why this login cannot serve callers in sessions of the role, and what to do; None where it can, and on SQLite, which has no such wall."""
    if tx.dialect.name != "postgresql":
        return None
    login = tx.execute(text("SELECT quote_ident(session_user)")).scalar_one()
    cure = (
        f"as an administrator run `CREATE ROLE {ROLE} NOLOGIN; GRANT {ROLE} TO {login}{_as_set_alone(tx)};`"
        " (the first only where there is no such role), then `signalbox db upgrade` as the owner of the tables, and restart the API"
    )
    role = tx.execute(_ROLE, {"role": ROLE}).one_or_none()
    if role is None:
        return f'there is no role "{ROLE}": {cure}'
    if role[0]:
        return (
            f'the role "{ROLE}" passes every policy: as an administrator run'
            f" `ALTER ROLE {ROLE} NOSUPERUSER NOBYPASSRLS;`, and restart the API"
        )
    if not _may_be_taken(tx):
        return f'{login} may not take the role "{ROLE}": {cure}'
    lacking = lacks(tx)
    if lacking:
        first = ", ".join(lacking[:_SHOWN]) + (
            f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
        )
        return (
            f'the role "{ROLE}" lacks policies or rights ({first}), as in a database that was restored without them:'
            " run `signalbox db upgrade` as the owner of the tables, and restart the API"
        )
    return None


def lacks(tx: Connection) -> list[str]:
    """What the role, which exists, has not got of its policies and rights, as `verb table`."""
    found = {row[0]: row for row in _tables(tx)}
    lacking = []
    for name, rights in RIGHTS.items():
        if name not in found:
            continue
        _, is_secured, has_policy, verbs = found[name]
        if name in WALLED and not (is_secured and has_policy):
            lacking.append(f"policy of {name}")
        lacking += [f"{verb} on {name}" for verb in rights if verb not in verbs]
    lacking += [
        f"USAGE on {schema}" for schema, is_open in tx.execute(_SCHEMA, {"role": ROLE}).all() if not is_open
    ]
    return lacking


def unbound(tx: Connection) -> list[str]:
    """Tables whose policies do not bind the session that asks, or that it does not find: for one of the role there are none."""
    return list(tx.execute(_UNBOUND, {"names": list(WALLED)}).scalars())


def _tables(tx: Connection) -> Sequence[tuple[str, bool, bool, Sequence[str]]]:
    return [tuple(row) for row in tx.execute(_TABLES, {"role": ROLE, "policy": POLICY}).all()]


def _may_be_taken(tx: Connection) -> bool:
    word = "SET" if _memberships_say_set(tx) else "MEMBER"
    asked = text("SELECT pg_has_role(session_user, CAST(:role AS name), :word)")
    return bool(tx.execute(asked, {"role": ROLE, "word": word}).scalar_one())


def _as_set_alone(tx: Connection) -> str:
    """A login that inherited from the role would be bound by its policies itself, unless it owns the tables."""
    return " WITH INHERIT FALSE, SET TRUE" if _memberships_say_set(tx) else ""


def _memberships_say_set(tx: Connection) -> bool:
    version = tx.exec_driver_sql("SHOW server_version_num").scalar_one()
    return int(version) >= _SINCE_MEMBERSHIPS_SAY_SET


def _attempt(tx: Connection, statement: str) -> bool:
    """Execute a statement, and undo it where the login may not; whether it may. What somebody else made meanwhile is there, too."""
    try:
        with tx.begin_nested():
            tx.exec_driver_sql(statement)
    except DBAPIError as error:
        if sqlstate(error) not in {_INSUFFICIENT_PRIVILEGE, *_MADE_MEANWHILE}:
            raise
        return sqlstate(error) != _INSUFFICIENT_PRIVILEGE
    return True
