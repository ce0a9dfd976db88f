"""Suggestions of models, and what people say to them."""

from __future__ import annotations

from api.auth import Permission
from api.operations import Answer, Call, Routes, Shape
from api.pages import Paging
from api.reading import missing
from api.routes.control import CONTROL_WAIT_SECONDS
from api.routes.instances import ACCEPTED, accepted
from api.schemas.answers import SuggestionPage, SuggestionShape
from api.schemas.queries import SuggestionQuery
from api.schemas.requests import SuggestionBody
from api.shapes import suggestion_json
from common.commands.suggestions import Word, decide_suggestion
from common.ids import is_id
from common.store import suggestions

routes = Routes("suggestions")


@routes.get("/suggestions", answers={200: Shape("newest first", SuggestionPage)})
def list_suggestions(call: Call, query: SuggestionQuery) -> Answer:
    """List what models have suggested."""
    paging = Paging(call, query)
    if query.instance_id is not None and not is_id(query.instance_id):
        return Answer({"items": [], "nextCursor": None})
    page = suggestions.list_suggestions(
        call.tx,
        call.tenant_id,
        status=query.status,
        instance_id=query.instance_id,
        before=paging.after_text(),
        limit=paging.limit,
    )
    return Answer(paging.answer(page.items, suggestion_json, [page.items[-1].id] if page.has_more else None))


@routes.get("/suggestions/{suggestionId}", answers={200: Shape("the suggestion", SuggestionShape)})
def get_suggestion(call: Call, suggestion_id: str) -> Answer:
    """Read a suggestion."""
    found = suggestions.read(call.tx, call.tenant_id, suggestion_id) if is_id(suggestion_id) else None
    if found is None:
        raise missing("suggestion", suggestion_id)
    return Answer(suggestion_json(found))


@routes.post(
    "/suggestions/{suggestionId}/accept",
    permission=Permission.OPERATE,
    answers=ACCEPTED,
    wait=CONTROL_WAIT_SECONDS,
    example={"comment": "the invoice is attached"},
)
def accept_suggestion(call: Call, suggestion_id: str, body: SuggestionBody) -> Answer:
    """Accept a suggestion: its event is sent to the instance, as yours. Answers with the instance."""
    return _decide(call, suggestion_id, "accept", body)


@routes.post(
    "/suggestions/{suggestionId}/reject",
    permission=Permission.OPERATE,
    answers=ACCEPTED,
    wait=CONTROL_WAIT_SECONDS,
    example={"comment": "no such order"},
)
def reject_suggestion(call: Call, suggestion_id: str, body: SuggestionBody) -> Answer:
    """Reject a suggestion: nothing is sent, and that is on record. Answers with the instance."""
    return _decide(call, suggestion_id, "reject", body)


def _decide(call: Call, suggestion_id: str, word: Word, body: SuggestionBody) -> Answer:
    instance_id = decide_suggestion(
        call.tx,
        call.tenant_id,
        suggestion_id,
        word,
        comment=body.comment,
        actor=call.actor,
        limits=call.limits,
    )
    return accepted(call, instance_id)
