"""Configuration values: what is set for a tenant, for one of its modules, or for one instance of it.

A row is found by (module, key, scope, scope id); which of several holds is decided where they are read
(`common/commands/configs.py`). Values are canonical text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Text, cast, delete, func, or_, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from common.db.tables import ConfigScope, configs, instances
from common.db.types import among
from common.ids import TenantId
from common.store.listing import Page, _bytes, _choose

_c = configs.c
_COLUMNS = (
    _c.id, _c.scope, _c.scope_id, _c.module, _c.key, _c.value, _c.description, _c.updated_at, _c.updated_by,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ConfigRecord:
    """One value as people see it. `scope_id` is empty unless the scope is an instance."""

    id: str
    scope: ConfigScope
    scope_id: str
    module: str
    key: str
    value: str
    description: str
    updated_at: datetime
    updated_by: str


@dataclass(frozen=True, slots=True)
class ConfigFilter:
    """Which values a list shows; what is None does not restrict it."""

    module: str | None = None
    key: str | None = None
    scope: ConfigScope | None = None
    scope_id: str | None = None


def upsert(
    tx: Connection, tenant_id: TenantId, row: Mapping[str, Any], *, description: str | None
) -> tuple[ConfigRecord, bool]:
    """Set a value: the row of this scope, made now or changed; and whether it was made.

    `row` has every column but the tenant and the description, which stays as it is where None is given.
    """
    dialect = postgresql if tx.dialect.name == "postgresql" else sqlite
    changed = {name: row[name] for name in ("value", "updated_at", "updated_by")}
    if description is not None:
        changed["description"] = description
    done = tx.execute(
        dialect.insert(configs)
        .values(tenant_id=tenant_id, description=description or "", **row)
        .on_conflict_do_update(
            index_elements=[_c.tenant_id, _c.module, _c.key, _c.scope, _c.scope_id], set_=changed
        )
        .returning(*_COLUMNS)
    ).one()
    return _record(done), done.id == row["id"]


def change(
    tx: Connection, tenant_id: TenantId, config_id: str, changed: Mapping[str, Any]
) -> ConfigRecord | None:
    """Change columns of a row; None when this tenant has no such row."""
    statement = update(configs).where(_c.tenant_id == tenant_id, _c.id == config_id).values(**changed)
    return _found(tx.execute(statement.returning(*_COLUMNS)).one_or_none())


def remove(tx: Connection, tenant_id: TenantId, config_id: str) -> ConfigRecord | None:
    """Delete a row and return what it was; None when this tenant has no such row."""
    statement = delete(configs).where(_c.tenant_id == tenant_id, _c.id == config_id)
    return _found(tx.execute(statement.returning(*_COLUMNS)).one_or_none())


# A scope id is any text, so another tenant may have written one that reads like the id of an instance here: its own business key.
DELETE_OF_INSTANCES = delete(configs).where(
    _c.scope == ConfigScope.INSTANCE.value,
    tuple_(_c.tenant_id, _c.scope_id).in_(
        select(instances.c.tenant_id, cast(instances.c.id, Text)).where(among(instances.c.id, "ids"))
    ),
)
"""Delete what the tenants of the instances `ids` have set for them by their ids, while their rows are there."""


def find(tx: Connection, tenant_id: TenantId, config_id: str) -> ConfigRecord | None:
    """One row, or None when this tenant has no such row."""
    query = select(*_COLUMNS).where(_c.tenant_id == tenant_id, _c.id == config_id)
    return _found(tx.execute(query).one_or_none())


def list_configs(
    tx: Connection, tenant_id: TenantId, wanted: ConfigFilter, *, before: str | None, limit: int
) -> Page[ConfigRecord]:
    """Rows that match, newest first, older than the id `before`."""
    conditions = [_c.tenant_id == tenant_id]
    named = (
        (_c.module, wanted.module),
        (_c.key, wanted.key),
        (_c.scope, wanted.scope.value if wanted.scope is not None else None),
        (_c.scope_id, wanted.scope_id),
    )
    conditions += [column == value for column, value in named if value is not None]
    if before is not None:
        conditions.append(_c.id < before)
    sizes = select(_c.id, _bytes(tx, _c.value)).where(*conditions).order_by(_c.id.desc())
    ids, has_more = _choose(tx, sizes, limit)
    query = select(*_COLUMNS).where(_c.tenant_id == tenant_id, among(_c.id, "ids")).order_by(_c.id.desc())
    return Page([_record(row) for row in tx.execute(query, {"ids": ids})], has_more)


def measure(
    tx: Connection, tenant_id: TenantId, *, module: str, scope: ConfigScope, scope_id: str
) -> tuple[int, int]:
    """How many keys a module has in one scope, and how many bytes their values have in all."""
    query = select(func.count(), func.coalesce(func.sum(_bytes(tx, _c.value)), 0)).where(
        _c.tenant_id == tenant_id, _c.module == module, _c.scope == scope.value, _c.scope_id == scope_id
    )
    count, size = tx.execute(query).one()
    return int(count), int(size)


@dataclass(frozen=True, slots=True)
class Configured:
    """A value that holds somewhere, for who decides where."""

    tenant_id: TenantId
    scope: ConfigScope
    scope_id: str
    module: str
    key: str
    value: str


_NAMED = select(_c.tenant_id, _c.scope, _c.scope_id, _c.module, _c.key, _c.value).where(
    among(_c.tenant_id, "tenants"),
    among(_c.module, "modules", "text"),
    or_(among(_c.key, "keys", "text"), among(_c.module, "whole", "text")),
    among(_c.scope_id, "scope_ids", "text"),
)


def read_named(
    tx: Connection,
    tenants: Iterable[str],
    *,
    modules: Iterable[str],
    keys: Iterable[str],
    whole: Iterable[str],
    scope_ids: Iterable[str],
) -> list[Configured]:
    """Values of `modules`, at these `keys` or of a module that is read `whole`, in every scope that is asked for.

    One statement for a whole batch, so it may find more than each of those wants who ask together: they choose. The empty
    scope id is that of tenant and module.
    """
    names: dict[str, Sequence[str]] = {
        "tenants": sorted(set(tenants)),
        "modules": sorted(set(modules)),
        "keys": sorted(set(keys)),
        "whole": sorted(set(whole)),
        "scope_ids": sorted(set(scope_ids)),
    }
    return [Configured(row[0], ConfigScope(row[1]), *row[2:]) for row in tx.execute(_NAMED, names)]


def _record(row: Any) -> ConfigRecord:
    values = list(row)
    values[1] = ConfigScope(values[1])
    return ConfigRecord(*values)


def _found(row: Any) -> ConfigRecord | None:
    return None if row is None else _record(row)
