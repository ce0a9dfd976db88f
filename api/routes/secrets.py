"""Secrets: values that tasks use by `${secret.NAME}`. They go in by this door, and none comes out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from api.auth import Permission
from api.operations import NO_CONTENT, Answer, Call, Routes, Shape
from api.pages import Paging
from api.schemas.answers import Secret, SecretPage
from api.schemas.queries import PageQuery
from api.schemas.requests import SecretBody
from common.clock import instant_text
from common.commands import secrets
from common.sealing import SealingKeys
from common.store.secrets import SecretRecord, list_secrets

routes = Routes("secrets")


@routes.get(
    "/secrets",
    permission=Permission.ADMINISTER,
    answers={200: Shape("by name", SecretPage)},
)
def list_all_secrets(call: Call, query: PageQuery) -> Answer:
    """List secrets.

    Names, versions and times, and which of them this installation has no key for; the values are never told.
    """
    paging = Paging(call, query)
    found = list_secrets(call.tx, call.tenant_id, after=paging.after_text(), limit=paging.limit + 1)
    items, more = found[: paging.limit], len(found) > paging.limit
    shape = partial(_shape, keys=call.services.sealing_keys)
    return Answer(paging.answer(items, shape, [items[-1].name] if more else None))


@routes.put(
    "/secrets/{secretName}",
    permission=Permission.ADMINISTER,
    answers={201: Shape("it is new", Secret), 200: Shape("it had a value, which is gone", Secret)},
    example={"value": "sk_live_…"},
    is_confidential=True,
)
def set_secret(call: Call, secret_name: str, body: SecretBody) -> Answer:
    """Set a secret's value.

    Every task that begins from now on gets it. Nothing keeps or shows the value: the database has it sealed under a key that
    is not in the database. Setting it again raises the version.
    """
    keys = call.services.sealing_keys
    record = secrets.set_secret(call.tx, call.tenant_id, secret_name, body.value, keys=keys, actor=call.actor)
    return Answer(_shape(record, keys=keys), 201 if record.version == 1 else 200)


@routes.delete("/secrets/{secretName}", permission=Permission.ADMINISTER, answers={204: Shape("it is gone")})
def delete_secret(call: Call, secret_name: str) -> Answer:
    """Delete a secret.

    Tasks that refer to it fail from now on, with `secret.unknown`.
    """
    secrets.delete_secret(call.tx, call.tenant_id, secret_name)
    return NO_CONTENT


def _shape(record: SecretRecord, *, keys: SealingKeys) -> Mapping[str, Any]:
    return {
        "name": record.name,
        "version": record.version,
        "createdAt": instant_text(record.created_at),
        "updatedAt": instant_text(record.updated_at),
        "updatedBy": record.updated_by,
        "readable": keys.opens(record.key_id),
    }
