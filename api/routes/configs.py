"""Configuration: values in their scopes, and which of them holds."""

from __future__ import annotations

from typing import Any

from api.auth import Permission
from api.operations import Answer, Call, Routes, Shape
from api.pages import Paging
from api.reading import missing
from api.schemas.answers import Config, ConfigPage, ResolvedConfig
from api.schemas.queries import ConfigQuery, ResolveConfigQuery
from api.schemas.requests import ConfigBody, ConfigValueBody
from api.shapes import config_json
from common.commands.configs import NewConfig, Resolved, change_config, resolve, set_config
from common.errors import Invalid, LimitExceeded
from common.store import configs as store
from common.store.configs import ConfigFilter

routes = Routes("configuration")

MOST_KEYS = 100


@routes.get("/configs", answers={200: Shape("newest first", ConfigPage)})
def list_configs(call: Call, query: ConfigQuery) -> Answer:
    """List configuration values."""
    paging = Paging(call, query)
    wanted = ConfigFilter(query.module, query.key, query.scope, query.scope_id)
    page = store.list_configs(call.tx, call.tenant_id, wanted, before=paging.after_text(), limit=paging.limit)
    return Answer(paging.answer(page.items, config_json, [page.items[-1].id] if page.has_more else None))


@routes.post(
    "/configs",
    permission=Permission.DEFINE,
    answers={201: Shape("set for the first time", Config), 200: Shape("set anew", Config)},
    example={"module": "orders", "key": "limit", "value": 1000},
)
def set_config_value(call: Call, body: ConfigBody) -> Answer:
    """Set a configuration value in its scope.

    Module, key, scope and scope id name it: what is set again under the same names is changed. Steps read it from the next
    one on; running definitions read only what their expressions name. Never put a secret here.
    """
    wanted = NewConfig(body.module, body.key, body.value, body.scope, body.scope_id, body.description)
    record, created = set_config(call.tx, call.tenant_id, wanted, actor=call.actor, limits=call.limits)
    headers = {"Location": f"/api/v1/configs/{record.id}"}
    return Answer(config_json(record), 201 if created else 200, headers)


@routes.get(
    "/configs/resolve", answers={200: Shape("the value, or with `keys` one for each", ResolvedConfig)}
)
def resolve_config(call: Call, query: ResolveConfigQuery) -> Answer:
    """Tell which value holds.

    Looked for in this order: the instance (`scopeId`), the module, the tenant, the default in the definition, null.
    """
    if (query.key is None) == (query.keys is None):
        raise Invalid("expected either key or keys")
    keys = [query.key] if query.key is not None else _keys(query.keys or "")
    found = resolve(
        call.tx,
        call.tenant_id,
        query.module,
        keys,
        scope_id=query.scope_id,
        definition_key=query.definition_key,
    )
    if query.key is not None:
        return Answer(_resolved(found[query.key]))
    return Answer({"results": {key: _resolved(one) for key, one in found.items()}})


def _keys(text: str) -> list[str]:
    keys = list(dict.fromkeys(text.split(",")))
    if "" in keys:
        raise Invalid("keys: expected names separated by commas, found an empty one")
    if len(keys) > MOST_KEYS:
        message = f"keys: at most {MOST_KEYS} are resolved in one call, found {len(keys)}"
        raise LimitExceeded(message, limit="max_config_resolved", allowed=MOST_KEYS)
    return keys


def _resolved(one: Resolved) -> dict[str, Any]:
    return {"value": one.value, "source": one.source}


@routes.get("/configs/{configId}", answers={200: Shape("the value", Config)})
def get_config(call: Call, config_id: str) -> Answer:
    """Read a configuration value."""
    found = store.find(call.tx, call.tenant_id, config_id)
    if found is None:
        raise missing("config", config_id)
    return Answer(config_json(found))


@routes.put(
    "/configs/{configId}",
    permission=Permission.DEFINE,
    answers={200: Shape("the value as it is now", Config)},
    example={"value": 2000},
)
def change_config_value(call: Call, config_id: str, body: ConfigValueBody) -> Answer:
    """Change a configuration value."""
    record = change_config(
        call.tx,
        call.tenant_id,
        config_id,
        body.value,
        description=body.description,
        actor=call.actor,
        limits=call.limits,
    )
    return Answer(config_json(record))


@routes.delete(
    "/configs/{configId}",
    permission=Permission.DEFINE,
    answers={200: Shape("the value that it had", Config)},
)
def delete_config(call: Call, config_id: str) -> Answer:
    """Delete a configuration value.

    What is wider holds from then on.
    """
    found = store.remove(call.tx, call.tenant_id, config_id)
    if found is None:
        raise missing("config", config_id)
    return Answer(config_json(found))
