"""Answers on the wire: headers that go with each, refusals and their one line in the log, bodies that nobody read."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import IO, Any

import orjson
import structlog
from flask import Response

from api.problems import MEDIA_TYPE, ProblemAnswer
from api.transactions import Sent
from common.db import reason

HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""On every answer. Nothing is allowed to other origins: CORS is off by being absent."""

_POLICY = "Content-Security-Policy"
_ALWAYS = list(HEADERS.items())
_WITHOUT_POLICY = [(name, value) for name, value in _ALWAYS if name != _POLICY]
_MOST_DISCARDED = 32_000_000
_DISCARD_SECONDS = 2.0
_PIECE = 65_536
log = structlog.get_logger("signalbox.api")


def respond(sent: Sent) -> Response:
    """The response of an answer."""
    response = Response(sent.payload, sent.status, content_type=sent.media_type if sent.payload else None)
    if not sent.payload:
        del response.headers["Content-Type"]
    response.headers.update(sent.headers)
    return response


def refuse(problem: ProblemAnswer, *, cause: BaseException, about: Mapping[str, Any]) -> Response:
    """The response of a refusal, and its line in the log. `about`: method, path, tenant, key's name, duration, trace id."""
    line = {"code": problem.code, "status": problem.status, **about, "path": _printable(about["path"])}
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        # An outage has hundreds of them a minute, and a trace of each tells nothing that the first does not.
        log.error("request.failed", **line, reason=reason(cause))
    elif problem.status >= 500:
        log.error("request.failed", **line, exc_info=cause)
    else:
        log.warning("request.refused", **line, detail=_printable(_logged(problem)))
    response = Response(orjson.dumps(problem.body), problem.status, content_type=MEDIA_TYPE)
    response.headers.update(problem.headers)
    return response


def _logged(problem: ProblemAnswer) -> str:
    """What a log may say of a refusal: of the members of a body, where and what kind of mistake it is, and not what was found there."""
    problems = problem.body.get("problems")
    if not problems:
        return problem.detail
    return "; ".join(f"{one['path'] or 'body'}: {one['code']}" for one in problems[:5])


def _printable(text: str) -> str:
    """A caller's words as one line of a log may show them: short, and without a line feed or an escape of their own."""
    short = text[:300]
    return short if short.isprintable() else repr(short)


def harden(response: Response, *, trace_id: str) -> Response:
    """Put the headers on that every answer carries."""
    has_own_policy = _POLICY in response.headers
    response.headers.extend(_WITHOUT_POLICY if has_own_policy else _ALWAYS)
    response.headers.add("X-Trace-Id", trace_id)
    return response


def discard_body(environ: Mapping[str, Any]) -> None:
    """Read away what a refused request still sends, after it was answered and within bounds.

    A server that closes while its client still sends resets the connection, and the client loses the answer.
    """
    stream: IO[bytes] = environ["wsgi.input"]
    connection: socket.socket | None = environ.get("gunicorn.socket")
    deadline = time.monotonic() + _DISCARD_SECONDS
    left = _MOST_DISCARDED
    try:
        while left > 0 and (patience := deadline - time.monotonic()) > 0:
            if connection is not None:
                connection.settimeout(patience)
            piece = stream.read(_PIECE)
            if not piece:
                break
            left -= len(piece)
    except OSError as error:  # it went away, or sends too slowly: the server closes the connection
        log.debug("body.not_discarded", error=type(error).__name__)
