"""The message of an EMAIL task: checked member by member, and written into the same bytes whenever it is the same message.

Pure but for the template files. Whoever sends data into a definition may write none of a message's headers, nor a part of it:
what ends a header is refused, and the boundaries between parts depend on what is in them.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from datetime import datetime
from email.header import Header
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime, getaddresses, quote
from hashlib import sha256
from pathlib import Path
from typing import Any

from common.canonical import size
from common.errors import did_you_mean
from task_runner.handlers.email_templates import NAME, fill
from task_runner.registry import Permanent

MAX_ATTACHMENTS = 20
MAX_ATTACHED_BYTES = 7_500_000
"""Of all attachments together: 10 MB in base64, what most servers take."""
MAX_SUBJECT = 998
MAX_ADDRESS = 998
"""Characters of an address with its name: what takes longer to read than a name has letters is none."""
# They would end the header, or the SMTP command, that a value is written into.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# The last is how an encoded word begins (RFC 2047), which the library decodes in a file's name, line ends and all.
_NO_NAME = re.compile(rf"{_CONTROL.pattern}|[/\\]|=\?")
_LINE = 60
_PLAIN_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]*")
_MEDIA_TYPE = re.compile(
    r"(application|audio|font|image|model|text|video)/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
)

_ADDRESSES: dict[str, Any] = {
    "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "maxItems": 1000}]
}
_ATTACHMENT: dict[str, Any] = {
    "type": "object",
    "required": ["filename"],
    "additionalProperties": False,
    "oneOf": [{"required": ["content"]}, {"required": ["contentBase64"]}],
    "properties": {
        "filename": {"type": "string", "minLength": 1, "maxLength": 255},
        "contentType": {"type": "string", "pattern": f"^{_MEDIA_TYPE.pattern}$"},
        "content": {"type": "string", "description": "Text, sent in UTF-8."},
        "contentBase64": {"type": "string", "description": "Bytes."},
    },
}
INPUT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["to"],
    "additionalProperties": False,
    "properties": {
        "to": _ADDRESSES,
        "cc": _ADDRESSES,
        "bcc": _ADDRESSES,
        "subject": {"type": "string", "maxLength": MAX_SUBJECT},
        "text": {"type": "string"},
        "html": {"type": "string"},
        "template": {
            "type": "string",
            "pattern": f"^{NAME}$",
            "description": "Files of this name in SIGNALBOX_TEMPLATES, in place of text and html.",
        },
        "data": {"type": "object", "description": "What the template is filled with."},
        "attachments": {"type": "array", "maxItems": MAX_ATTACHMENTS, "items": _ATTACHMENT},
    },
    "allOf": [
        {"if": {"required": ["template"]}, "then": {"not": {"anyOf": [{"required": ["text"]}, {"required": ["html"]}]}}},
        {"if": {"required": ["data"]}, "then": {"required": ["template"]}},
    ],
}  # fmt: skip


def compose(
    input: Any, *, sender: str, key: str, date: datetime, templates: Path | None = None
) -> EmailMessage:
    """Build the message. Raises `Permanent` (`email.invalid`, `email.template_…`) for unusable input, header injection included.

    The same input, key, date and template files give the same bytes.
    """
    _check_members(input)
    policy = SMTP if all(address.isascii() for address in recipients(input)) else SMTPUTF8
    subject, text, html = _content(input, templates)
    # What others have given is written here and handed over as it is to stand there. The library would read it first: it decodes what looks
    # like an encoded word, with the line ends in it, and its parser takes an hour for a name of some hundred thousand letters.
    message = EmailMessage(policy=policy.clone(refold_source="none"))
    try:
        message["From"] = sender
        message.set_raw("To", _written(addresses(input, "to")))
        if "cc" in input:
            message.set_raw("Cc", _written(addresses(input, "cc")))
        message.set_raw("Subject", _line("Subject", subject))
        message["Date"] = format_datetime(date, usegmt=True)
        message["Message-ID"] = f"<{sha256(key.encode()).hexdigest()[:32]}@signalbox>"
    except (ValueError, IndexError) as error:
        raise _invalid(f"a header cannot be written: {error}") from error
    message.set_content(text or "")
    if html is not None:
        message.add_alternative(html, subtype="html")
    _attach(message, input.get("attachments", []))
    # Not to be foretold by who writes a part of the message: it would take a text that holds its own digest.
    told = json.dumps([key, text, html, subject, input], sort_keys=True)
    mark = sha256(told.encode()).hexdigest()[:40]
    for number, part in enumerate(message.walk()):
        if part.is_multipart():
            part.set_boundary(f"={mark}={number}")
    return message


def recipients(input: Mapping[str, Any]) -> list[str]:
    """The bare addresses that the message goes to, those of `bcc` too."""
    members = [member for member in ("to", "cc", "bcc") if member in input]
    return [address for member in members for _, address in addresses(input, member)]


def addresses(input: Mapping[str, Any], member: str) -> list[tuple[str, str]]:
    """Name and bare address of each that a member lists. Raises `Permanent` (`email.invalid`)."""
    value = input.get(member)
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not listed:
        raise _invalid(f"{member}: expected an address or a list of addresses, found {value!r}")
    return [_address(one, member) for one in listed]


def _address(written: Any, member: str) -> tuple[str, str]:
    if not isinstance(written, str) or _CONTROL.search(written):
        raise _invalid(f"{member}: {written!r} is not an e-mail address")
    if len(written) > MAX_ADDRESS:
        raise _invalid(f"{member}: {len(written):,} characters, an e-mail address has {MAX_ADDRESS} at most")
    try:
        read = getaddresses([written])
    except RecursionError:  # comments within comments
        read = []
    if len(read) > 1:
        raise _invalid(
            f"{member}: expected one address in a text, found {len(read)} in {written!r}; a list takes several"
        )
    if not read or "@" not in read[0][1]:
        raise _invalid(f"{member}: {written!r} is not an e-mail address")
    return read[0]


def _written(listed: list[tuple[str, str]]) -> str:
    """Addresses as a header has them, one a line; what was read is what is written, so that nobody is named whom the mail does not go to."""
    return ",\r\n ".join(f"{_phrase(name)} <{address}>" if name else address for name, address in listed)


def _phrase(name: str) -> str:
    if "=?" in name or not name.isascii():
        return Header(name, "utf-8").encode(linesep="\r\n")
    return name if _PLAIN_NAME.fullmatch(name) else f'"{quote(name)}"'


def _line(header: str, text: str) -> str:
    """A header's text, of words where it can be broken and encoded where it cannot stand as it is."""
    charset = "utf-8" if "=?" in text or not text.isascii() or _cannot_be_broken(text) else "us-ascii"
    return Header(text, charset, header_name=header).encode(linesep="\r\n")


