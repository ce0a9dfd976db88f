"""Instances as rows that can be carried away: every table that belongs to an instance, read and written by its columns.

Left out is what belongs to the database and not to the instance: the tenant (each row of a file is of the file's), the
writing transaction, the numbers of inbox rows, and leases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import Boolean, Column, Connection, Integer, LargeBinary, Table, insert, select
from sqlalchemy.types import TypeDecorator

from common.clock import UtcDateTime, instant_text, parse_instant
from common.db.now import read_now
from common.db.rows import insert_rows
from common.db.tables import (
    attempts,
    definitions,
    history,
    inbox,
    incidents,
    instance_metadata,
    instances,
    joins,
    suggestions,
    tasks,
    tenants,
    timers,
    used_links,
)
from common.db.types import CanonicalText, Digest, JsonList, Labels
from common.errors import Invalid
from common.ids import TenantId
from common.store.retention import find_tombstone

TABLES: Sequence[Table] = (
    instances, history, tasks, attempts, timers, joins, incidents, suggestions, used_links, instance_metadata, inbox,
)  # fmt: skip
"""In the order in which rows may be written: each points at earlier ones only."""
_LEFT_OUT = {
    ("history", "tx"),
    ("inbox", "id"),
    ("instances", "definition_id"),
    ("tasks", "lease_owner"),
    ("tasks", "lease_token"),
    ("tasks", "lease_expires_at"),
}

Row = Mapping[str, Any]


def columns_of(table: Table) -> list[Column[Any]]:
    """The columns of a table that a file has."""
    return [
        column
        for column in table.columns
        if column.name != "tenant_id" and (table.name, column.name) not in _LEFT_OUT
    ]


# -- reading --------------------------------------------------------------------------------------------------------


def read_all(tx: Connection, tenant_id: TenantId, instance_id: str) -> dict[str, list[Row]] | None:
    """Every row of an instance as JSON values, by table; None when this tenant has no such instance."""
    found: dict[str, list[Row]] = {}
    for table in TABLES:
        columns = columns_of(table)
        query = select(*columns).where(table.c.tenant_id == tenant_id, _belongs(table, instance_id))
        query = query.order_by(*(table.primary_key.columns))
        found[f"{table.name}"] = [_encoded(columns, row) for row in tx.execute(query)]
    return found if found["instances"] else None


def _belongs(table: Table, instance_id: str) -> Any:
    if table is instances:
        return table.c.id == instance_id
    if table is attempts:
        return table.c.task_id.in_(select(tasks.c.id).where(tasks.c.instance_id == instance_id))
    return table.c.instance_id == instance_id


def has_leases(tx: Connection, instance_id: str) -> bool:
    """Does a runner hold a task of it at this moment?"""
    held = select(tasks.c.id).where(tasks.c.instance_id == instance_id, tasks.c.lease_token.is_not(None))
    return tx.execute(held.limit(1)).first() is not None


def _encoded(columns: Sequence[Column[Any]], row: Any) -> Row:
    # A name that SQL quotes is no plain str, and orjson takes no other as a member.
    return {f"{column.name}": _out(value) for column, value in zip(columns, row, strict=True)}


def _out(value: Any) -> Any:
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    return instant_text(value) if hasattr(value, "tzinfo") else value


# -- writing --------------------------------------------------------------------------------------------------------


def write_all(
    tx: Connection, tenant_id: TenantId, definition_id: str, rows: Mapping[str, Sequence[Row]]
) -> None:
    """Insert what `read_all` gave, decoded by `decode`, as rows of this tenant."""
    for table in TABLES:
        own = {"tenant_id": tenant_id, **({"definition_id": definition_id} if table is instances else {})}
        insert_rows(tx, table, [{**row, **own} for row in rows[table.name]])


def decode(table: Table, row: Any, at: str) -> dict[str, Any]:
    """A row of a file with each value of its column's type. Raises `Invalid` (`import.row`) naming the place."""
    columns = columns_of(table)
    if not isinstance(row, dict) or row.keys() != {column.name for column in columns}:
        expected = ", ".join(column.name for column in columns)
        raise Invalid(f"{at}: expected an object of exactly {expected}", code="import.row")
    return {f"{column.name}": _in(column, row[column.name], f"{at}.{column.name}") for column in columns}


def _in(column: Column[Any], value: Any, at: str) -> Any:
    if value is None:
        return None
    try:
        return _READERS.get(type(column.type), _plain)(column, value)
    except (ValueError, TypeError) as error:
        raise Invalid(
            f"{at}: expected a value of the column, found {str(value)[:80]!r}", code="import.row"
        ) from error


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise TypeError
    return value


def _plain(column: Column[Any], value: Any) -> Any:
    kind = column.type.impl if isinstance(column.type, TypeDecorator) else column.type
    if isinstance(kind, Boolean):
        wanted: type = bool
    elif isinstance(kind, Integer):
        wanted = int
    else:
        return _text(value)
    if type(value) is not wanted:
        raise TypeError
    return value


def _json_text(_column: Column[Any], value: Any) -> str:
    orjson.loads(_text(value))  # it goes into answers as it is
    return str(value)


def _pairs(_column: Column[Any], value: Any) -> dict[str, str]:
    return {_text(name): _text(one) for name, one in dict(value).items()}


_READERS: Mapping[type, Any] = {
    UtcDateTime: lambda _column, value: parse_instant(_text(value)),
    Digest: lambda _column, value: bytes.fromhex(_text(value)),
    LargeBinary: lambda _column, value: bytes.fromhex(_text(value)),
    CanonicalText: _json_text,
    Labels: _pairs,
    JsonList: lambda _column, value: [_text(one) for one in list(value)],
}


# -- what is there already --------------------------------------------------------------------------------------------


def find_head(tx: Connection, tenant_id: TenantId, instance_id: str) -> tuple[int, bytes] | None:
    """Sequence and last hash of an instance that is there already."""
    row = tx.execute(
        select(instances.c.sequence, instances.c.head_hash).where(
            instances.c.tenant_id == tenant_id, instances.c.id == instance_id
        )
    ).one_or_none()
    return None if row is None else (row[0], bytes(row[1]))


def was_deleted(tx: Connection, tenant_id: TenantId, instance_id: str) -> bool:
    return find_tombstone(tx, tenant_id, instance_id) is not None


def find_tenant_name(tx: Connection, tenant_id: str) -> str | None:
    return tx.execute(select(tenants.c.name).where(tenants.c.id == tenant_id)).scalar_one_or_none()


def insert_tenant(tx: Connection, tenant_id: str, name: str) -> None:
    """Make a tenant with an id from elsewhere: a chain names its tenant, and verifies under no other."""
    tx.execute(insert(tenants), {"id": tenant_id, "name": name, "created_at": read_now(tx)})


def read_definition(tx: Connection, tenant_id: TenantId, key: str, version: int) -> Row | None:
    """A definition version as a file has it."""
    d = definitions.c
    columns = [
        d.document,
        d.checksum,
        d.dialect,
        d.warnings,
        d.labels,
        d.retention,
        d.created_by,
        d.created_at,
    ]
    row = tx.execute(
        select(*columns).where(d.tenant_id == tenant_id, d.key == key, d.version == version)
    ).one_or_none()
    return None if row is None else {"key": key, "version": version, **_encoded(columns, row)}
