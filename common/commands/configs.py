"""Configuration: setting values, and which of several holds.

A value is looked for in three scopes, the narrowest first: the instance (by its scope id), the module, the tenant; then
comes the default of a definition, and null where there is none. Values are read by everybody who may read anything, and
stand in the history of instances whose definitions name them: they are never secrets.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from common.canonical import clean, dumps, read, size
from common.commands.start import MAX_KEY
from common.config import Limits
from common.db.now import read_now
from common.db.tables import ConfigScope, DefinitionStatus
from common.errors import Invalid, LimitExceeded, NotFound
from common.ids import TenantId, is_id, new_id
from common.store import configs, definitions
from common.store.configs import ConfigRecord, Configured
from statechart.values import KEY, MODULE

Json = Any

MAX_CONFIG_BYTES = 64_000
"""Of one value."""
MAX_CONFIG_KEYS = 1_000
"""Of one module in one scope: a definition whose keys are computed reads all of them."""
MAX_MODULE_BYTES = 256_000
"""Of the values of one module in one scope."""
MAX_STEP_BYTES = 1_000_000
"""Of the values that one step reads; they stand in its history entry."""
MAX_DESCRIPTION = 2_000
_NARROWEST_FIRST = (ConfigScope.INSTANCE, ConfigScope.MODULE, ConfigScope.TENANT)


@dataclass(frozen=True, slots=True)
class NewConfig:
    """A value to set; `scope_id` says whose it is where the scope is an instance. `description` None: as it was."""

    module: str
    key: str
    value: Json
    scope: ConfigScope = ConfigScope.MODULE
    scope_id: str | None = None
    description: str | None = None


def set_config(
    tx: Connection, tenant_id: TenantId, wanted: NewConfig, *, actor: str, limits: Limits
) -> tuple[ConfigRecord, bool]:
    """Set a value in its scope; the row, and whether it is new.

    Raises `Invalid` (`config.invalid`) for names that no expression could read and for a scope id that is missing or one too
    many, and `LimitExceeded`.
    """
    check_names(wanted)
    row = {
        "id": new_id(),
        "module": wanted.module,
        "key": wanted.key,
        "scope": wanted.scope.value,
        "scope_id": wanted.scope_id or "",
        **_written(tx, wanted.value, actor, limits),
    }
    record, created = configs.upsert(tx, tenant_id, row, description=_description(wanted.description))
    _check_module(tx, tenant_id, record)
    return record, created


def change_config(
    tx: Connection,
    tenant_id: TenantId,
    config_id: str,
    value: Json,
    *,
    description: str | None,
    actor: str,
    limits: Limits,
) -> ConfigRecord:
    """Give a value that is there another one. Raises `NotFound` (`config.not_found`) and `LimitExceeded`."""
    changed = _written(tx, value, actor, limits)
    if description is not None:
        changed["description"] = _description(description)
    record = configs.change(tx, tenant_id, config_id, changed) if is_id(config_id) else None
    if record is None:
        raise NotFound(f'no configuration value "{config_id}"', code="config.not_found")
    _check_module(tx, tenant_id, record)
    return record


def check_names(wanted: NewConfig) -> None:
    """Raise `Invalid` (`config.invalid`) for a place that no value can have."""
    if not MODULE.fullmatch(wanted.module):
        raise Invalid(
            f'module: expected a letter, then letters, digits, _ and -, at most 100, found "{wanted.module[:100]}"',
            code="config.invalid",
        )
    if not KEY.fullmatch(wanted.key):
        raise Invalid(
            f'key: expected a letter, then letters, digits, _, - and dots, at most 200, found "{wanted.key[:100]}"',
            code="config.invalid",
        )
    is_of_instance = wanted.scope is ConfigScope.INSTANCE
    if is_of_instance and not 0 < len(wanted.scope_id or "") <= MAX_KEY:
        raise Invalid(
            f"scopeId: expected whose value it is, a business key or an id of 1 to {MAX_KEY} characters",
            code="config.invalid",
        )
    if not is_of_instance and wanted.scope_id:
        raise Invalid(
            f'scopeId: belongs to scope "instance", found it beside "{wanted.scope.value}"',
            code="config.invalid",
        )
    clean(wanted.scope_id)


def config_text(value: Json, *, limits: Limits) -> str:
    """A value as it is stored. Raises `Invalid` (`json.invalid`) and `LimitExceeded`."""
    text = dumps(clean(value, max_depth=limits.max_json_depth))
    if size(text) > MAX_CONFIG_BYTES:
        raise LimitExceeded(
            f"the value is {size(text)} bytes, at most {MAX_CONFIG_BYTES} are allowed",
            limit="max_config_bytes",
            allowed=MAX_CONFIG_BYTES,
        )
    return text


def _written(tx: Connection, value: Json, actor: str, limits: Limits) -> dict[str, Any]:
    return {"value": config_text(value, limits=limits), "updated_at": read_now(tx), "updated_by": actor}


def _description(text: str | None) -> str | None:
    if text is not None and len(text) > MAX_DESCRIPTION:
        raise Invalid(f"description: expected at most {MAX_DESCRIPTION} characters", code="config.invalid")
    return None if text is None else str(clean(text))


def _check_module(tx: Connection, tenant_id: TenantId, record: ConfigRecord) -> None:
    """Bound what a step has to read that names a whole module."""
    keys, total = configs.measure(
        tx, tenant_id, module=record.module, scope=record.scope, scope_id=record.scope_id
    )
    if keys > MAX_CONFIG_KEYS:
        message = f'module "{record.module}" may have {MAX_CONFIG_KEYS} keys in one scope'
        raise LimitExceeded(message, limit="max_config_keys", allowed=MAX_CONFIG_KEYS)
    if total > MAX_MODULE_BYTES:
        message = f'the values of module "{record.module}" may have {MAX_MODULE_BYTES} bytes together in one scope, found {total}'
        raise LimitExceeded(message, limit="max_config_module_bytes", allowed=MAX_MODULE_BYTES)


# -- resolving ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Resolved:
    """A value and where it comes from: "instance", "module", "tenant" or "default"."""

    value: Json
    source: str


def resolve(
    tx: Connection,
    tenant_id: TenantId,
    module: str,
    keys: Sequence[str],
    *,
    scope_id: str | None,
    definition_key: str | None,
) -> dict[str, Resolved]:
    """What holds for each key. `definition_key` names the definition whose active version's defaults are asked last.

    Raises `NotFound` (`definition.not_found`) where no version of it is active.
    """
    defaults = {} if definition_key is None else _defaults(tx, tenant_id, definition_key).get(module, {})
    found = configs.read_named(
        tx, [tenant_id], modules=[module], keys=keys, whole=(), scope_ids=_scope_ids(scope_id)
    )
    holding = _holding(found)
    return {
        key: Resolved(read(holding[module, key].value), holding[module, key].scope.value)
        if (module, key) in holding
        else Resolved(defaults.get(key), "default")
        for key in keys
    }


def _defaults(tx: Connection, tenant_id: TenantId, key: str) -> Mapping[str, Mapping[str, Json]]:
    found = definitions.find_current(tx, tenant_id, key)
    if found is None or found.facts.status is not DefinitionStatus.ACTIVE:
        raise NotFound(f'no active definition "{key[:100]}"', code="definition.not_found")
    defaults: Mapping[str, Mapping[str, Json]] = read(found.document).get("config") or {}
    return defaults


def _scope_ids(scope_id: str | None) -> list[str]:
    return [""] if scope_id is None else ["", scope_id]


def _holding(found: Sequence[Configured]) -> dict[tuple[str, str], Configured]:
    """Of all that was found for one who asks, the narrowest for each module and key."""
    ordered = sorted(found, key=lambda one: _NARROWEST_FIRST.index(one.scope), reverse=True)
    return {(one.module, one.key): one for one in ordered}


# -- for steps ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one instance's chart names (`Chart.config_names`), and whose values those of scope "instance" are."""

    tenant_id: TenantId
    names: Collection[str]
    scope_id: str


