"""Problems: how every refusal looks on the wire (RFC 9457), and the only place where HTTP statuses are chosen.

`CATALOGUE` lists the stable codes with their titles; the docs page is made from it, and a problem's `type` leads there.
What is told to a caller comes from our own errors; of anything else only a trace id is told, under which the log has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from gunicorn.http import errors as http
from werkzeug.exceptions import ClientDisconnected, HTTPException

from common.errors import (
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    LimitExceeded,
    NotFound,
    SignalboxError,
    Unauthorized,
    Unavailable,
)

MEDIA_TYPE = "application/problem+json"
DOCS_PATH = "/docs/problems"

CATALOGUE: Mapping[str, str] = {
    "auth.required": "A valid API key is needed",
    "auth.forbidden": "The key's role may not do this",
    "request.invalid": "The request has members or parameters that cannot be accepted",
    "request.malformed": "The request is not understood",
    "request.too_large": "The request line or the header fields are too large",
    "request.media_type": "The body must be JSON",
    "json.invalid": "The body is not strict JSON",
    "limit.exceeded": "A limit is exceeded",
    "cursor.invalid": "The cursor does not belong to this list",
    "route.not_found": "No such address",
    "method.not_allowed": "This address does not take this method",
    "definition.not_found": "No such definition",
    "definition.invalid": "The definition has errors",
    "definition.not_active": "The definition has no active version to start",
    "definition.busy": "Others are applying this definition",
    "definition.illegal_verb": "The version is in a status in which this cannot be done",
    "instance.not_found": "No such instance",
    "instance.finished": "The instance has finished",
    "instance.illegal_verb": "The instance is in a status in which this cannot be done",
    "instance.deleted": "The instance was deleted",
    "instance.not_ended": "The instance has not ended",
    "answer.erased": "The answer was erased",
    "instance.not_started": "The instance has not started",
    "instance.ended_in_error": "The instance's machine ended with an error",
    "instance.compensated": "What the instance had done is undone",
    "compensation.nothing": "There is nothing to undo",
    "compensation.stopped": "A compensation of the instance has failed",
    "definition.unusable": "The definition does not compile any more",
    "restart.unknown_state": "No such state",
    "filter.empty": "The filter is empty",
    "instance.business_key_held": "A live instance holds this business key",
    "concurrency.full": "As many instances are live as may run at once",
    "concurrency.key": "The start has no key to share places by",
    "start.invalid": "The start cannot be accepted",
    "reason.invalid": "The reason cannot be accepted",
    "note.invalid": "The note cannot be accepted",
    "event.invalid": "The event cannot be accepted",
    "input.invalid": "The input is not as the definition says",
    "event.reserved": "Events of this name belong to the engine",
    "metadata.invalid": "The metadata key cannot be accepted",
    "metadata.not_found": "No such metadata",
    "metadata.changed": "The metadata is not what was expected",
    "correlation.invalid": "The correlation names no instances",
    "trigger.invalid": "The trigger cannot be accepted",
    "trigger.failed": "The trigger has no value for this event",
    "trigger.not_found": "No such trigger",
    "trigger.of_definition": "The trigger is written in a definition",
    "breaker.target": "No circuit breaker can be called so",
    "breaker.not_found": "No such circuit breaker",
    "schedule.invalid": "The schedule cannot be accepted",
    "schedule.template": "A template of the schedule has no value",
    "schedule.not_found": "No such schedule",
    "schedule.of_definition": "The schedule is written in a definition",
    "config.invalid": "The configuration value cannot be accepted",
    "config.not_found": "No such configuration value",
    "task.not_found": "No such task",
    "task.not_human": "The task is not one of people",
    "task.ended": "The task has ended",
    "task.gated": "The turn of the task has not come",
    "task.unclaimed": "The task is nobody's work",
    "task.invalid": "The name or code cannot be accepted",
    "task.output_invalid": "The output does not fit the form",
    "task.form_unusable": "The form of the task is no JSON Schema",
    "task.lease_lost": "The lease of the task is over",
    "link.invalid": "The link cannot be made like this",
    "link.too_large": "The link would be too long",
    "link.no_public_url": "The address of the API for people is not known",
    "human.claimed": "The task is somebody else's work",
    "human.not_assignee": "The task is somebody else's work",
    "human.not_candidate": "Not among the candidates of the task",
    "human.four_eyes": "Another person must decide this task",
    "human.shown_changed": "The task is not what was shown",
    "incident.not_found": "No such incident",
    "incident.resolved": "The incident is resolved already",
    "handler.not_found": "No such task type",
    "limit.not_found": "No such limit",
    "limit.key_invalid": "A limit cannot have this key",
    "limit.invalid": "A limit cannot be like this",
    "secret.not_found": "No such secret",
    "secret.name_invalid": "A secret cannot have this name",
    "secret.value_invalid": "A secret cannot have this value",
    "suggestion.not_found": "No such suggestion",
    "suggestion.decided": "The suggestion is decided already",
    "comment.invalid": "The comment cannot be accepted",
    "idempotency.key_invalid": "The Idempotency-Key cannot be used",
    "idempotency.key_reused": "The Idempotency-Key came with another request before",
    "unavailable": "A part that is needed does not answer",
    "internal": "Something failed on our side",
}
"""Stable code → title. A code that is not here gets the title of its status."""

_STATUSES: Sequence[tuple[type[SignalboxError], int]] = (
    (Unauthorized, 401),
    (Forbidden, 403),
    (Gone, 410),
    (NotFound, 404),
    (Conflict, 409),
    (Unavailable, 503),
)
_INVALID = {
    "json.invalid": 400,
    "cursor.invalid": 400,
    "idempotency.key_invalid": 400,
    "request.media_type": 415,
}
_TOO_LARGE = frozenset(
    {
        "max_body_bytes",
        "max_definition_bytes",
        "max_event_bytes",
        "max_context_bytes",
        "max_output_bytes",
        "max_config_bytes",
        "max_metadata_bytes",
        "max_config_module_bytes",
        "max_trigger_bytes",
    }
)
_TOO_MANY = frozenset({"max_calculations"})
_HTTP_CODES = {
    HTTPStatus.NOT_FOUND: "route.not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method.not_allowed",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "request.media_type",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "limit.exceeded",
}
_OURS = (http.InvalidResponseHeader, http.InvalidResponseHeaderName, http.ConfigurationProblem)
_UNREAD: Mapping[type[http.ParseException], tuple[int, str, str]] = {
    http.LimitRequestLine: (414, "request.too_large", "the request line may have 4,094 bytes, found more"),
    http.LimitRequestHeaders: (
        431,
        "request.too_large",
        "there may be 100 header fields of 8,190 bytes each, and 32,768 bytes together, found more",
    ),
    http.ExpectationFailed: (
        417,
        "request.malformed",
        'expected "Expect: 100-continue" or none, found another',
    ),
    http.UnsupportedTransferCoding: (
        400,
        "request.malformed",
        'expected "Transfer-Encoding: chunked" or none, found another',
    ),
    http.InvalidRequestLine: (400, "request.malformed", "expected a line of method, address and version"),
    http.InvalidRequestMethod: (400, "request.malformed", "expected a method such as GET, found another"),
    http.InvalidHTTPVersion: (
        400,
        "request.malformed",
        "expected HTTP/1.0 or HTTP/1.1, found another version",
    ),
}
"""Kinds of heads that the server cannot read → status, code and detail. What they say themselves repeats what was sent, which may be a key."""
_UNREADABLE = (400, "request.malformed", "expected header fields as RFC 9110 has them, found others")
_CHALLENGE = 'Bearer realm="signalbox"'


@dataclass(frozen=True, slots=True)
class ProblemAnswer:
    """A refusal, ready to be sent: `body` is the problem, `headers` go with it."""

    status: int
    code: str
    detail: str
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


def describe(error: BaseException, *, path: str, trace_id: str) -> ProblemAnswer:
    """Turn any exception that left a request into what its caller is told."""
    match error:
        case SignalboxError():
            return _from_ours(error, path, trace_id)
        case ClientDisconnected():
            detail = "expected the rest of the body; its sender was silent for 10 s, or has gone"
            return _problem(400, "request.malformed", detail, path, trace_id)
        case HTTPException():
            return _from_http(error, path, trace_id)
        case http.ParseException() | http.NoMoreData():  # raised where the body is read
            detail = "expected a body in chunks, each with its length in hexadecimal, and a short end; found something else"
            return _problem(400, "request.malformed", detail, path, trace_id)
        case _:
            return _internal(path, trace_id)


def unread(error: BaseException, *, trace_id: str) -> ProblemAnswer:
    """Turn what kept a request from the application into what its sender is told. Its path may not be known, and is not told."""
    if not isinstance(error, http.ParseException) or isinstance(error, _OURS):
        return _internal("", trace_id)
    status, code, detail = _UNREAD.get(type(error), _UNREADABLE)
    return _problem(status, code, detail, "", trace_id)


def unavailable(*, path: str, trace_id: str, is_full: bool = False) -> ProblemAnswer:
    """What is told when the database does not answer, or has no room. What it said may name hosts and users: that is for the log."""
    found = (
        "the database has no room left on its disk; make some"
        if is_full
        else "the database does not answer; try again"
    )
    detail = f'{found}. The log has the reason under trace id "{trace_id}"'
    return _problem(503, "unavailable", detail, path, trace_id, headers={"Retry-After": "1"})


def item_problem(error: SignalboxError, *, path: str, trace_id: str) -> dict[str, Any]:
    """The problem of one item of a batch, as it stands in the batch's answer."""
    return _from_ours(error, path, trace_id).body


