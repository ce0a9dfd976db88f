"""Task types: what there is to be done, who does it, and what goes in and comes out."""

from __future__ import annotations

from api.operations import Answer, Call, Routes, Shape
from api.schemas.answers import Handler, HandlerPage
from api.schemas.queries import HandlerQuery, HandlersQuery
from api.shapes import own_type_json, published_json
from common.catalogue import CATALOGUE, OWN
from common.errors import NotFound, did_you_mean
from common.store import overview

routes = Routes("task types")


@routes.get("/handlers", answers={200: Shape("by type and name, all of them", HandlerPage)})
def list_handlers(call: Call, query: HandlersQuery) -> Answer:
    """List task types: the engine's own, and those that task runners offer, with their schemas.

    Runners serve all tenants. What they have published stays when they end: `runners` says how many live.
    """
    workers = overview.list_workers(call.tx)
    found = [own_type_json(one) for one in OWN]
    found += [published_json(record, workers) for record in overview.list_handlers(call.tx)]
    if query.category is not None:
        found = [one for one in found if one["category"] == query.category]
    found.sort(key=lambda one: (one["type"], one["name"] or ""))
    return Answer({"items": found, "nextCursor": None})


@routes.get("/handlers/{type}", answers={200: Shape("the task type", Handler)})
def get_handler(call: Call, type: str, query: HandlerQuery) -> Answer:
    """Read a task type, or with `name` a function of type SYSTEM."""
    own = CATALOGUE.get(type)
    if own is not None and query.name is None and (own.is_own or type == "SYSTEM"):
        return Answer(own_type_json(own))
    published = overview.list_handlers(call.tx)
    record = next((one for one in published if (one.type, one.name) == (type, query.name or "")), None)
    if record is not None:
        return Answer(published_json(record, overview.list_workers(call.tx)))
    if query.name is not None:
        known = {one.name for one in published if one.type == type and one.name}
        message = f'no function "{query.name}" of type "{type[:200]}"{did_you_mean(query.name, known)}'
    else:
        known = {one.type for one in published} | {one.type for one in OWN}
        message = f'no task type "{type[:200]}"{did_you_mean(type, known)}'
    raise NotFound(message, code="handler.not_found")
