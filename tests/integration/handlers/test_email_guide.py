"""The guide to e-mails says what is true: its workflows arrive at a server, its templates are filled, its codes are the source's."""

import json
import re
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from common.lifecycle import InstanceStatus
from signalbox.ports import LOOPBACK, free_port
from task_runner.handlers.email import send_email
from tests.integration.engine.documents import ON_SQLITE
from tests.support.engine import Engine

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/guides/email.md").read_text()
RECEIPT, SHIPPING = (json.loads(text) for text in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
FILES = dict(re.findall(r"^`([a-z/.]+)`:\n\n```jinja\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))
CUSTOMER = {"name": "Ann & Söhne", "email": "Ann <ann@example.com>"}


class Post:
    """A mail server that keeps what arrives: (recipients, message)."""

    def __init__(self) -> None:
        self.arrived: list[tuple[list[str], EmailMessage]] = []

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        message = message_from_bytes(envelope.content or b"", policy=policy.SMTP)
        assert isinstance(message, EmailMessage)
        self.arrived.append((list(envelope.rcpt_tos), message))
        return "250 OK"


@pytest.fixture
def post(tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Post]:
    for name, text in FILES.items():
        path = tmp_path / "templates" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    post = Post()
    controller = Controller(post, hostname=LOOPBACK, port=free_port())
    controller.start()
    monkeypatch.setenv("SMTP_URL", f"smtp://{LOOPBACK}:{controller.port}")
    monkeypatch.setenv("SIGNALBOX_MAIL_FROM", "shop@example.com")
    monkeypatch.setenv("SIGNALBOX_TEMPLATES", str(tmp_path / "templates"))
    engine.handler("EMAIL", send_email)
    yield post
    controller.stop()


def sent(
    engine: Engine, post: Post, document: dict[str, Any], **input: Any
) -> tuple[list[str], EmailMessage]:
    instance_id = engine.start(document, input={"customer": CUSTOMER, "order": 7, **input})
    engine.settle()
    assert engine.status(instance_id) is InstanceStatus.COMPLETED, engine.entries(instance_id)[-1]
    [arrived] = post.arrived
    return arrived


@ON_SQLITE
def test_a_message_with_an_attachment_arrives(engine: Engine, post: Post) -> None:
    recipients, message = sent(engine, post, RECEIPT, csv="sku,n\nä,1\n")

    assert recipients == ["ann@example.com", "books@example.com"]
    assert (message["From"], message["To"], message["Bcc"]) == (
        "shop@example.com",
        "Ann <ann@example.com>",
        None,
    )
    assert "books@example.com" not in message.as_string()
    assert message["Subject"] == "Your order 7"
    body = message.get_body()
    assert body is not None
    assert body.get_content() == "Dear Ann & Söhne,\r\nyour receipt is attached.\r\n"
    [attachment] = message.iter_attachments()
    assert (attachment.get_filename(), attachment.get_content_type()) == ("order-7.csv", "text/csv")
    assert attachment.get_payload(decode=True) == "sku,n\nä,1\n".encode()


@ON_SQLITE
def test_a_template_arrives_filled(engine: Engine, post: Post) -> None:
    assert sorted(FILES) == ["orders/shipped.html", "orders/shipped.subject", "orders/shipped.txt"]

    _, message = sent(engine, post, SHIPPING, items=[{"title": "<Tea>"}, {"title": "{{ cup }}"}])

    assert message["Subject"] == "Order 7 is on its way"
    text, html = (message.get_body((kind,)) for kind in ("plain", "html"))
    assert text is not None
    assert html is not None
    assert text.get_content().split() == [
        "Dear",
        "Ann",
        "&",
        "Söhne,",
        "1.",
        "<Tea>",
        "2.",
        "{{",
        "cup",
        "}}",
    ]
    assert html.get_content().splitlines() == [
        "<p>Dear Ann &amp; Söhne,</p>",
        "<ul><li>&lt;Tea&gt;</li><li>{{ cup }}</li></ul>",
    ]


def test_every_code_of_the_guide_is_the_sources_own_and_the_reverse() -> None:
    sources = (ROOT / "task_runner/handlers").glob("email*.py")
    codes = set(re.findall(r'"(email\.[a-z_]+)"', "".join(source.read_text() for source in sources)))

    assert set(re.findall(r"^\| `(email\.[a-z_]+)`", PAGE, re.MULTILINE)) == codes - {
        "email.sent",
        "email.written",
    }
