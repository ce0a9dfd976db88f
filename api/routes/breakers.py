"""Circuit breakers: whether tasks call their targets, and an operator's word about it."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from api.auth import Permission
from api.operations import Answer, Call, Routes, Shape
from api.pages import Paging
from api.schemas.answers import Breaker, BreakerPage
from api.schemas.queries import BreakerQuery
from api.schemas.requests import BreakerBody
from api.shapes import breaker_json
from common.commands import breakers
from common.commands.breakers import Turned, log_turned
from common.store import breakers as store
from common.store.breakers import BreakerRecord

log = structlog.get_logger("signalbox.api")
routes = Routes("breakers")

_EXAMPLE = {"type": "HTTP", "target": "https://api.example.com:443"}
_ANSWERS = {200: Shape("the circuit breaker as it is now", Breaker)}


@routes.get("/breakers", answers={200: Shape("by type and target", BreakerPage)})
def list_breakers(call: Call, query: BreakerQuery) -> Answer:
    """List circuit breakers.

    There is one for each type of task and target of which a call has failed; those that nothing happens to for an hour go.
    """
    paging = Paging(call, query)
    after = None if paging.position is None else (str(paging.position[0]), str(paging.position[1]))
    page = store.list_breakers(
        call.tx, call.tenant_id, state=query.state, type=query.type, after=after, limit=paging.limit
    )
    last = [page.items[-1].key.type, page.items[-1].key.target] if page.has_more else None
    return Answer(paging.answer(page.items, breaker_json, last))


@routes.post("/breakers:open", permission=Permission.OPERATE, answers=_ANSWERS, example=_EXAMPLE)
def open_breaker(call: Call, body: BreakerBody) -> Answer:
    """Let no task call a target, until the circuit breaker is closed or reset.

    What is under way goes on. One that is not there yet is made.
    """
    return _answer(
        breakers.open_breaker(
            call.tx, call.tenant_id, body.type, body.target, actor=call.actor, limits=call.limits
        )
    )


@routes.post("/breakers:close", permission=Permission.OPERATE, answers=_ANSWERS, example=_EXAMPLE)
def close_breaker(call: Call, body: BreakerBody) -> Answer:
    """Let every task call a target, however the calls end, until the circuit breaker is reset.

    Tasks that waited go on at once. One that is not there yet is made.
    """
    return _answer(
        breakers.close_breaker(
            call.tx, call.tenant_id, body.type, body.target, actor=call.actor, limits=call.limits
        )
    )


@routes.post("/breakers:reset", permission=Permission.OPERATE, answers=_ANSWERS, example=_EXAMPLE)
def reset_breaker(call: Call, body: BreakerBody) -> Answer:
    """Close a circuit breaker and leave it to itself again, counting from now on.

    Tasks that waited go on at once.
    """
    return _answer(breakers.reset_breaker(call.tx, call.tenant_id, body.type, body.target, actor=call.actor))


def _answer(done: tuple[BreakerRecord, Sequence[Turned]]) -> Answer:
    record, turned = done
    for one in turned:
        log_turned(log, one)
    return Answer(breaker_json(record))
