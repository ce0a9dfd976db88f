"""The proxy that HTTP tasks go through where a setting names one: what is said to it, and what it may answer. Pure.

It is asked for a tunnel to the address that was checked, by number and for http as well as https. So it has no name to
resolve, and the guard holds behind a proxy as it does without; the proxy's own address is the operator's word.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

MAX_ANSWER_BYTES = 16_000
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r]")


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where it is, and the value of Proxy-Authorization where it wants one."""

    host: str
    port: int
    authorization: str | None = None

    def asked_for(self, address: str, port: int) -> bytes:
        """The request for a tunnel to an address."""
        place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
        if self.authorization is not None:
            lines.append(f"Proxy-Authorization: {self.authorization}")
        return "\r\n".join((*lines, "", "")).encode("ascii")


def read_proxy(url: str) -> Proxy:
    """Read a checked setting, `http://user:password@host:port`."""
    parts = urlsplit(url)
    authorization = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + b64encode(pair.encode()).decode("ascii")
    return Proxy(parts.hostname or "", parts.port or 80, authorization)


def refusal(answer: bytes) -> str | None:
    """Why an answer opens no tunnel; None where it does. `answer` is all that came until an empty line, or until its end."""
    found = _STATUS.match(answer)
    if found is None or b"\r\n\r\n" not in answer:
        return "the proxy's answer is not HTTP"
    if not found[1].startswith(b"2"):
        return f"the proxy answers {found[1].decode('ascii')}"
    if not answer.endswith(b"\r\n\r\n"):
        return "the proxy's answer has something behind it"
    return None
