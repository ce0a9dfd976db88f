"""What an HTTP task asks for: its input checked member by member, and the request of each hop built from it.

Pure. Whoever writes a definition may put data of others into a URL or a header, so nothing in them ends a line, names
another host than it seems to, or takes over what the client has to say by itself (lengths, encodings, the host).
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from ipaddress import AddressValueError, IPv6Address
from typing import Any, NoReturn
from urllib.parse import urlencode

import httpx2

from common.canonical import dumps
from common.errors import did_you_mean
from task_runner.handlers.http_answer import ENCODINGS
from task_runner.redact import NOTHING_HIDDEN, Redaction
from task_runner.registry import Permanent

HIDDEN = "***"
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_BYTES = 1_000_000
MAX_URL = 8_000
MAX_HEADERS = 100
MAX_HEADER_BYTES = 32_000
_EXPECTED = r"[2-5](xx|[0-9]{2})"

_TEXT: dict[str, Any] = {"type": "string"}


def _only(properties: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object that has these members, all of them and no others."""
    return {
        "type": "object",
        "required": list(properties),
        "additionalProperties": False,
        "properties": properties,
    }


_SCALARS: dict[str, Any] = {"type": ["string", "number", "boolean"]}
INPUT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["method", "url"],
    "additionalProperties": False,
    "not": {"required": ["json", "body"]},
    "properties": {
        "method": {"enum": list(METHODS)},
        "url": {"type": "string", "maxLength": MAX_URL, "pattern": "^[Hh][Tt][Tt][Pp][Ss]?://"},
        "auth": {
            "description": "Credentials, usually ${secret.NAME}. Another origin does not get them.",
            "oneOf": [
                _only({"bearer": _TEXT}),
                _only({"basic": _only({"username": _TEXT, "password": _TEXT})}),
                _only({"header": _only({"name": _TEXT, "value": _TEXT})}),
            ],
        },
        "headers": {
            "type": "object",
            "maxProperties": MAX_HEADERS,
            "additionalProperties": {"type": "string"},
        },
        "query": {
            "type": "object",
            "additionalProperties": {
                "anyOf": [_SCALARS, {"type": "array", "items": _SCALARS}],
            },
        },
        "json": {"description": "Sent as application/json."},
        "body": {"type": "string", "description": "Sent as it is, in UTF-8."},
        "expect": {
            "type": "array",
            "minItems": 1,
            "maxItems": 100,
            "items": {"type": "string", "pattern": f"^{_EXPECTED}$"},
            "default": ["2xx"],
        },
        "maxBytes": {"type": "integer", "minimum": 1, "default": MAX_BYTES},
    },
}
OUTPUT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["status", "headers", "body"],
    "additionalProperties": False,
    "properties": {
        "status": {"type": "integer", "minimum": 200, "maximum": 599},
        "headers": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "By names in small letters; secrets are ***.",
        },
        "body": {"description": "JSON where the answer says so, else text; null where there is none."},
        "encoding": {"const": "base64", "description": "Stands where the body is bytes that are not text."},
    },
}

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}")
_VALUE = re.compile(r"[\t\x20-\x7e]*")
_HOST = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
_INVISIBLE = re.compile("[\x00-\x20\x7f\\\\]")
# What the client says itself, or what is between two machines only.
_OURS = frozenset(
    {
        "accept-encoding", "connection", "content-length", "expect", "host", "keep-alive", "proxy-authenticate",
        "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
_CONTROL = re.compile("[\x00-\x1f\x7f]")
# What goes along to another origin: nothing that could be a credential under whatever name.
_HARMLESS = frozenset({"accept", "accept-language", "content-type", "user-agent"})
_OF_THE_BODY = frozenset({"content-type", "content-encoding", "content-language", "content-location"})


@dataclass(frozen=True, slots=True)
class Asked:
    """A checked input. `url` has the query in it; `headers` are the caller's and ours, without the client's own.

    `credential` is the name of the header that `auth` comes to, in small letters; `hidden` are the texts in it. `shown` is the URL
    as people may see it.
    """

    method: str
    url: httpx2.URL
    headers: Mapping[str, str]
    content: bytes
    expect: tuple[str, ...]
    max_bytes: int
    credential: str = ""
    hidden: tuple[str, ...] = field(default=(), repr=False)
    shown: str = ""

    def expects(self, status: int) -> bool:
        return any(re.fullmatch(wanted.replace("x", "[0-9]"), str(status)) for wanted in self.expect)

    def request(self) -> httpx2.Request:
        """The request as it is sent, its Host taken from the URL."""
        headers = {**self.headers, "Accept-Encoding": ENCODINGS, "Connection": "close"}
        return httpx2.Request(self.method, self.url, headers=headers, content=self.content or None)

    def redirected(self, status: int, location: str) -> Asked:
        """The request that follows a redirect. Raises `Permanent` (`http.redirects`) for one that is not followed.

        303, and 301 and 302 to a POST, become a GET without a body; others keep method and body (Fetch standard, 4.4).
        Another origin gets neither the caller's headers, but for harmless ones, nor a body.
        """
        url = self._located(location)
        becomes_get = (status == 303 and self.method not in SAFE) or (
            status in (301, 302) and self.method == "POST"
        )
        method = "GET" if becomes_get else self.method
        content = b"" if becomes_get else self.content
        dropped = _OF_THE_BODY | {"idempotency-key"} if becomes_get else frozenset()
        headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
        if _origin(url) != _origin(self.url):
            if self.url.scheme == "https" and url.scheme == "http":
                _not_followed("the redirect leads from https to http")
            if content:
                _not_followed("the redirect would carry the request's body to another origin")
            if not _is_upgrade(self.url, url):
                harmless = _HARMLESS - {self.credential}
                headers = {name: value for name, value in headers.items() if name.lower() in harmless}
        return replace(self, method=method, url=url, headers=headers, content=content, shown=shown_url(url))

    def _located(self, location: str) -> httpx2.URL:
        reason = "it is no URL"
        try:
            return check_url(str(self.url.join(location)))
        except Permanent as error:
            reason = str(error)
        except (httpx2.InvalidURL, ValueError):
            pass  # its text would quote the URL
        raise Permanent(f"the redirect's Location cannot be used: {reason}", code="http.redirects")


def check_input(
    input: Any, *, idempotency_key: str, max_output_bytes: int, redaction: Redaction = NOTHING_HIDDEN
) -> Asked:
    """Read the input of a task. Raises `Permanent` (`http.invalid`) naming the member, what was expected and what found.

    Nothing of what `redaction` hides stands in how the URL is shown.
    """
    if not isinstance(input, Mapping):
        _invalid(f"expected an object with method and url, found {_kind(input)}")
    for member in input:
        if member not in INPUT_SCHEMA["properties"]:
            _invalid(f'unknown member "{member}"{did_you_mean(member, INPUT_SCHEMA["properties"])}')
    method = input.get("method")
    if method not in METHODS:
        _invalid(
            f"method: expected one of {', '.join(METHODS)}, found {_shown(method)}"
            f"{did_you_mean(method.upper(), METHODS) if isinstance(method, str) else ''}"
        )
    url = check_url(input.get("url"))
    if "query" in input:
        url = check_url(str(url.copy_with(query=_joined(url.query, _query(input["query"])))))
    content, kind = _content(input)
    headers = _headers(input.get("headers", {}))
    given = {name.lower() for name in headers}
    credential = _auth(input["auth"]) if "auth" in input else _NO_CREDENTIAL
    if credential.name:
        if credential.name.lower() in given:
            _invalid(f'expected auth or the header "{credential.name}", found both')
        headers[credential.name] = credential.value
        given.add(credential.name.lower())
    if kind and "content-type" not in given:
        headers["Content-Type"] = kind
    if "user-agent" not in given:
        headers["User-Agent"] = "signalbox"
    if "accept" not in given:
        headers["Accept"] = "*/*"
    if method not in SAFE and "idempotency-key" not in given:
        headers["Idempotency-Key"] = _as_header(idempotency_key)
    return Asked(
        method, url, headers, content, _expected(input), min(_max_bytes(input), max_output_bytes),
        credential.name.lower(), credential.hidden, _shown_as_written(input["url"], url, redaction),
    )  # fmt: skip


def shown_url(url: httpx2.URL) -> str:
    """A URL as people may see it: whatever stands in its query stays unsaid."""
    bare = str(url.copy_with(query=None, fragment=None))
    return f"{bare}?{HIDDEN}" if url.query else bare


def _shown_as_written(written: str, url: httpx2.URL, redaction: Redaction) -> str:
    """As `shown_url`; a URL with a secret in it as it was written, because reading it changes what the secret is found by."""
    redacted = redaction.text(written)
    if redacted == written:
        return shown_url(url)
    bare = re.split(r"[?#]", redacted, maxsplit=1)[0]
    return f"{bare}?{HIDDEN}" if url.query else bare


@dataclass(frozen=True, slots=True)
class _Credential:
    """The header that `auth` comes to, and the texts of it that nobody may see."""

    name: str
    value: str = field(repr=False)
    hidden: tuple[str, ...] = field(repr=False)


_NO_CREDENTIAL = _Credential("", "", ())


def _auth(written: Any) -> _Credential:
    """Read `auth`. No value of it is shown, whatever is wrong with it."""
    match written:
        case {"bearer": token} if len(written) == 1:
            bearer = _credential_text(token, "auth.bearer")
            return _Credential("Authorization", f"Bearer {bearer}", (bearer,))
        case {"basic": {"username": user, "password": password}} if len(written) == 1:
            return _basic(written["basic"], user, password)
        case {"header": {"name": str(name), "value": value}} if len(written) == 1:
            if len(written["header"]) != 2 or not _TOKEN.fullmatch(name) or name.lower() in _OURS:
                _invalid("auth.header: expected the name of a header that is yours to say, and its value")
            text = _credential_text(value, "auth.header.value")
            return _Credential(name, text, (text,))
    raise Permanent(
        "auth: expected one of {bearer: text}, {basic: {username, password}}, {header: {name, value}}",
        code="http.invalid",
    )


def _basic(given: Mapping[str, Any], user: Any, password: Any) -> _Credential:
    texts = [text for text in (user, password) if isinstance(text, str) and not _CONTROL.search(text)]
    if len(texts) != 2 or len(given) != 2:
        _invalid("auth.basic: expected username and password, texts in one line, and nothing else")
    if ":" in user:
        _invalid("auth.basic.username: a name cannot hold a colon, which would end it (RFC 7617)")
    pair = b64encode(f"{user}:{password}".encode()).decode("ascii")
    return _Credential("Authorization", f"Basic {pair}", (pair, password))


def _credential_text(text: Any, where: str) -> str:
    if not isinstance(text, str) or not text.strip() or not _VALUE.fullmatch(text):
        _invalid(f"{where}: expected text of visible ASCII characters in one line")
    return text.strip()


def check_url(url: Any) -> httpx2.URL:
    """Read an absolute http or https URL without user and password. Raises `Permanent` (`http.invalid`)."""
    if not isinstance(url, str) or not url:
        _invalid(f"url: expected text such as https://example.com/orders, found {_shown(url)}")
    if len(url) > MAX_URL:
        _invalid(f"url: {len(url)} characters, at most {MAX_URL} are allowed")
    if _INVISIBLE.search(url):
        _invalid("url: contains a space, a control character or a backslash; write them percent-encoded")
    read = _read_url(url)
    if read is None:
        _invalid("url: cannot be read; expected one such as https://example.com/orders")
    host = read.raw_host.decode("ascii")
    if read.scheme not in ("http", "https"):
        _invalid(f'url: expected http or https, found the scheme "{read.scheme[:40]}"')
    if "@" in url.partition("//")[2].partition("/")[0].partition("?")[0].partition("#")[0]:
        _invalid("url: user and password in a URL end up in logs; send an Authorization header")
    if not _HOST.fullmatch(host) and not _is_ipv6(host):
        _invalid("url: expected a host name or an IP address after the //")
    if read.port is not None and not 1 <= read.port <= 65_535:
        _invalid(f"url: expected a port from 1 to 65535, found {read.port}")
    return read.copy_with(fragment=None)


def origin(url: Any) -> str | None:
    """`scheme://host:port` of a URL that may be asked, else None."""
    try:
        scheme, host, port = _origin(check_url(url))
    except Permanent:
        return None
    name = host.decode("ascii").lower()
    return f"{scheme}://[{name}]:{port}" if ":" in name else f"{scheme}://{name}:{port}"


def _read_url(url: str) -> httpx2.URL | None:
    try:
        return httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError):  # whose text would quote it
        return None


def _query(written: Any) -> str:
    if not isinstance(written, Mapping):
        _invalid(f"query: expected an object, found {_kind(written)}")
    pairs: list[tuple[str, str]] = []
    for name, value in written.items():
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, bool):
                pairs.append((name, "true" if item else "false"))
            elif isinstance(item, str | int | float):
                pairs.append((name, str(item)))
            else:
                _invalid(
                    f"query.{name}: expected text, a number, a boolean or a list of them, found {_kind(item)}"
                )
    return urlencode(pairs)


