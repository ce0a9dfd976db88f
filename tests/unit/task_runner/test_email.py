"""EMAIL: one message a task, over a real SMTP server or into a file; nobody writes headers through it."""

import os
import re
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from jsonschema_rs import validator_for

from signalbox.ports import LOOPBACK, free_port
from task_runner.context import TaskContext
from task_runner.handlers.email import date_of, send_email
from task_runner.handlers.email_message import INPUT_SCHEMA, compose
from task_runner.registry import Permanent, Retryable
from tests.support.slowdown import assert_within
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


def test_a_second_attempt_writes_the_same_bytes(folder: Path) -> None:
    about = context()
    written = []
    for _ in range(2):
        send_email(EVERYTHING, about)
        [path] = folder.iterdir()
        written.append(path.read_bytes())

    assert written[0] == written[1]


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


ENCODED = [
    "=?utf-8?q?Hello=0d=0aBcc:_victim=40example.com?=",
    "=?utf-8?q?Hello=0d=0a=0d=0aAnother_body?=",
    "=?utf-8?b?DQpCY2M6IHZpY3RpbUBleGFtcGxlLmNvbQ==?=",
    "=?utf-8?q?Hello=0aBcc:_victim=40example.com?=",
    "=?utf-8?q?Hello=00?=",
]
"""Texts in one line, of which the library of e-mails makes several (RFC 2047)."""


@pytest.mark.parametrize("injected", ENCODED)
@pytest.mark.parametrize("member", ["to", "cc", "subject"])
def test_a_line_end_that_is_encoded_ends_no_header(folder: Path, member: str, injected: str) -> None:
    is_subject = member == "subject"
    value = injected if is_subject else f'"{injected}" <ann@example.com>'
    names = [*HEADERS[:2], "Cc", *HEADERS[2:]]

    send_email(HELLO | {"cc": "bob@example.com", member: value}, context())

    [path] = folder.iterdir()
    head = path.read_bytes().split(b"\r\n\r\n")[0]
    lines = head.removeprefix(b"X-Envelope-To").split(b"\r\n")
    assert [line.split(b":")[0].decode() for line in lines[1:] if line[:1] != b" "] == names
    assert not any(mark in line for line in lines for mark in (b"\r", b"\n", b"\0"))
    shown = read(path)[member.capitalize()]
    assert (str(shown) if is_subject else shown.addresses[0].display_name) == injected


HEADERS = [
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "Content-Type",
    "Content-Transfer-Encoding",
    "MIME-Version",
]


@pytest.mark.parametrize(
    "subject", ["word " * 199, "wörd " * 199, "w" * 998, "a  b " * 50, "=?utf-8?q?=41?= and " * 20, "ä" * 998]
)
def test_a_long_subject_comes_out_as_it_went_in(folder: Path, subject: str) -> None:
    send_email(HELLO | {"subject": subject.strip()}, context())

    [path] = folder.iterdir()
    assert read(path)["Subject"] == subject.strip()
    assert max(map(len, path.read_bytes().split(b"\r\n"))) <= 78


@pytest.mark.parametrize("letters", ["ä ", '"', "a,", "(", " (ä)", "=?utf-8?q?a?= ", "a."])
def test_no_address_takes_long_to_read(letters: str) -> None:
    """The library's parser and its folding take minutes for each of these, and hours for longer ones."""
    crowd = [(letters * 499)[:980] + " <ann@example.com>"] * 100
    began = time.process_time()
    for to in (letters * 200_000 + "<ann@example.com>", "ann@example.com" + letters * 200_000, crowd):
        with suppress(Permanent):
            compose(HELLO | {"to": to}, sender="a@example.com", key="k", date=NOON).as_bytes()
    assert_within(time.process_time() - began, 5, clock=time.process_time)


@pytest.mark.parametrize(
    "several",
    ["a@example.com, b@example.com", "<a@example.com> <b@example.com>", "a@example.com <b@example.com>"],
)
def test_who_is_named_gets_the_message_or_nobody_does(folder: Path, several: str) -> None:
    """One of them would get it, and the header would say that all did. How many they are, not every Python tells."""
    with pytest.raises(Permanent, match=r"expected one address in a text, found 2|is not an e-mail address"):
        send_email(HELLO | {"to": several}, context())
    assert not folder.exists()


def test_an_address_in_another_script_stands_as_it_is(folder: Path) -> None:
    send_email(HELLO | {"to": "Jörg <jörg@bücher.example>"}, context())

    [path] = folder.iterdir()
    assert "<jörg@bücher.example>".encode() in path.read_bytes()


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


NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
EVERYTHING = HELLO | {
    "cc": ["Bob <bob@example.com>"],
    "html": "<p>Grüße</p>",
    "attachments": [
        {"filename": "Rechnung 7 ä.csv", "contentType": "text/csv", "content": "a,b\nä,ö\n"},
        {"filename": "seven.bin", "contentBase64": b64encode(bytes(range(256)) * 7).decode()},
        {"filename": "note.txt", "content": "--\r\n.\r\n"},
        {"filename": "x.pdf", "contentType": "application/pdf", "contentBase64": ""},
    ],
}


