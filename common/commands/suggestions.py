"""A person's word on what a model has suggested: accepting sends the event, exactly once; both go on record."""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy import Connection

from common.canonical import clean, dumps, read
from common.clock import read_now
from common.commands.send import accept, send_event
from common.config import Limits
from common.db.tables import InboxType, SuggestionStatus
from common.errors import Conflict, Invalid, NotFound
from common.ids import TenantId, is_id
from common.store import inbox, suggestions
from common.store.suggestions import Suggestion

MAX_COMMENT = 2_000

Word = Literal["accept", "reject"]


def decide_suggestion(
    tx: Connection,
    tenant_id: TenantId,
    suggestion_id: str,
    word: Word,
    *,
    comment: str | None,
    actor: str,
    limits: Limits,
) -> str:
    """Accept or reject an open suggestion; returns its instance's id. The caller commits; bells ring afterwards.

    An accepted one is sent as an event of the caller's, by the rules of all events from outside. Raises `NotFound`
    (`suggestion.not_found`), `Conflict` (`suggestion.decided`, or as sending does), `Invalid`, `LimitExceeded`.
    """
    found = suggestions.read(tx, tenant_id, suggestion_id) if is_id(suggestion_id) else None
    if found is None:
        raise NotFound(f'no suggestion "{suggestion_id}"', code="suggestion.not_found")
    if found.status != SuggestionStatus.OPEN.value:
        raise _decided(found.id, found.status)
    if comment is not None and len(comment) > MAX_COMMENT:
        raise Invalid(f"comment: expected text of at most {MAX_COMMENT} characters", code="comment.invalid")
    said = None if comment is None else str(clean(comment))
    status = SuggestionStatus.ACCEPTED if word == "accept" else SuggestionStatus.REJECTED
    now = read_now(tx)
    if not suggestions.decide(tx, tenant_id, found.id, status, actor=actor, comment=said, now=now):
        # Two at once: the other one has committed meanwhile.
        raise _decided(found.id, "decided")
    if word == "accept":
        send_event(tx, tenant_id, found.instance_id, _event(found), actor=actor, limits=limits)
    entry = {
        "type": f"ai.suggestion.{status.value}",
        "suggestionId": found.id,
        "taskId": found.task_id,
        "event": found.event,
        "comment": said,
    }
    body = dumps({"entry": entry})
    accept(tx, tenant_id, found.instance_id, "note", InboxType.RECORD, body, lane=inbox.CONTROL, actor=actor)
    return found.instance_id


def _event(found: Suggestion) -> dict[str, Any]:
    source = {"type": "suggestion", "suggestionId": found.id, "taskId": found.task_id}
    return {**read(found.payload), "type": found.event, "source": source}


def _decided(suggestion_id: str, status: str) -> Conflict:
    return Conflict(f"suggestion {suggestion_id} is {status} already", code="suggestion.decided")
