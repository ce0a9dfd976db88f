"""Metadata of instances: what their handlers share, shown and set by hand."""

from __future__ import annotations

from api.auth import Permission
from api.operations import Answer, Call, Routes, Shape
from api.pages import Paging
from api.reading import missing
from api.schemas.answers import Metadata, MetadataPage
from api.schemas.queries import PageQuery
from api.schemas.requests import MetadataBody
from api.shapes import metadata_json
from common.commands.metadata import UNSAID, remove_metadata, require_instance, set_metadata
from common.store import metadata as store

routes = Routes("metadata")


@routes.get("/instances/{instanceId}/metadata", answers={200: Shape("by key", MetadataPage)})
def list_metadata(call: Call, instance_id: str, query: PageQuery) -> Answer:
    """List the metadata of an instance."""
    require_instance(call.tx, call.tenant_id, instance_id)
    paging = Paging(call, query)
    page = store.list_metadata(
        call.tx, call.tenant_id, instance_id, after=paging.after_text(), limit=paging.limit
    )
    return Answer(paging.answer(page.items, metadata_json, [page.items[-1].key] if page.has_more else None))


@routes.get("/instances/{instanceId}/metadata/{metadataKey}", answers={200: Shape("the value", Metadata)})
def get_metadata(call: Call, instance_id: str, metadata_key: str) -> Answer:
    """Read one metadata value."""
    require_instance(call.tx, call.tenant_id, instance_id)
    found = store.find(call.tx, call.tenant_id, instance_id, metadata_key)
    if found is None:
        raise missing("metadata_key", metadata_key)
    return Answer(metadata_json(found))


@routes.put(
    "/instances/{instanceId}/metadata/{metadataKey}",
    permission=Permission.OPERATE,
    answers={200: Shape("the value as it is now", Metadata)},
    example={"value": {"parcels": 2}},
)
def put_metadata(call: Call, instance_id: str, metadata_key: str, body: MetadataBody) -> Answer:
    """Set a metadata value.

    The last write wins, unless `expected` names the value that is to be replaced (null: none): then another one is a 409.
    """
    expected = body.expected if "expected" in body.model_fields_set else UNSAID
    record = set_metadata(
        call.tx,
        call.tenant_id,
        instance_id,
        metadata_key,
        body.value,
        expected=expected,
        actor=call.actor,
    )
    return Answer(metadata_json(record))


@routes.delete(
    "/instances/{instanceId}/metadata/{metadataKey}",
    permission=Permission.OPERATE,
    answers={200: Shape("the value that it had", Metadata)},
)
def delete_metadata(call: Call, instance_id: str, metadata_key: str) -> Answer:
    """Delete a metadata value."""
    return Answer(metadata_json(remove_metadata(call.tx, call.tenant_id, instance_id, metadata_key)))
