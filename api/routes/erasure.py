"""Erasure: the data of ended instances is taken away, one by one or for all that a filter finds; for admins."""

from __future__ import annotations

from api.auth import Permission
from api.operations import Answer, Call, Routes, Shape
from api.routes.control import bulk_answer, filter_of, list_name, refuse_empty
from api.schemas.answers import BulkAnswer, ErasureAnswer
from api.schemas.requests import BulkEraseBody, EraseBody
from common.commands.erase import erase_all, erase_instance

routes = Routes("erasure")


@routes.post(
    "/instances/{instanceId}/erase",
    permission=Permission.ADMINISTER,
    answers={202: Shape("accepted", ErasureAnswer)},
    example={"reason": "request 2026-117 of the person concerned"},
)
def erase(call: Call, instance_id: str, body: EraseBody | None = None) -> Answer:
    """Erase the data of an ended instance.

    Input, context, output, events, results, errors, notes, labels, its business key and everything else that came from
    outside are taken away; ids, states, types, statuses and times stay, and so do the hashes: the history still
    verifies. It is done by its next step, after whatever it has accepted before; `erasedAt` tells.
    """
    asked = body or EraseBody()
    erase_instance(
        call.tx,
        call.tenant_id,
        instance_id,
        reason=asked.reason,
        cancel=asked.cancel,
        children=asked.children,
        actor=call.actor,
    )
    # Not the instance, as other commands have it: the answer is kept for the Idempotency-Key.
    return Answer({"instanceId": instance_id, "status": "accepted"}, 202)


@routes.post(
    "/instances:erase",
    permission=Permission.ADMINISTER,
    answers={200: Shape("what became of one page of them", BulkAnswer)},
    example={"filter": {"labels": {"subject": "customer-7"}}, "dryRun": True},
)
def erase_many(call: Call, body: BulkEraseBody) -> Answer:
    """Erase the data of every ended instance that a filter finds.

    A call looks at up to `limit` instances, newest first; go on with `nextCursor` until it is null. With `dryRun`
    nothing is done. Instances are refused one by one, the others are not touched by it.
    """
    refuse_empty(body.filter)
    name = list_name(call, body)
    position = call.services.cursors.read(name, body.cursor)
    done = erase_all(
        call.tx,
        call.tenant_id,
        filter_of(body.filter),
        reason=body.reason,
        cancel=body.cancel,
        children=body.children,
        dry_run=body.dry_run,
        before=None if position is None else str(position[0]),
        limit=body.limit,
        actor=call.actor,
    )
    return bulk_answer(call, done, name, is_dry_run=body.dry_run)
