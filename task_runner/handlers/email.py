"""EMAIL: sends a message over SMTP, or without `SMTP_URL` writes it as an `.eml` file into the data folder.

`email_message` writes the message, `email_templates` fills templates, this module hands it over. The message id is derived from the
task's idempotency key, and everything else from the input, so a second attempt sends the same bytes and not another message: a
mail server or a reader can tell, and the file is overwritten rather than doubled.
"""

from __future__ import annotations

import os
import smtplib
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import SplitResult, unquote, urlsplit

from common.clock import instant_text, parse_instant
from common.config import settings_of_process
from task_runner.context import TaskContext
from task_runner.handlers.email_message import INPUT_SCHEMA, compose, recipients
from task_runner.registry import REGISTRY, Options, Permanent, Retryable, make_handler

TIMEOUT_SECONDS = 30
LATELY = timedelta(hours=1)
OUTPUT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["messageId"],
    "properties": {"messageId": {"type": "string"}},
}


def send_email(input: Any, context: TaskContext) -> dict[str, Any]:
    """Send an e-mail and return its `messageId`, and `refused` recipients where the server took it for others.

    Input {to, cc?, bcc?, subject?, text?, html? | template?, data?, attachments?}; `to`, `cc` and `bcc` are an address or a
    list of them. Fails permanently (`email.invalid`, `email.template_unknown`, `email.template_failed`, `email.refused`) or to be
    tried again (`email.deferred`, `email.unreachable`).
    """
    settings = settings_of_process()
    message = compose(
        input,
        sender=settings.mail_from,
        key=context.idempotency_key,
        date=date_of(context),
        templates=settings.templates,
    )
    envelope = recipients(input)
    if settings.smtp_url is None:
        path = write_eml(settings.data / "mail", message, envelope, context.task_id)
        context.log.info("email.written", file=path.name)
    else:
        refused = _deliver(settings.smtp_url.get_secret_value(), message, envelope)
        context.log.info("email.sent", recipients=len(envelope), refused=len(refused))
        if refused:  # to try again would send it a second time to those who have it
            return {"messageId": str(message["Message-ID"]), "refused": refused}
    return {"messageId": str(message["Message-ID"])}


def date_of(context: TaskContext) -> datetime:
    """When the message was written, the same for every attempt: when the task was made, as its id tells, if that is not long ago.

    Of work that was to be done later, the first attempt's time, which it leaves as its progress.
    """
    now = datetime.now(UTC).replace(microsecond=0)
    made = datetime.fromtimestamp(
        int(context.task_id.replace("-", "")[:12], 16) // 1_000, UTC
    )  # RFC 9562, 5.7
    if timedelta(0) <= now - made <= LATELY:
        return made
    told = context.progress.get("date") if isinstance(context.progress, Mapping) else None
    if isinstance(told, str):
        return parse_instant(told)
    context.heartbeat({"date": instant_text(now)})
    return now


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
    try:
        with _connect(parts.scheme, *_place(parts)) as server:
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


def _place(parts: SplitResult) -> tuple[str, int]:
    """Host and port of the server."""
    return parts.hostname or "127.0.0.1", parts.port or (465 if parts.scheme == "smtps" else 25)


def target(_input: Any) -> str | None:
    """What an EMAIL task calls: the mail server of the settings; none where mails are written to a folder."""
    smtp_url = settings_of_process().smtp_url
    if smtp_url is None:
        return None
    parts = urlsplit(smtp_url.get_secret_value())
    host, port = _place(parts)
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


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


REGISTRY.add(
    make_handler(
        "EMAIL", send_email, None, INPUT_SCHEMA, OUTPUT_SCHEMA, built_in=True, options=Options(breaker=target)
    )
)
