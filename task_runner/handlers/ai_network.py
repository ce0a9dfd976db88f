"""How the libraries of providers reach the network: by the guarded exchange of HTTP tasks, and by nothing else.

They get an httpx2 client of ours, whose transport checks the address, bounds time and size, follows nothing and takes nothing
from the environment. Headers are let through by name: the libraries read variables of the process (organisations,
custom headers, other keys), and none of that is the task's to send.
"""

from __future__ import annotations

import re
from typing import Any

import httpx2

from common.canonical import storable
from task_runner.handlers.http_answer import (
    ENCODINGS,
    BodyTooLarge,
    Unreadable,
    read_body,
    read_start,
)
from task_runner.handlers.http_guard import Refused
from task_runner.handlers.http_network import (
    Broken,
    Cancelled,
    Deadline,
    Egress,
    HeadTooLarge,
    Overdue,
    Unreachable,
    Untrusted,
    exchange,
)
from task_runner.redact import Redaction
from task_runner.registry import HandlerError, Permanent, Retryable

MAX_ANSWER_BYTES = 4_000_000
MAX_EXCERPT = 500
_EXCERPT_BYTES = 16_000
HIDDEN = "***"
TO_BE_TRIED_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_LET_THROUGH = frozenset(
    {"accept", "anthropic-version", "authorization", "content-type", "host", "user-agent", "x-api-key"}
)


class GuardedTransport(httpx2.BaseTransport):
    """Carries one provider's requests to one place. `failure` is what went wrong last, in our words.

    `credentials` are the headers that prove who asks; whatever a library would send under these names is replaced. No failure
    shows anything of what is `hidden`.
    """

    def __init__(
        self,
        egress: Egress,
        deadline: Deadline,
        *,
        url: str,
        key: str | None,
        credentials: dict[str, str],
        hidden: Redaction,
    ) -> None:
        self.failure: HandlerError | None = None
        self._egress = egress
        self._deadline = deadline
        self._origin = _origin(httpx2.URL(url))
        self._key = key
        self._credentials = credentials
        self._hidden = hidden

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            return self._exchanged(request)
        except HandlerError as error:
            self.failure = error
            raise
        except Refused as error:
            message = f"{error.address} is in the special network {error.network}; SIGNALBOX_HTTP_ALLOW may allow it"
            self._fail(Permanent, "refused_address", message)
        except Overdue as error:
            self._fail(Retryable, "timeout", f"no whole answer in time: waited for {error.during} last")
        except Cancelled:
            self._fail(Retryable, "cancelled", "nobody waits for the answer any more")
        except (Unreachable, Broken) as error:
            self._fail(Retryable, "connect", str(error))
        except Untrusted as error:
            self._fail(Permanent, "tls", str(error))
        except HeadTooLarge:
            self._fail(Permanent, "too_large", "the headers of the answer are too large")
        except BodyTooLarge:
            self._fail(Permanent, "too_large", f"the answer has more than {MAX_ANSWER_BYTES:,} bytes")
        except Unreadable as error:
            self._fail(Retryable, "unreadable", str(error))
        raise AssertionError("every way ends before")  # pragma: no cover

    def _exchanged(self, request: httpx2.Request) -> httpx2.Response:
        if _origin(request.url) != self._origin:
            raise Permanent("the library wanted to ask somewhere else", code="ai.elsewhere")
        headers = {name: value for name, value in request.headers.items() if name.lower() in _LET_THROUGH}
        for name in ("authorization", "x-api-key"):
            headers.pop(name, None)
        headers |= {**self._credentials, "accept-encoding": ENCODINGS, "connection": "close"}
        asked = httpx2.Request(request.method, request.url, headers=headers, content=request.read() or None)
        with exchange(asked, self._egress, self._deadline) as answer:
            encoding = answer.headers.get("content-encoding", "")
            if answer.status_code != 200:
                raise self._unexpected(answer, encoding)
            body = read_body(answer.iter_raw(), encoding, max_bytes=MAX_ANSWER_BYTES)
            kind = answer.headers.get("content-type", "application/json")
            return httpx2.Response(200, headers={"content-type": kind}, content=body)

    def _unexpected(self, answer: httpx2.Response, encoding: str) -> HandlerError:
        status = answer.status_code
        start = read_start(answer.iter_raw(), encoding, max_bytes=_EXCERPT_BYTES)
        # Before it is cut, and before what looks like a key: half a secret would not be found.
        shown = self._hidden.cut_text(storable(start.decode("utf-8", "replace")), 2 * _EXCERPT_BYTES)
        said = self._redacted(shown)[:MAX_EXCERPT]
        data: dict[str, Any] = {"status": status, "body": said}
        wait = answer.headers.get("retry-after", "").strip()
        if re.fullmatch("[0-9]{1,9}", wait):
            data["retryAfterSeconds"] = int(wait)
        kind = Retryable if status in TO_BE_TRIED_AGAIN or status >= 500 else Permanent
        return kind(f"the provider answers {status}", code=f"ai.{status}", data=data)

    def _redacted(self, text: str) -> str:
        """Text of a provider without the key: some send back what they got, or its beginning and end."""
        if self._key:
            text = text.replace(self._key, HIDDEN)
        return re.sub(r"\b(sk|pk|key)-[A-Za-z0-9_*.\-]{4,}", HIDDEN, text)

    def _fail(self, kind: type[HandlerError], code: str, message: str) -> None:
        self.failure = kind(message, code=f"ai.{code}")
        # Not the library's business: it would try again, or wrap it in words with the request in them.
        raise self.failure from None


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host.lower(), url.port


def client_of(transport: GuardedTransport) -> httpx2.Client:
    """The client to give to a library."""
    return httpx2.Client(transport=transport, trust_env=False, follow_redirects=False, timeout=None)
