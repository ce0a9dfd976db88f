"""A person's word on what a model has suggested: accepting sends the event, exactly once; both go on record."""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy import Connection

from common.ai_policy import Verdict
from common.canonical import clean, dumps, read
from common.commands.send import accept, send_event
from common.config import Limits
from common.db.now import read_now
from common.db.tables import InboxType, SuggestionStatus
from common.errors import Conflict, Invalid, NotFound
from common.ids import TenantId, is_id
from common.store import inbox, suggestions
from common.store.suggestions import Suggestion

MAX_COMMENT = 2_000

Word = Literal["accept", "reject"]
WORDS = {"accept": SuggestionStatus.ACCEPTED, "reject": SuggestionStatus.REJECTED}


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
    said = comment_text(comment)
    status = WORDS[word]
    now = read_now(tx)
    if not suggestions.decide(tx, tenant_id, found.id, status, actor=actor, comment=said, now=now):
        # Two at once: the other one has committed meanwhile.
        raise _decided(found.id, "decided")
    if word == "accept":
        send_event(
            tx,
            tenant_id,
            found.instance_id,
            event_of(found),
            actor=actor,
            limits=limits,
            source=source_of(found),
        )
    body = dumps({"entry": entry_of(found, status, said)})
    accept(tx, tenant_id, found.instance_id, "note", InboxType.RECORD, body, lane=inbox.CONTROL, actor=actor)
    return found.instance_id


def comment_text(comment: str | None) -> str | None:
    """What somebody says to a suggestion, as it is stored. Raises `Invalid` (`comment.invalid`)."""
    if comment is not None and len(comment) > MAX_COMMENT:
        raise Invalid(f"comment: expected text of at most {MAX_COMMENT} characters", code="comment.invalid")
    return None if comment is None else str(clean(comment))


def event_of(found: Suggestion) -> dict[str, Any]:
    """The event that an accepted suggestion is."""
    return {**read(found.payload), "type": found.event}


def source_of(found: Suggestion) -> dict[str, Any]:
    """What its event says of where it is from."""
    return {"type": "suggestion", "suggestionId": found.id, "taskId": found.task_id}


def entry_of(found: Suggestion, status: SuggestionStatus, comment: str | None) -> dict[str, Any]:
    """What the history says of a suggestion that somebody has decided."""
    return {
        "type": f"ai.suggestion.{status.value}",
        "suggestionId": found.id,
        "taskId": found.task_id,
        "event": found.event,
        "comment": comment,
    }


def suggested(output: Any) -> dict[str, Any] | None:
    """The members of a suggestion that the output of an AI task makes; None where it makes none."""
    decision = output.get("decision") if isinstance(output, dict) else None
    if not isinstance(decision, dict) or output.get("verdict") != Verdict.SUGGESTED.value:
        return None
    confidence = decision.get("confidence")
    return {
        "event": str(decision.get("event")),
        "payload": dumps(decision.get("payload") or {}),
        "reason": str(decision.get("reason") or ""),
        "confidence": None if confidence is None else dumps(confidence),
        "status": SuggestionStatus.OPEN.value,
    }


def _decided(suggestion_id: str, status: str) -> Conflict:
    return Conflict(f"suggestion {suggestion_id} is {status} already", code="suggestion.decided")
