"""HTTP: sends one request and returns the answer, and lets nobody use it to look behind the walls of this machine.

`http_request` checks the input, `http_network` carries one exchange to an address that `http_guard` let pass, `http_answer`
reads the body within bounds. This module follows redirects and says what became of it, without a word that is secret:
no query, no credential, no cookie stands in an error, in a log line or in the output.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, NoReturn
from urllib.parse import unquote, unquote_plus

import httpx2

from common.canonical import storable
from common.config import Settings, limits_of_process, read_networks, settings_of_process
from task_runner.context import TaskContext
from task_runner.handlers.http_answer import BodyTooLarge, Unreadable, decode, read_body, read_start
from task_runner.handlers.http_guard import Refused, resolve_name
from task_runner.handlers.http_network import (
    MAX_HEAD_BYTES,
    Broken,
    Cancelled,
    Deadline,
    Egress,
    HeadTooLarge,
    Overdue,
    Unreachable,
    Untrusted,
    exchange,
    trust_of_the_system,
)
from task_runner.handlers.http_proxy import read_proxy
from task_runner.handlers.http_request import (
    HIDDEN,
    INPUT_SCHEMA,
    OUTPUT_SCHEMA,
    Asked,
    check_input,
    origin,
)
from task_runner.redact import Redaction
from task_runner.registry import REGISTRY, HandlerError, Options, Permanent, Retryable, make_handler

MAX_REDIRECTS = 5
MAX_EXCERPT = 2_000
_EXCERPT_BYTES = 16_000
REDIRECTS = frozenset({301, 302, 303, 307, 308})
TO_BE_TRIED_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
# Of a request and of an answer: never shown.
_SECRET = re.compile(
    "authorization|cookie|token|secret|password|api-?key|signature|session|credential", re.IGNORECASE
)

Json = Any


def send_http(input: Any, context: TaskContext) -> dict[str, Json]:
    """Send an HTTP request and return {status, headers, body, encoding?}.

    Input {method, url, headers?, auth?, query?, json? | body?, expect?, maxBytes?}. Fails with a code `http.…` and data
    {url, status?, body?, retryAfterSeconds?, …}; what may pass is to be tried again, everything else is permanent.
    """
    settings = settings_of_process()
    return perform(
        input,
        context,
        egress_of(settings),
        seconds=settings.http_timeout_seconds,
        max_output_bytes=limits_of_process().max_output_bytes,
    )


def egress_of(settings: Settings) -> Egress:
    """How this process reaches the world, as its settings say it."""
    proxy = None if settings.http_proxy is None else read_proxy(settings.http_proxy.get_secret_value())
    return Egress(read_networks(settings.http_allow), resolve_name, trust_of_the_system, proxy)


def perform(
    input: Any, context: TaskContext, egress: Egress, *, seconds: float, max_output_bytes: int
) -> dict[str, Json]:
    """Do what `send_http` promises, reaching the world by `egress` and for `seconds` at most. Raises `HandlerError`."""
    asked = check_input(
        input,
        idempotency_key=context.idempotency_key,
        max_output_bytes=max_output_bytes,
        redaction=context.redaction,
    )
    deadline = Deadline(seconds, lambda: context.cancelled)
    began = time.monotonic()
    hops = 0
    while True:
        try:
            answer = _exchanged(asked, egress, deadline, seconds, context.redaction)
        except HandlerError as error:
            _log(context, asked, began, hops, code=error.code)
            raise
        if isinstance(answer, dict):
            _log(context, asked, began, hops, status=answer["status"])
            return answer
        hops += 1
        if hops > MAX_REDIRECTS:
            _log(context, asked, began, hops, code="http.redirects")
            raise _failure(
                Permanent, "redirects", f"more than {MAX_REDIRECTS} redirects", asked, redirects=hops
            )
        asked = answer


def _exchanged(
    asked: Asked, egress: Egress, deadline: Deadline, seconds: float, redaction: Redaction
) -> dict[str, Json] | Asked:
    """One exchange: the output, or what is to be asked next. Raises `HandlerError`, with nothing chained to it.

    What the libraries raise may quote what was sent and received, and the trace of an attempt is stored.
    """
    try:
        with exchange(asked.request(), egress, deadline) as answer:
            return _next(asked, answer, redaction)
    except HandlerError as error:
        raise error from None
    except Refused as error:
        way = "is" if asked.url.host == error.address else f"leads to {error.address}, which is"
        refusal = f'"{asked.url.host}" {way} in the special network {error.network}'
        hint = "; the operator may allow it in SIGNALBOX_HTTP_ALLOW"
        raise _failure(Permanent, "refused_address", refusal + hint, asked, address=error.address) from None
    except Overdue as error:
        late = f"no whole answer within {seconds:g} s: waited for {error.during} last"
        raise _failure(Retryable, "timeout", late, asked) from None
    except Cancelled:
        raise _failure(Retryable, "cancelled", "nobody waits for the answer any more", asked) from None
    except HeadTooLarge:
        large = f"the headers of the answer have more than {MAX_HEAD_BYTES} bytes"
        raise _failure(Permanent, "headers_too_large", large, asked) from None
    except Unreachable as error:
        raise _failure(Retryable, "connect", str(error), asked) from None
    except Untrusted as error:
        raise _failure(Permanent, "tls", str(error), asked) from None
    except Broken as error:
        raise _failure(Retryable, "protocol", str(error), asked) from None


def _next(asked: Asked, answer: httpx2.Response, redaction: Redaction) -> dict[str, Json] | Asked:
    status = answer.status_code
    encoding = answer.headers.get("content-encoding", "")
    if not asked.expects(status):
        if status in REDIRECTS and "location" in answer.headers:
            try:
                return asked.redirected(status, answer.headers["location"])
            except Permanent as error:
                raise _failure(Permanent, "redirects", str(error), asked, status=status) from None
        _unexpected(asked, answer, encoding, redaction)
    try:
        body = read_body(answer.iter_raw(), encoding, max_bytes=asked.max_bytes)
        decoded, coded = decode(body, answer.headers.get("content-type", ""), max_bytes=asked.max_bytes)
    except BodyTooLarge:
        message = f"the answer has more than {asked.max_bytes} bytes; ask for less, or raise maxBytes"
        raise _failure(
            Permanent, "too_large", message, asked, status=status, maxBytes=asked.max_bytes
        ) from None
    except Unreadable as error:
        raise _failure(Permanent, error.code, str(error)[:500], asked, status=status) from None
    output = {"status": status, "headers": _shown_headers(answer.headers), "body": decoded}
    return output if coded is None else output | {"encoding": coded}


def _unexpected(asked: Asked, answer: httpx2.Response, encoding: str, redaction: Redaction) -> NoReturn:
    """A status that the task does not expect, as an error with the start of its body."""
    status = answer.status_code
    more: dict[str, Json] = {"status": status}
    start = _start_of(answer, encoding)
    if start:
        # Secrets before the values of the query, which may stand in the middle of one: the rest of it would not be found.
        shown = redaction.cut_text(storable(start.decode("utf-8", "replace")), 2 * _EXCERPT_BYTES)
        more["body"] = _redacted(shown, asked)[:MAX_EXCERPT]
    wait = retry_after(answer.headers)
    if wait is not None:
        more["retryAfterSeconds"] = wait
    message = f"expected {' or '.join(asked.expect[:10])}, found {status}"
    if status not in TO_BE_TRIED_AGAIN:
        raise _failure(Permanent, str(status), message, asked, **more)
    after = None if wait is None else timedelta(seconds=wait)
    raise _failure(partial(Retryable, after=after), str(status), message, asked, **more)


def retry_after(headers: Mapping[str, str]) -> int | None:
    """The seconds that `Retry-After` asks to wait, from a number or a date (RFC 9110, 10.2.3); None for neither.

    A date is taken against the server's own `Date` where there is one: its clock may be wrong, the difference is what it means.
    """
    written = headers.get("retry-after", "").strip()
    if re.fullmatch("[0-9]{1,9}", written):
        return int(written)
    until = _instant(written)
    if until is None:
        return None
    now = _instant(headers.get("date", "")) or datetime.now(UTC)
    return min(max(math.ceil((until - now).total_seconds()), 0), 999_999_999)


def _instant(written: str) -> datetime | None:
    if not written or len(written) > 100:
        return None
    try:
        read = parsedate_to_datetime(written)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return read if read.tzinfo is not None else read.replace(tzinfo=UTC)


def _start_of(answer: httpx2.Response, encoding: str) -> bytes:
    """The start of an error's body. The status is known: what goes wrong from here on changes nothing about it."""
    try:
        return read_start(answer.iter_raw(), encoding, max_bytes=_EXCERPT_BYTES)
    except (Broken, Overdue, Cancelled):
        return b""