def _joined(query: bytes, more: str) -> bytes:
    return b"&".join(part for part in (query, more.encode("ascii")) if part)


def _content(input: Mapping[str, Any]) -> tuple[bytes, str]:
    if "json" in input and "body" in input:
        _invalid("expected json or body, found both")
    if "json" in input:
        return dumps(input["json"]).encode(), "application/json"
    if "body" not in input:
        return b"", ""
    if not isinstance(input["body"], str):
        _invalid(f"body: expected text, found {_kind(input['body'])}; json takes any value")
    return input["body"].encode(), "text/plain; charset=utf-8"


def _headers(written: Any) -> dict[str, str]:
    if not isinstance(written, Mapping):
        _invalid(f"headers: expected an object, found {_kind(written)}")
    seen: set[str] = set()
    total = 0
    for name, value in written.items():
        if not _TOKEN.fullmatch(name):
            _invalid(f"headers: {name[:100]!r} is not the name of a header")
        if name.lower() in _OURS:
            _invalid(f'headers: "{name}" is said by Signalbox itself; leave it out')
        if name.lower() in seen:
            _invalid(f'headers: "{name}" is given twice')
        # The value is not shown: it may be a credential.
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            _invalid(f'headers: the value of "{name}" must be text of visible ASCII characters in one line')
        seen.add(name.lower())
        total += len(name) + len(value)
    if len(seen) > MAX_HEADERS or total > MAX_HEADER_BYTES:
        _invalid(
            f"headers: at most {MAX_HEADERS} of {MAX_HEADER_BYTES} bytes together, found {len(seen)} of {total}"
        )
    return {name: value.strip() for name, value in written.items()}