def _cannot_be_broken(text: str) -> bool:
    """Would a line of it be too long, or its spaces not be the same when it is put together?"""
    return len(text) > _LINE and (re.search(rf"\S{{{_LINE}}}", text) is not None or "  " in text)


def _check_members(input: Any) -> None:
    if not isinstance(input, Mapping):
        raise _invalid(f"expected an object with to and subject, found {type(input).__name__}")
    known = INPUT_SCHEMA["properties"]
    unknown = sorted(set(input) - set(known))
    if unknown:
        raise _invalid(f"unknown members {unknown}{did_you_mean(unknown[0], known)}; known: {sorted(known)}")
    if "template" in input and ("text" in input or "html" in input):
        raise _invalid("expected template, or text and html, found both")
    if "data" in input and "template" not in input:
        raise _invalid("data: expected a template that it fills, found none")


def _content(input: Mapping[str, Any], templates: Path | None) -> tuple[str, str | None, str | None]:
    """Subject, text and html of the message, from the input or its template; a subject in the input holds."""
    if "template" not in input:
        text, html = (None if input.get(name) is None else str(input[name]) for name in ("text", "html"))
        return _subject(input.get("subject", "")), text, html
    name, data = input["template"], input.get("data", {})
    if not isinstance(name, str):
        raise _invalid(f"template: expected the name of one, found {type(name).__name__}")
    if not isinstance(data, Mapping):
        raise _invalid(f"data: expected an object, found {type(data).__name__}")
    filled = fill(templates, name, data)
    return _subject(input.get("subject", filled.subject or "")), filled.text, filled.html


def _subject(given: Any) -> str:
    subject = str(given)
    if _CONTROL.search(subject):
        raise _invalid("subject: contains control characters")
    if len(subject) > MAX_SUBJECT:
        raise _invalid(f"subject: {len(subject)} characters, at most {MAX_SUBJECT} are allowed")
    return subject


def _attach(message: EmailMessage, attachments: Any) -> None:
    if not isinstance(attachments, list) or len(attachments) > MAX_ATTACHMENTS:
        raise _invalid(f"attachments: expected a list of at most {MAX_ATTACHMENTS}")
    total = 0
    for position, attachment in enumerate(attachments):
        where = f"attachments.{position}"
        if not isinstance(attachment, Mapping):
            raise _invalid(f"{where}: expected an object, found {type(attachment).__name__}")
        unknown = sorted(set(attachment) - set(_ATTACHMENT["properties"]))
        if unknown:
            raise _invalid(f"{where}: unknown members {unknown}; known: {sorted(_ATTACHMENT['properties'])}")
        content = _attached(attachment, where)
        total += len(content)
        if total > MAX_ATTACHED_BYTES:
            raise _invalid(f"attachments: more than {MAX_ATTACHED_BYTES:,} bytes together")
        kind = attachment.get("contentType", "text/plain" if "content" in attachment else _BYTES)
        if not isinstance(kind, str) or not _MEDIA_TYPE.fullmatch(kind):
            raise _invalid(f'{where}.contentType: expected one such as "application/pdf", found {kind!r}')
        main, _, sub = kind.partition("/")
        message.add_attachment(content, maintype=main, subtype=sub, filename=_filename(attachment, where))
        if main == "text" and "content" in attachment:
            list(message.iter_attachments())[-1].set_param("charset", "utf-8")


_BYTES = "application/octet-stream"


def _attached(attachment: Mapping[str, Any], where: str) -> bytes:
    given = [name for name in ("content", "contentBase64") if name in attachment]
    if len(given) != 1 or not isinstance(attachment[given[0]], str):
        raise _invalid(f"{where}: expected content, a text, or contentBase64, bytes in base64")
    text: str = attachment[given[0]]
    if size(text) > 2 * MAX_ATTACHED_BYTES:
        raise _invalid(f"attachments: more than {MAX_ATTACHED_BYTES:,} bytes together")
    if given == ["content"]:
        return text.encode()
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):  # whose text would quote it
        raise _invalid(f"{where}.contentBase64: expected base64 (RFC 4648, section 4)") from None


def _filename(attachment: Mapping[str, Any], where: str) -> str:
    name = attachment.get("filename")
    if not isinstance(name, str) or not 0 < len(name) <= 255 or not name.strip(". ") or _NO_NAME.search(name):
        raise _invalid(
            f"{where}.filename: expected a name of 1 to 255 characters without a path, found {name!r}"
        )
    return name


def _invalid(message: str) -> Permanent:
    return Permanent(message, code="email.invalid")