def _failure(
    kind: Callable[..., HandlerError], code: str, message: str, asked: Asked, **data: Json
) -> HandlerError:
    told = f"{asked.method} {asked.shown}: {message}"
    return kind(told, code=f"http.{code}", data={"url": asked.shown, **data})


def _shown_headers(headers: httpx2.Headers) -> dict[str, str]:
    shown: dict[str, str] = {}
    for name, value in headers.items():
        shown[storable(name)] = HIDDEN if _SECRET.search(name) else storable(_without_query(name, value))
    return shown


def _without_query(name: str, value: str) -> str:
    """Where an answer sends us may carry a code or a signature in its query."""
    return re.sub(r"\?.*", f"?{HIDDEN}", value) if name in ("location", "content-location") else value


def _redacted(text: str, asked: Asked) -> str:
    """Text of a server without the secrets of the request: some servers send back what they got."""
    secrets = [*asked.hidden]
    secrets += [value for name, value in asked.headers.items() if _SECRET.search(name)]
    secrets += [part for value in secrets for part in value.split() if len(part) >= 8]
    query = asked.url.query.decode("ascii", "replace")
    values = [pair.partition("=")[2] for pair in query.split("&")]
    secrets += [query, unquote(query), *values, *map(unquote_plus, values)]
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= 4:
            text = text.replace(secret, HIDDEN)
    return text


def _log(context: TaskContext, asked: Asked, began: float, hops: int, **more: Json) -> None:
    context.log.info(
        "http.answered" if "status" in more else "http.failed",
        method=asked.method,
        url=asked.shown,
        redirects=hops,
        seconds=round(time.monotonic() - began, 3),
        **more,
    )


def target(input: Any) -> str | None:
    """What an HTTP task calls: scheme, host and port of its URL."""
    return origin(input.get("url")) if isinstance(input, Mapping) else None


REGISTRY.add(
    make_handler(
        "HTTP", send_http, None, INPUT_SCHEMA, OUTPUT_SCHEMA, built_in=True, options=Options(breaker=target)
    )
)
