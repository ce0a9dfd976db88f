"""The client against a server that misbehaves in ways that ours does not: lost answers, strangers, silence."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from common.errors import Conflict, Forbidden, Invalid, NotFound, SignalboxError, Unauthorized, Unavailable
from signalbox.client import PAUSES_SECONDS, Client
from signalbox.ports import free_port

KEY = "sb_test"


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Scripted:
    """A real HTTP server on the loopback that answers what a test lays ready; None breaks the connection off."""

    url: str = ""
    answers: list[tuple[int, Any] | None] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)

    def then(self, status: int, body: Any) -> None:
        self.answers.append((status, body))

    def then_break_off(self) -> None:
        self.answers.append(None)


def handler_of(scripted: Scripted) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            headers = {name.lower(): value for name, value in self.headers.items()}
            scripted.asked.append(Asked(self.command, self.path, headers, body))
            answer = scripted.answers.pop(0)
            if answer is None:
                self.close_connection = True
                self.connection.close()
                return
            status, content = answer
            raw = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = _answer

        def log_message(self, *_: object) -> None:
            """Silence."""

    return Handler


@pytest.fixture
def server() -> Iterator[Scripted]:
    scripted = Scripted()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler_of(scripted)) as http:
        scripted.url = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield scripted
        http.shutdown()
        thread.join()


@pytest.fixture
def client(server: Scripted) -> Iterator[Client]:
    with Client(server.url, KEY) as client:
        yield client


def test_every_request_shows_the_key(client: Client, server: Scripted) -> None:
    server.then(200, {"id": "1"})

    client.instance("1")

    assert server.asked[0].headers["authorization"] == f"Bearer {KEY}"
    assert server.asked[0].path == "/api/v1/instances/1"


def test_what_is_not_given_is_not_sent(client: Client, server: Scripted) -> None:
    server.then(201, {"id": "1"})

    client.start("order", input={"n": 7}, labels={"team": "a"})

    assert server.asked[0].body == {"definitionKey": "order", "input": {"n": 7}, "labels": {"team": "a"}}


def test_a_wait_becomes_a_preference(client: Client, server: Scripted) -> None:
    server.then(202, {"id": "1"})

    client.send("1", {"type": "GO"}, wait=5)

    assert server.asked[0].headers["prefer"] == "wait=5"


def test_a_post_whose_answer_got_lost_is_repeated_under_the_same_key(
    client: Client, server: Scripted
) -> None:
    server.then_break_off()
    server.then(201, {"id": "1"})

    assert client.start("order")["id"] == "1"

    first, second = server.asked
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert first.body == second.body


def test_two_posts_have_two_keys(client: Client, server: Scripted) -> None:
    server.then(201, {"id": "1"})
    server.then(201, {"id": "2"})

    client.start("order")
    client.start("order")

    assert len({asked.headers["idempotency-key"] for asked in server.asked}) == 2


def test_tries_are_bounded(client: Client, server: Scripted) -> None:
    for _ in range(10):
        server.then_break_off()

    with pytest.raises(Unavailable) as failed:
        client.instance("1")

    assert len(server.asked) == len(PAUSES_SECONDS) + 1
    assert failed.value.code == "client.no_answer"


def test_nothing_that_answers_is_told_with_what_to_do() -> None:
    url = f"http://127.0.0.1:{free_port()}"

    with Client(url, KEY) as client, pytest.raises(Unavailable) as failed:
        client.stats()

    assert failed.value.message == f"nothing answers at {url}; start it with `signalbox up`"
    assert failed.value.code == "client.unreachable"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Invalid),
        (401, Unauthorized),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (413, Invalid),
        (422, Invalid),
        (429, Invalid),
        (500, Unavailable),
        (503, Unavailable),
    ],
)
def test_a_refusal_is_the_exception_of_its_kind(
    client: Client, server: Scripted, status: int, kind: type[SignalboxError]
) -> None:
    server.then(status, {"title": "No", "detail": "because", "code": "some.code", "status": status})

    with pytest.raises(kind) as refused:
        client.instance("1")

    assert (refused.value.message, refused.value.code) == ("because", "some.code")
    assert type(refused.value) is kind


def test_a_refusal_carries_its_problems(client: Client, server: Scripted) -> None:
    problem = {
        "severity": "error",
        "code": "target.unknown",
        "path": "a.b",
        "message": "no",
        "suggestion": "c",
    }
    server.then(422, {"detail": "invalid", "code": "definition.invalid", "problems": [problem]})

    with pytest.raises(Invalid) as refused:
        client.apply({"id": "x"})

    assert refused.value.problems == [problem]


@pytest.mark.parametrize("body", ["<html>a proxy</html>", {"message": "not ours"}, "[]"])
def test_an_answer_of_somebody_else_is_recognised(client: Client, server: Scripted, body: Any) -> None:
    server.then(502, body)

    with pytest.raises(Unavailable) as failed:
        client.instance("1")

    assert failed.value.code == "client.unexpected_answer"
    assert "answered 502, which no Signalbox would" in failed.value.message


def test_a_list_is_read_page_by_page(client: Client, server: Scripted) -> None:
    server.then(200, {"items": [{"id": "1"}, {"id": "2"}], "nextCursor": "c"})
    server.then(200, {"items": [{"id": "3"}], "nextCursor": None})

    assert [one["id"] for one in client.instances(status=["failed", "paused"])] == ["1", "2", "3"]

    assert server.asked[0].path == "/api/v1/instances?status=failed&status=paused&limit=200"
    assert server.asked[1].path.endswith("&cursor=c")


def test_a_limit_asks_for_no_more_than_it_needs(client: Client, server: Scripted) -> None:
    server.then(200, {"items": [{"id": str(n)} for n in range(200)], "nextCursor": "c"})
    server.then(200, {"items": [{"id": str(n)} for n in range(50)], "nextCursor": "d"})

    assert len(list(client.tasks(limit=250))) == 250

    assert ["limit=200" in server.asked[0].path, "limit=50" in server.asked[1].path] == [True, True]


def test_labels_filter_as_name_and_value(client: Client, server: Scripted) -> None:
    server.then(200, {"items": [], "nextCursor": None})

    assert list(client.instances(labels={"team": "a"})) == []

    assert "label=team%3Aa" in server.asked[0].path


def test_no_proxy_of_the_environment_sees_the_key(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = f"http://127.0.0.1:{free_port()}"
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy)
    server.then(200, {"id": "1"})

    with Client(server.url, KEY) as client:
        assert client.instance("1")["id"] == "1"


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.send("../tasks/1", {"type": "X"}),
        lambda client: client.definition("a/b"),
        lambda client: client.instance("1?limit=2"),
        lambda client: client.send("..", {"type": "X"}),
    ],
)
def test_an_id_cannot_name_another_route(
    client: Client, server: Scripted, ask: Callable[[Client], object]
) -> None:
    server.then(404, {"detail": "no", "code": "not_found"})

    with pytest.raises(NotFound):
        ask(client)

    assert server.asked[0].path.count("/") <= 5
    assert any(escaped in server.asked[0].path for escaped in ("%2F", "%3F", "%2E"))
