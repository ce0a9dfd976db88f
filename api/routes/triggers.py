"""Triggers, and publishing events that they answer."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from api.auth import Permission
from api.operations import Answer, Call, Routes, Shape
from api.pages import Paging
from api.problems import item_problem
from api.reading import missing, refused_members
from api.schemas.answers import Reactions, Trigger, TriggerPage
from api.schemas.queries import TriggerQuery
from api.schemas.requests import CorrelationBody, PublishBody, TriggerBody
from api.shapes import trigger_json
from common.commands.publish import Correlation, Reaction, publish_event
from common.commands.triggers import TriggerRequest, create_trigger, delete_trigger, replace_trigger
from common.errors import Invalid
from common.store import triggers as store
from common.store.triggers import TriggerFilter

routes = Routes("triggers")

_EXAMPLE = {
    "definitionKey": "hello-workflow",
    "event": "customer.created",
    "condition": "event.customer != ''",
    "input": {"customer": "${event.customer}"},
}


@routes.post(
    "/events",
    permission=Permission.OPERATE,
    answers={202: Shape("what was started and who got it", Reactions)},
    example={"type": "customer.created", "customer": "Ada"},
)
def publish(call: Call, body: PublishBody) -> Answer:
    """Publish an event.

    Every enabled trigger of an active definition that answers it starts an instance. With `correlation` it is also delivered to the live
    instances of a business key, or with all of these labels; what answers it is the definition's to say. A trigger that cannot start
    its instance is `refused` and stops no other. All of it commits together.
    """
    event, correlation = _event(body.root)
    reactions = publish_event(
        call.tx, call.tenant_id, event, correlation, actor=call.actor, limits=call.limits
    )
    return Answer({"items": [_reaction(call, one) for one in reactions], "nextCursor": None}, 202)


def _event(body: Any) -> tuple[Any, Correlation | None]:
    """The event itself, and what stands beside it."""
    if not isinstance(body, dict) or body.get("correlation") is None:
        event = (
            {name: value for name, value in body.items() if name != "correlation"}
            if isinstance(body, dict)
            else body
        )
        return event, None
    try:
        asked = CorrelationBody.model_validate(body["correlation"])
    except ValidationError as error:
        refused = refused_members(error, CorrelationBody)
        raise Invalid(
            f"correlation: {refused.message}", code="correlation.invalid", problems=refused.problems
        ) from error
    correlation = Correlation(asked.definition_key, asked.business_key, asked.labels)
    return {name: value for name, value in body.items() if name != "correlation"}, correlation


def _reaction(call: Call, one: Reaction) -> dict[str, Any]:
    problem = None
    if one.error is not None:
        problem = item_problem(one.error, path=call.path, trace_id=call.trace_id)
    return {
        "kind": one.kind,
        "instanceId": one.instance_id,
        "triggerId": one.trigger_id,
        "definitionKey": one.definition_key,
        "problem": problem,
    }


@routes.get("/triggers", answers={200: Shape("newest first", TriggerPage)})
def list_triggers(call: Call, query: TriggerQuery) -> Answer:
    """List triggers."""
    paging = Paging(call, query)
    wanted = TriggerFilter(query.definition_key, query.event)
    page = store.list_triggers(
        call.tx, call.tenant_id, wanted, before=paging.after_text(), limit=paging.limit
    )
    return Answer(paging.answer(page.items, trigger_json, [page.items[-1].id] if page.has_more else None))


@routes.post(
    "/triggers",
    permission=Permission.DEFINE,
    answers={201: Shape("the trigger", Trigger)},
    example=_EXAMPLE,
)
def add_trigger(call: Call, body: TriggerBody) -> Answer:
    """Create a trigger.

    `condition`, `businessKey` and `input` read `event` and `now`; without an `input`, that of the instance is the event.
    """
    trigger = create_trigger(call.tx, call.tenant_id, _request(body), actor=call.actor, limits=call.limits)
    return Answer(trigger_json(trigger), 201, {"Location": f"/api/v1/triggers/{trigger.id}"})


@routes.get("/triggers/{triggerId}", answers={200: Shape("the trigger", Trigger)})
def get_trigger(call: Call, trigger_id: str) -> Answer:
    """Read a trigger."""
    trigger = store.read(call.tx, call.tenant_id, trigger_id)
    if trigger is None:
        raise missing("trigger", trigger_id)
    return Answer(trigger_json(trigger))


@routes.put(
    "/triggers/{triggerId}",
    permission=Permission.DEFINE,
    answers={200: Shape("the trigger as it is now", Trigger)},
    example=_EXAMPLE,
)
def change_trigger(call: Call, trigger_id: str, body: TriggerBody) -> Answer:
    """Change a trigger.

    The body is the whole trigger: what it leaves out has its default again.
    """
    trigger = replace_trigger(
        call.tx, call.tenant_id, trigger_id, _request(body), actor=call.actor, limits=call.limits
    )
    return Answer(trigger_json(trigger))


@routes.delete(
    "/triggers/{triggerId}",
    permission=Permission.DEFINE,
    answers={200: Shape("the trigger as it was", Trigger)},
)
def remove_trigger(call: Call, trigger_id: str) -> Answer:
    """Delete a trigger.

    What it has started goes on.
    """
    return Answer(trigger_json(delete_trigger(call.tx, call.tenant_id, trigger_id)))


def _request(body: TriggerBody) -> TriggerRequest:
    return TriggerRequest(
        definition_key=body.definition_key,
        event=body.event,
        name=body.name,
        condition=body.condition,
        business_key=body.business_key,
        input=body.input,
        enabled=body.enabled,
    )
