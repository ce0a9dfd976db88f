"""Limits of running tasks: how many of a type or a key run at once, and how often one starts."""

from __future__ import annotations

from api.auth import Permission
from api.operations import NO_CONTENT, Answer, Call, Routes, Shape
from api.pages import Paging
from api.schemas.answers import Limit, LimitPage
from api.schemas.queries import PageQuery
from api.schemas.requests import LimitBody, RateBody
from api.shapes import limit_json
from common.commands import limits
from common.errors import Invalid
from common.store.limits import Rate, list_limits
from statechart.durations import parse_duration

routes = Routes("limits")


@routes.get("/limits", answers={200: Shape("by key", LimitPage)})
def list_all_limits(call: Call, query: PageQuery) -> Answer:
    """List limits.

    Those that operators have set, and those that definitions have asked for with a task.
    """
    paging = Paging(call, query)
    found = list_limits(call.tx, call.tenant_id, after=paging.after_text(), limit=paging.limit + 1)
    items, more = found[: paging.limit], len(found) > paging.limit
    states = limits.read_states(call.tx, call.tenant_id, items)
    return Answer(paging.answer(states, limit_json, [items[-1].key] if more else None))


@routes.get("/limits/{limitKey}", answers={200: Shape("the limit", Limit)})
def get_limit(call: Call, limit_key: str) -> Answer:
    """Read a limit, with what runs and what waits."""
    return Answer(limit_json(limits.get_limit(call.tx, call.tenant_id, limit_key)))


@routes.put(
    "/limits/{limitKey}",
    permission=Permission.OPERATE,
    answers={201: Shape("it is new", Limit), 200: Shape("it is changed", Limit)},
    example={"maxRunning": 3, "rate": {"count": 10, "per": "1s"}},
)
def set_limit(call: Call, limit_key: str, body: LimitBody) -> Answer:
    """Set a limit.

    It holds for claims from now on, and counts more than what definitions say of this key. Tasks that run already go on.
    """
    state, is_new = limits.set_limit(
        call.tx,
        call.tenant_id,
        limit_key,
        max_running=body.max_running,
        rate=None if body.rate is None else _rate(body.rate),
        actor=call.actor,
    )
    return Answer(limit_json(state), 201 if is_new else 200)


@routes.delete("/limits/{limitKey}", permission=Permission.OPERATE, answers={204: Shape("it is gone")})
def delete_limit(call: Call, limit_key: str) -> Answer:
    """Delete a limit.

    Its tasks run without it. One that a definition asks for stands again with the next task of that definition.
    """
    limits.delete_limit(call.tx, call.tenant_id, limit_key)
    return NO_CONTENT


def _rate(body: RateBody) -> Rate:
    try:
        per_ms = parse_duration(body.per)
    except ValueError as error:
        raise Invalid(f"rate.per: {error}", code="limit.invalid") from error
    if per_ms < 1:
        raise Invalid(f"rate.per: expected at least 1 ms, found {body.per!r}", code="limit.invalid")
    return Rate(body.count, per_ms, body.burst or body.count)
