"""EMAIL: sends a message over SMTP, or without `SMTP_URL` writes it as an `.eml` file into the data folder.

The message id is derived from the task's idempotency key, so a second attempt sends the same message and not another
one: a mail server or a reader can tell, and the file is overwritten rather than doubled.
"""

from __future__ import annotations

import os
import re
import smtplib
import ssl
from collections.abc import Mapping
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, parseaddr
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

from common.config import Settings
from task_runner.context import TaskContext
from task_runner.registry import REGISTRY, Permanent, Retryable, make_handler

TIMEOUT_SECONDS = 30
# They would end the header, or the SMTP command, that a value is written into.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_MEMBERS = {"to", "cc", "bcc", "subject", "text", "html"}

_ADDRESSES: dict[str, Any] = {
    "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "maxItems": 1000}]
}
INPUT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["to"],
    "additionalProperties": False,
    "properties": {
        "to": _ADDRESSES,
        "cc": _ADDRESSES,
        "bcc": _ADDRESSES,
        "subject": {"type": "string", "maxLength": 998},
        "text": {"type": "string"},
        "html": {"type": "string"},
    },
}
OUTPUT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["messageId"],
    "properties": {"messageId": {"type": "string"}},
}


def send_email(input: Any, context: TaskContext) -> dict[str, Any]:
    """Send an e-mail and return its `messageId`, and `refused` recipients where the server took it for others.

    Input {to, cc?, bcc?, subject?, text?, html?}; `to`, `cc` and `bcc` are an address or a list of them.
    Fails permanently (`email.invalid`, `email.refused`) or to be tried again (`email.deferred`, `email.unreachable`).
    """
    settings = Settings.load()
    message = compose(input, sender=settings.mail_from, key=context.idempotency_key)
    recipients = _recipients(input)
    if settings.smtp_url is None:
        path = write_eml(settings.data / "mail", message, recipients, context.task_id)
        context.log.info("email.written", file=path.name)
    else:
        refused = _deliver(settings.smtp_url.get_secret_value(), message, recipients)
        context.log.info("email.sent", recipients=len(recipients), refused=len(refused))
        if refused:  # to try again would send it a second time to those who have it
            return {"messageId": str(message["Message-ID"]), "refused": refused}
    return {"messageId": str(message["Message-ID"])}


def compose(input: Any, *, sender: str, key: str) -> EmailMessage:
    """Build the message. Raises `Permanent` (`email.invalid`) for unusable input, header injection included."""
    if not isinstance(input, Mapping):
        raise Permanent(
            f"expected an object with to and subject, found {type(input).__name__}", code="email.invalid"
        )
    unknown = sorted(set(input) - _MEMBERS)
    if unknown:
        raise Permanent(f"unknown members {unknown}; known: {sorted(_MEMBERS)}", code="email.invalid")
    message = EmailMessage(policy=SMTP)
    try:
        message["From"] = sender
        message["To"] = ", ".join(_addresses(input, "to"))
        if "cc" in input:
            message["Cc"] = ", ".join(_addresses(input, "cc"))
        message["Subject"] = _subject(input)
        message["Date"] = formatdate(usegmt=True)
        message["Message-ID"] = f"<{sha256(key.encode()).hexdigest()[:32]}@signalbox>"
    except (ValueError, IndexError) as error:
        raise Permanent(f"a header cannot be written: {error}", code="email.invalid") from error
    message.set_content(str(input.get("text", "")))
    if "html" in input:
        message.add_alternative(str(input["html"]), subtype="html")
    return message


def write_eml(folder: Path, message: EmailMessage, recipients: list[str], task_id: str) -> Path:
    """Write the message as `<task id>.eml`, whole or not at all; a second attempt replaces it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{task_id}.eml"
    draft = folder / f".{task_id}.{os.getpid()}"
    headed = f"X-Envelope-To: {', '.join(recipients)}\r\n".encode() + message.as_bytes()
    draft.write_bytes(headed)
    draft.replace(path)
    return path


def _deliver(url: str, message: EmailMessage, recipients: list[str]) -> dict[str, int]:
    """Hand the message to the server; the recipients it refused, with its codes, where it took others."""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or (465 if parts.scheme == "smtps" else 25)
    try:
        with _connect(parts.scheme, host, port) as server:
            if parts.username:
                server.login(unquote(parts.username), unquote(parts.password or ""))
            refused = server.send_message(message, to_addrs=recipients)
    except (smtplib.SMTPRecipientsRefused, smtplib.SMTPSenderRefused, smtplib.SMTPDataError) as error:
        _refused(error)
    except (smtplib.SMTPException, OSError) as error:
        raise Retryable(
            f"the mail server does not answer as expected: {type(error).__name__}", code="email.unreachable"
        ) from error
    return {address: code for address, (code, _) in refused.items()}


def _connect(scheme: str, host: str, port: int) -> smtplib.SMTP:
    if scheme == "smtps":
        return smtplib.SMTP_SSL(host, port, timeout=TIMEOUT_SECONDS, context=ssl.create_default_context())
    server = smtplib.SMTP(host, port, timeout=TIMEOUT_SECONDS)
    if scheme == "smtp+starttls":
        server.starttls(context=ssl.create_default_context())
    return server


def _refused(error: smtplib.SMTPRecipientsRefused | smtplib.SMTPResponseException) -> NoReturn:
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        codes = [code for code, _ in error.recipients.values()]
    else:
        codes = [error.smtp_code]
    if all(code < 500 for code in codes):  # a temporary refusal: greylisting, a full queue
        raise Retryable(f"the mail server refuses for now: {codes}", code="email.deferred") from error
    raise Permanent(
        f"the mail server refuses: {codes}", code="email.refused", data={"codes": codes}
    ) from error


def _subject(input: Mapping[str, Any]) -> str:
    subject = str(input.get("subject", ""))
    if _CONTROL.search(subject):
        raise Permanent("subject: contains control characters", code="email.invalid")
    return subject


def _addresses(input: Mapping[str, Any], member: str) -> list[str]:
    value = input.get(member)
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not listed:
        raise Permanent(
            f"{member}: expected an address or a list of addresses, found {value!r}", code="email.invalid"
        )
    for address in listed:
        if not isinstance(address, str) or "@" not in parseaddr(address)[1] or _CONTROL.search(address):
            raise Permanent(f"{member}: {address!r} is not an e-mail address", code="email.invalid")
    return listed


def _recipients(input: Mapping[str, Any]) -> list[str]:
    members = [member for member in ("to", "cc", "bcc") if member in input]
    return [parseaddr(address)[1] for member in members for address in _addresses(input, member)]


REGISTRY.add(make_handler("EMAIL", send_email, None, INPUT_SCHEMA, OUTPUT_SCHEMA, built_in=True))