def scope_id_of(business_key: str | None, instance_id: str) -> str:
    """Whose values an instance reads in scope "instance": its business key's, else its id's."""
    return business_key if business_key is not None else instance_id


def read_wanted(tx: Connection, wanted: Sequence[Wanted]) -> list[dict[str, dict[str, Json]] | None]:
    """For each of `wanted` the values {module: {key: value}} that hold; None where they are larger than a step may read.

    One statement for all, none where nobody names anything. What is set nowhere is left out.
    """
    names = {name for one in wanted for name in one.names}
    if not names:
        return [{} for _ in wanted]
    found = configs.read_named(
        tx,
        (one.tenant_id for one in wanted),
        modules=(name.partition(".")[0] for name in names),
        keys=(name.partition(".")[2] for name in names if "." in name),
        whole=(name for name in names if "." not in name),
        scope_ids=("", *(one.scope_id for one in wanted)),
    )
    by_place: dict[tuple[str, str], list[Configured]] = {}
    for one in found:
        by_place.setdefault((one.tenant_id, one.scope_id), []).append(one)
    return [
        choose(
            one, [*by_place.get((one.tenant_id, ""), ()), *by_place.get((one.tenant_id, one.scope_id), ())]
        )
        for one in wanted
    ]


def choose(wanted: Wanted, found: Sequence[Configured]) -> dict[str, dict[str, Json]] | None:
    """Of values that were found, those that hold for one who names them; None where they are too large for a step."""
    holding = _holding(
        [
            one
            for one in found
            if one.scope_id in ("", wanted.scope_id)
            and (one.module in wanted.names or f"{one.module}.{one.key}" in wanted.names)
        ]
    )
    if sum(len(one.value) for one in holding.values()) > MAX_STEP_BYTES:
        return None
    values: dict[str, dict[str, Json]] = {}
    for (module, key), one in sorted(holding.items()):
        values.setdefault(module, {})[key] = read(one.value)
    return values