def bytes_of(input: Any = EVERYTHING, key: str = "k") -> bytes:
    return compose(input, sender="a@example.com", key=key, date=NOON).as_bytes()


def test_the_same_message_is_the_same_bytes() -> None:
    assert bytes_of() == bytes_of()
    assert bytes_of() != bytes_of(key="other")
    assert bytes_of() != bytes_of(EVERYTHING | {"text": "other"})


def test_a_boundary_cannot_be_foretold_by_who_writes_a_part() -> None:
    def boundaries(raw: bytes) -> list[bytes]:
        return re.findall(rb'boundary="?([^"\r\n]+)', raw)

    first = boundaries(bytes_of())
    forged = boundaries(bytes_of(EVERYTHING | {"text": f"--{first[0].decode()}--"}))

    assert len(set(first)) == 2, "one for the parts, one for text and html"
    assert not set(first) & set(forged)


def test_a_second_attempt_has_the_date_of_the_first() -> None:
    def at(instant: datetime, **more: Any) -> TaskContext:
        milliseconds = f"{round(instant.timestamp() * 1_000):012x}"
        task_id = f"{milliseconds[:8]}-{milliseconds[8:]}-7000-8000-000000000000"
        return TaskContext(a_claim(id=task_id, **more))

    just_now = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
    assert date_of(at(just_now)) == just_now
    delayed = at(just_now - timedelta(days=7))
    first = date_of(delayed)
    assert datetime.now(UTC) - first < timedelta(minutes=1)
    again = at(just_now - timedelta(days=7), progress=delayed.last_progress)
    assert date_of(again) == first


# -- attachments ---------------------------------------------------------------------------------------------------


def attached(raw: bytes) -> dict[str, tuple[str, bytes]]:
    message = message_from_bytes(raw, policy=policy.SMTP)
    assert isinstance(message, EmailMessage)
    return {
        str(part.get_filename()): (part.get_content_type(), part.get_payload(decode=True))
        for part in message.iter_attachments()
    }


def test_attachments_come_out_as_they_went_in() -> None:
    assert attached(bytes_of()) == {
        "Rechnung 7 ä.csv": ("text/csv", "a,b\nä,ö\n".encode()),
        "seven.bin": ("application/octet-stream", bytes(range(256)) * 7),
        "note.txt": ("text/plain", b"--\r\n.\r\n"),
        "x.pdf": ("application/pdf", b""),
    }


BAD_ATTACHMENTS: list[Any] = [
    None, {}, "x", ["x"], [{}], [{"filename": "a"}], [{"content": "a"}], [{"filename": "a", "content": 7}],
    [{"filename": "a", "content": "a", "contentBase64": "YQ=="}], [{"filename": "a", "contentBase64": "a b"}],
    [{"filename": "a", "contentBase64": "YQ"}], [{"filename": "a", "contentBase64": "ä"}],
    [{"filename": "", "content": ""}], [{"filename": 7, "content": ""}], [{"filename": "..", "content": ""}],
    [{"filename": "../a", "content": ""}], [{"filename": "a\\b", "content": ""}],
    [{"filename": "a\r\nX: 1", "content": ""}], [{"filename": "=?utf-8?q?a=0d=0aX:_1?=", "content": ""}],
    [{"filename": "a" * 256, "content": ""}],
    [{"filename": "a", "content": "", "contentType": "text"}],
    [{"filename": "a", "content": "", "contentType": "multipart/mixed"}],
    [{"filename": "a", "content": "", "contentType": "message/rfc822"}],
    [{"filename": "a", "content": "", "contentType": "text/plain\r\nX: 1"}],
    [{"filename": "a", "content": "", "inline": True}], [{"filename": "a", "content": ""}] * 21,
    [{"filename": "a", "content": "x" * 4_000_000}] * 2,
]  # fmt: skip


@pytest.mark.parametrize("attachments", BAD_ATTACHMENTS, ids=lambda one: repr(one)[:40])
def test_what_is_no_attachment_is_refused(attachments: Any) -> None:
    with pytest.raises(Permanent) as refused:
        bytes_of(HELLO | {"attachments": attachments})
    assert refused.value.code == "email.invalid"
    assert "attachments" in str(refused.value)
    assert len(str(refused.value)) < 500


def test_input_and_output_are_as_their_schemas_say(folder: Path) -> None:
    validator = validator_for(INPUT_SCHEMA)
    for input in (HELLO, EVERYTHING, {"to": ["a@b"], "template": "a/b", "data": {}}):
        assert validator.is_valid(input)
    for wrong in (
        {"template": "a", "text": "b"},
        {"data": {}},
        {"attachments": [{"filename": "a"}]},
        {"x": 1},
    ):
        assert not validator.is_valid({"to": "a@b", **wrong}), wrong
        with pytest.raises(Permanent):
            bytes_of({"to": "a@b", **wrong})


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