def status_of(error: SignalboxError) -> int:
    """The HTTP status of one of our errors."""
    if isinstance(error, LimitExceeded):
        limit = error.fields.get("limit")
        return 413 if limit in _TOO_LARGE else 429 if limit in _TOO_MANY else 422
    if isinstance(error, Invalid):
        return _INVALID.get(error.code, 422)
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


def _from_ours(error: SignalboxError, path: str, trace_id: str) -> ProblemAnswer:
    more = dict(error.fields)
    if isinstance(error, Invalid) and error.problems:
        more["problems"] = error.problems
    headers = {}
    status = status_of(error)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = _CHALLENGE
    if status in (429, 503):
        headers["Retry-After"] = "1"
    return _problem(status, error.code, error.message, path, trace_id, more=more, headers=headers)


def _from_http(error: HTTPException, path: str, trace_id: str) -> ProblemAnswer:
    status = error.code or 500
    code = _HTTP_CODES.get(HTTPStatus(status), "request.malformed" if status < 500 else "internal")
    allowed = dict(error.get_headers()).get("Allow")
    if status == 404:
        detail = f'there is nothing at "{path}"; the addresses are listed at /docs'
    elif status == 405:
        detail = f'"{path}" takes only {allowed}'
    else:
        detail = (error.description or HTTPStatus(status).phrase).lower()
    return _problem(status, code, detail, path, trace_id, headers={"Allow": allowed} if allowed else {})


def _internal(path: str, trace_id: str) -> ProblemAnswer:
    detail = f'the request failed on our side; the log has the reason under trace id "{trace_id}"'
    return _problem(500, "internal", detail, path, trace_id)


def _problem(
    status: int,
    code: str,
    detail: str,
    path: str,
    trace_id: str,
    *,
    more: Mapping[str, Any] | None = None,
    headers: dict[str, str] | None = None,
) -> ProblemAnswer:
    body = {
        **(more or {}),
        "type": f"{DOCS_PATH}#{code}",
        "title": CATALOGUE.get(code) or HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "instance": path,
        "traceId": trace_id,
    }
    return ProblemAnswer(status, code, detail, body, headers or {})
