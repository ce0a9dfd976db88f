"""EMAIL: one message a task, over a real SMTP server or into a file; nobody writes headers through it."""

import os
from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from signalbox.ports import LOOPBACK, free_port
from task_runner.context import TaskContext
from task_runner.handlers.email import compose, send_email
from task_runner.registry import Permanent, Retryable
from tests.unit.task_runner.test_call import a_claim

HELLO = {"to": "ann@example.com", "subject": "Hello", "text": "Grüße"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings of this test alone: the data folder, and no SMTP server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIGNALBOX_DATA", str(tmp_path))
    monkeypatch.setenv("SIGNALBOX_MAIL_FROM", "shop@example.com")
    monkeypatch.delenv("SMTP_URL", raising=False)
    return tmp_path / "mail"


def context(key: str | None = None) -> TaskContext:
    return TaskContext(a_claim(type="EMAIL", idempotency_key=key))


def read(path: Path) -> EmailMessage:
    message = message_from_bytes(path.read_bytes(), policy=policy.SMTP)
    assert isinstance(message, EmailMessage)
    return message


# -- into files ----------------------------------------------------------------------------------------------------


def test_without_a_server_the_message_is_a_file(folder: Path) -> None:
    about = context()
    answer = send_email(HELLO | {"cc": ["Bob <bob@example.com>"], "bcc": "eve@example.com"}, about)

    [path] = folder.iterdir()
    message = read(path)
    assert path.name == f"{about.task_id}.eml"
    assert (message["From"], message["To"], message["Cc"]) == (
        "shop@example.com",
        "ann@example.com",
        "Bob <bob@example.com>",
    )
    assert (message["Subject"], message["Message-ID"]) == ("Hello", answer["messageId"])
    assert message["Bcc"] is None
    assert message["X-Envelope-To"] == "ann@example.com, bob@example.com, eve@example.com"
    assert message.get_content().strip() == "Grüße"


def test_a_second_attempt_writes_the_same_message_and_not_another(folder: Path) -> None:
    about = context()
    first, second = send_email(HELLO, about), send_email(HELLO | {"text": "again"}, about)

    assert first == second
    [path] = folder.iterdir()
    assert read(path).get_content().strip() == "again"


def test_the_same_work_asked_for_by_two_tasks_has_one_message_id(folder: Path) -> None:
    assert send_email(HELLO, context("order-1")) == send_email(HELLO, context("order-1"))
    assert send_email(HELLO, context("order-1")) != send_email(HELLO, context("order-2"))


def test_html_stands_beside_its_text(folder: Path) -> None:
    send_email(HELLO | {"html": "<p>Grüße</p>"}, context())

    [path] = folder.iterdir()
    parts = {part.get_content_type(): part.get_content().strip() for part in read(path).iter_parts()}
    assert parts == {"text/plain": "Grüße", "text/html": "<p>Grüße</p>"}


def test_body_and_subject_may_be_absent(folder: Path) -> None:
    send_email({"to": ["ann@example.com"]}, context())
    [path] = folder.iterdir()
    assert read(path).get_content().strip() == ""


# -- what is refused -----------------------------------------------------------------------------------------------

INJECTIONS = [
    "\r\nBcc: victim@example.com",
    "\nBcc: victim@example.com",
    "\r X",
    "\x00",
    "\x0b",
    "\u2028Bcc: x@example.com",
]


@pytest.mark.parametrize("injected", INJECTIONS)
@pytest.mark.parametrize("member", ["to", "cc", "bcc", "subject"])
def test_nobody_writes_headers_through_a_member(folder: Path, member: str, injected: str) -> None:
    value = f"ann@example.com{injected}" if member != "subject" else f"Hello{injected}"
    with pytest.raises(Permanent) as refused:
        send_email(HELLO | {member: value}, context())
    assert refused.value.code == "email.invalid"
    assert not folder.exists()


def test_a_subject_may_be_in_any_script(folder: Path) -> None:
    send_email(HELLO | {"subject": "Grüße\u00a0an 你好 👩\u200d🚀"}, context())
    [path] = folder.iterdir()
    assert read(path)["Subject"] == "Grüße\u00a0an 你好 👩\u200d🚀"


@pytest.mark.parametrize(
    "input_",
    [
        None,
        "ann@example.com",
        [],
        {},
        {"to": ""},
        {"to": []},
        {"to": None},
        {"to": 7},
        {"to": "nobody"},
        {"to": ["ann@example.com", 7]},
        {"to": "ann@example.com", "attachment": "x"},
        {"to": "ann@example.com", "cc": "nobody"},
    ],
)
def test_what_is_no_message_fails_for_good(folder: Path, input_: Any) -> None:
    with pytest.raises(Permanent) as refused:
        send_email(input_, context())
    assert refused.value.code == "email.invalid"
    assert not folder.exists()


def test_a_composed_message_is_the_same_for_the_same_key() -> None:
    first, second = (compose(HELLO, sender="a@example.com", key="k") for _ in range(2))
    assert first["Message-ID"] == second["Message-ID"]


# -- over a real server --------------------------------------------------------------------------------------------


class Server:
    """A mail server that takes what it is told to, and remembers it."""

    def __init__(self) -> None:
        self.taken: list[tuple[list[str], EmailMessage]] = []
        self.rcpt: Callable[[str], str] = lambda _address: "250 OK"
        self.data = "250 OK"

    async def handle_RCPT(
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        answer = self.rcpt(address)
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        if self.data.startswith("250"):
            message = message_from_bytes(envelope.content, policy=policy.SMTP)
            assert isinstance(message, EmailMessage)
            self.taken.append((list(envelope.rcpt_tos), message))
        return self.data


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    handler = Server()
    controller = Controller(handler, hostname=LOOPBACK, port=free_port())
    controller.start()
    monkeypatch.setenv("SMTP_URL", f"smtp://{LOOPBACK}:{controller.port}")
    yield handler
    controller.stop()


def test_a_message_arrives_at_all_its_recipients(server: Server, folder: Path) -> None:
    answer = send_email(HELLO | {"cc": "bob@example.com", "bcc": ["eve@example.com"]}, context())

    [(recipients, message)] = server.taken
    assert recipients == ["ann@example.com", "bob@example.com", "eve@example.com"]
    assert message["Message-ID"] == answer["messageId"]
    assert message["Bcc"] is None
    assert message.get_content().strip() == "Grüße"
    assert not folder.exists()


@pytest.mark.parametrize(
    "answer", ["450 greylisted, come back later", "452 too many recipients", "421 closing"]
)
def test_a_refusal_for_now_is_tried_again(server: Server, answer: str) -> None:
    server.rcpt = lambda _address: answer
    with pytest.raises(Retryable) as refused:
        send_email(HELLO, context())
    assert refused.value.code in ("email.deferred", "email.unreachable")
    assert refused.value.retryable is True


def test_a_refusal_for_good_is_not_tried_again_and_says_why(server: Server) -> None:
    server.rcpt = lambda _address: "550 no such user"
    with pytest.raises(Permanent) as refused:
        send_email(HELLO, context())
    assert (refused.value.code, refused.value.data) == ("email.refused", {"codes": [550]})


def test_refused_content_is_judged_by_its_code(server: Server) -> None:
    server.data = "554 this is spam"
    with pytest.raises(Permanent):
        send_email(HELLO, context())
    server.data = "451 try later"
    with pytest.raises(Retryable):
        send_email(HELLO, context())


def test_one_refused_recipient_among_others_is_named_and_nobody_gets_it_twice(server: Server) -> None:
    server.rcpt = lambda address: "550 no such user" if address.startswith("bob") else "250 OK"

    answer = send_email(HELLO | {"cc": "bob@example.com"}, context())

    assert answer["refused"] == {"bob@example.com": 550}
    assert [recipients for recipients, _ in server.taken] == [["ann@example.com"]]


def test_nobody_at_the_port_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_URL", f"smtp://{LOOPBACK}:{free_port()}")
    with pytest.raises(Retryable) as refused:
        send_email(HELLO, context())
    assert refused.value.code == "email.unreachable"


def test_a_server_without_tls_is_not_talked_to_in_the_clear(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTP_URL", os.environ["SMTP_URL"].replace("smtp://", "smtp+starttls://"))
    with pytest.raises(Retryable):
        send_email(HELLO, context())
    assert server.taken == []


def test_a_password_stands_in_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_URL", f"smtp://shop:s3cret@{LOOPBACK}:{free_port()}")
    with pytest.raises(Retryable) as refused:
        send_email(HELLO, context())
    assert "s3cret" not in str(refused.value)