def _expected(input: Mapping[str, Any]) -> tuple[str, ...]:
    written = input.get("expect", ["2xx"])
    is_list = isinstance(written, list | tuple) and 1 <= len(written) <= 100
    if not is_list or not all(isinstance(item, str) and re.fullmatch(_EXPECTED, item) for item in written):
        _invalid(f'expect: expected a list such as ["2xx", "404"], found {_shown(written)}')
    return tuple(written)


def _max_bytes(input: Mapping[str, Any]) -> int:
    written = input.get("maxBytes", MAX_BYTES)
    if isinstance(written, bool) or not isinstance(written, int) or written < 1:
        _invalid(f"maxBytes: expected a whole number from 1, found {_shown(written)}")
    return int(written)


def _as_header(key: str) -> str:
    """An idempotency key as a header can carry it; a digest stands for one that does not fit."""
    fits = key and key == key.strip() and len(key) <= 255 and _VALUE.fullmatch(key)
    return key if fits else sha256(key.encode()).hexdigest()


def _origin(url: httpx2.URL) -> tuple[str, bytes, int]:
    return url.scheme, url.raw_host, url.port or (443 if url.scheme == "https" else 80)


def _is_upgrade(before: httpx2.URL, after: httpx2.URL) -> bool:
    """From http to https of the same host, both on their own ports: as good as the same origin."""
    host = before.raw_host
    return (_origin(before), _origin(after)) == (("http", host, 80), ("https", host, 443))


def _is_ipv6(host: str) -> bool:
    try:
        return IPv6Address(host).scope_id is None
    except AddressValueError:
        return False


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


def _shown(value: Any) -> str:
    """A value in an error: short, and only where it is plain."""
    return repr(value)[:80] if isinstance(value, str | int | float | list | tuple) else _kind(value)


def _invalid(message: str) -> NoReturn:
    raise Permanent(message, code="http.invalid")


def _not_followed(message: str) -> NoReturn:
    raise Permanent(message, code="http.redirects")
