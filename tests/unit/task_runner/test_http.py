"""HTTP: one request a task over real sockets; answers become outputs, and what goes wrong has a code and says no secret."""

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from common.canonical import dumps, read
from common.config import limits_of_process, read_networks, settings_of_process
from common.task_error import TaskError
from task_runner.attempt import attempt, described
from task_runner.context import TaskContext
from task_runner.handlers import http_network
from task_runner.handlers.http import MAX_REDIRECTS, perform
from task_runner.handlers.http_guard import resolve_name
from task_runner.handlers.http_network import Egress, trust_of_the_system
from task_runner.redact import Redaction
from task_runner.registry import REGISTRY, HandlerError, Permanent, Retryable
from tests.support.http_server import Server, fixed, ok, serving
from tests.support.slowdown import assert_within
from tests.unit.task_runner.test_call import a_claim

LOOPBACK = Egress(read_networks("127.0.0.0/8"), resolve_name, trust_of_the_system)
ROOM = 1_000_000


def context(key: str | None = "key-1") -> TaskContext:
    return TaskContext(a_claim(type="HTTP", idempotency_key=key))


def asked(url: str, method: str = "GET", egress: Egress = LOOPBACK, seconds: float = 5, **more: Any) -> Any:
    input = {"method": method, "url": url, **more}
    return perform(input, context(), egress, seconds=seconds, max_output_bytes=ROOM)


def failure(url: str, method: str = "GET", **more: Any) -> HandlerError:
    with pytest.raises(HandlerError) as raised:
        asked(url, method, **more)
    return raised.value


def head(request: bytes) -> dict[str, str]:
    lines = request.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


# -- answers become outputs ----------------------------------------------------------------------------------------


def test_json_is_parsed() -> None:
    with serving(fixed(ok(b'{"b": 1.0, "a": [true]}', "Content-Type: application/json"))) as server:
        answer = asked(server.url("/orders"))
    assert answer == {
        "status": 200,
        "headers": {"content-length": "23", "content-type": "application/json"},
        "body": {"a": [True], "b": 1},
    }


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("text/plain", "Grüße".encode(), {"body": "Grüße"}),
        ("text/html; charset=ISO-8859-1", "Grüße".encode("latin-1"), {"body": "Grüße"}),
        ("application/problem+json; charset=utf-8", b"[1]", {"body": [1]}),
        ("text/plain", b"\xff\xfe\x00", {"body": "//4A", "encoding": "base64"}),
        ("text/plain", b"a\x00b", {"body": "YQBi", "encoding": "base64"}),
        ("text/plain; charset=punycode", b"abc", {"body": "YWJj", "encoding": "base64"}),
        ("image/png", b"\x89PNG", {"body": "iVBORw==", "encoding": "base64"}),
        ("application/json", b"", {"body": None}),
        ("text/plain", b"", {"body": None}),
    ],
)
def test_other_bodies_are_text_or_base64(content_type: str, body: bytes, expected: dict[str, Any]) -> None:
    with serving(fixed(ok(body, f"Content-Type: {content_type}"))) as server:
        answer = asked(server.url())
    assert {name: answer[name] for name in answer if name in ("body", "encoding")} == expected


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    with serving(fixed(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")) as server:
        assert asked(server.url())["body"] == "until the end"


def test_a_chunked_answer_is_put_together() -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    with serving(fixed(raw)) as server:
        assert asked(server.url())["body"] == "abcde"


def test_an_expected_status_is_an_answer_whatever_it_is() -> None:
    with serving(fixed(ok(b"gone", status="404 Not Found"))) as server:
        assert asked(server.url(), expect=["2xx", "404"])["status"] == 404
    with serving(fixed(ok(b"", "Location: /else?code=4711", status="302 Found"))) as server:
        answer = asked(server.url(), expect=["3xx"])
    assert (answer["status"], answer["headers"]["location"]) == (302, "/else?***")


# -- requests ------------------------------------------------------------------------------------------------------


def test_what_is_sent() -> None:
    with serving(fixed(ok())) as server:
        asked(
            server.url("/a%20b?x=1#there"),
            "POST",
            query={"q": "ü&=", "n": 2, "yes": True, "many": ["a", "b"]},
            headers={"X-Trace": "t-1"},
            json={"z": 1, "a": None},
        )
        [request] = server.requests
    assert request.startswith(b"POST /a%20b?x=1&q=%C3%BC%26%3D&n=2&yes=true&many=a&many=b HTTP/1.1\r\n")
    assert request.endswith(b'\r\n\r\n{"a":null,"z":1}')
    headers = head(request)
    assert headers == {
        "host": f"127.0.0.1:{server.port}",
        "content-length": "16",
        "content-type": "application/json",
        "x-trace": "t-1",
        "user-agent": "signalbox",
        "accept": "*/*",
        "idempotency-key": "key-1",
        "accept-encoding": "gzip, deflate",
        "connection": "close",
    }


@pytest.mark.parametrize(
    ("method", "headers", "sent"),
    [
        ("GET", {}, None),
        ("HEAD", {}, None),
        ("POST", {}, "key-1"),
        ("PUT", {}, "key-1"),
        ("PATCH", {}, "key-1"),
        ("DELETE", {}, "key-1"),
        ("POST", {"idempotency-key": "mine"}, "mine"),
    ],
)
def test_unsafe_methods_carry_the_idempotency_key(
    method: str, headers: dict[str, str], sent: str | None
) -> None:
    with serving(fixed(b"HTTP/1.1 204 No Content\r\n\r\n")) as server:
        asked(server.url(), method, headers=headers)
    assert head(server.requests[0]).get("idempotency-key") == sent


def test_a_key_that_no_header_can_carry_is_sent_as_its_digest() -> None:
    with serving(fixed(ok())) as server:
        perform(
            {"method": "POST", "url": server.url()},
            context("order\r\nX-Evil: 1"),
            LOOPBACK,
            seconds=5,
            max_output_bytes=ROOM,
        )
    assert len(head(server.requests[0])["idempotency-key"]) == 64
    assert b"Evil" not in server.requests[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": "get"}, "found 'get'; did you mean \"GET\"?"),
        ({"method": "CONNECT"}, "method: expected one of"),
        ({"url": None}, "url: expected text"),
        ({"url": "ftp://example.com/"}, 'the scheme "ftp"'),
        ({"url": "file:///etc/passwd"}, 'the scheme "file"'),
        ({"url": "/orders"}, "http or https"),
        ({"url": "http:///orders"}, "expected a host name"),
        ({"url": "http://ann:secret@example.com/"}, "user and password"),
        ({"url": "http://@example.com/"}, "user and password"),
        ({"url": "http://example.com\\@127.0.0.1/"}, "backslash"),
        ({"url": "http://example.com/ HTTP/1.1\r\nX: y"}, "control character"),
        ({"url": "http://a%00b/"}, "expected a host name"),
        ({"url": "http://[fe80::1%25eth0]/"}, "expected a host name"),
        ({"url": "http://①②⑦.0.0.1/"}, "cannot be read"),
        ({"url": "http://example.com:99999/"}, "port from 1 to 65535"),
        ({"url": "http://example.com/" + "a" * 8_000}, "at most 8000"),
        ({"headers": {"X-A": "1\r\nX-B: 2"}}, 'the value of "X-A"'),
        ({"headers": {"X-A": "a\x00"}}, 'the value of "X-A"'),
        ({"headers": {"X-A": "ü"}}, 'the value of "X-A"'),
        ({"headers": {"X-A": 1}}, 'the value of "X-A"'),
        ({"headers": {"X A": "1"}}, "not the name of a header"),
        ({"headers": {"X-A\r\nX-B": "1"}}, "not the name of a header"),
        ({"headers": {"": "1"}}, "not the name of a header"),
        ({"headers": {"Host": "internal"}}, '"Host" is said by Signalbox'),
        ({"headers": {"transfer-encoding": "chunked"}}, "is said by Signalbox"),
        ({"headers": {"X-A": "1", "x-a": "2"}}, "given twice"),
        ({"headers": {"X-A": "a" * 40_000}}, "at most 100"),
        ({"headers": []}, "headers: expected an object"),
        ({"query": {"a": None}}, "query.a: expected text"),
        ({"query": "a=b"}, "query: expected an object"),
        ({"json": 1, "body": "1"}, "found both"),
        ({"body": {"a": 1}}, "body: expected text"),
        ({"expect": "2xx"}, "expect: expected a list"),
        ({"expect": ["1xx"]}, "expect: expected a list"),
        ({"maxBytes": 0}, "maxBytes: expected a whole number"),
        ({"maxBytes": True}, "maxBytes: expected a whole number"),
        ({"follow": True}, 'unknown member "follow"'),
    ],
)
def test_unusable_input_is_refused_before_anything_is_sent(change: dict[str, Any], said: str) -> None:
    input = {"method": "GET", "url": "http://127.0.0.1:9/", **change}
    with pytest.raises(Permanent) as refused:
        perform(input, context(), LOOPBACK, seconds=1, max_output_bytes=ROOM)
    assert refused.value.code == "http.invalid"
    assert said in str(refused.value)


# -- statuses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_may_pass_is_to_be_tried_again(status: int) -> None:
    with serving(fixed(ok(b"busy", "Retry-After: 7", status=f"{status} Busy"))) as server:
        error = failure(server.url("/a?token=s3cret"))
    assert isinstance(error, Retryable)
    assert error.code == f"http.{status}"
    assert error.data == {
        "url": server.url("/a?***"),
        "status": status,
        "body": "busy",
        "retryAfterSeconds": 7,
    }


@pytest.mark.parametrize("status", [201, 304, 400, 401, 404, 409, 422, 501])
def test_other_statuses_are_final(status: int) -> None:
    with serving(fixed(ok(b"", status=f"{status} No"))) as server:
        error = failure(server.url(), expect=["200"])
    assert isinstance(error, Permanent)
    assert (error.code, error.data["status"]) == (f"http.{status}", status)


def test_an_error_keeps_the_start_of_the_body() -> None:
    with serving(fixed(ok(b"x" * 900_000, status="404 Not Found"))) as server:
        error = failure(server.url(), maxBytes=10)
    assert (error.code, error.data["body"]) == ("http.404", "x" * 2_000)


# -- redirects -----------------------------------------------------------------------------------------------------


def moved(location: str, status: str = "302 Found") -> bytes:
    return ok(b"", f"Location: {location}", status=status)


@pytest.mark.parametrize(
    ("status", "method", "then", "keeps_body"),
    [
        (301, "POST", "GET", False),
        (302, "POST", "GET", False),
        (303, "POST", "GET", False),
        (303, "PUT", "GET", False),
        (302, "PUT", "PUT", True),
        (307, "POST", "POST", True),
        (308, "POST", "POST", True),
        (303, "HEAD", "HEAD", False),
    ],
)
def test_a_redirect_keeps_the_method_or_becomes_a_get(
    status: int, method: str, then: str, keeps_body: bool
) -> None:
    body = {} if method == "HEAD" else {"body": "hello"}
    with serving(fixed(moved("b?x=1", f"{status} Moved"), ok())) as server:
        asked(server.url("/a"), method, headers={"Authorization": "Bearer abc"}, **body)
    second = server.requests[1]
    assert second.startswith(f"{then} /b?x=1 HTTP/1.1\r\n".encode())
    assert second.endswith(b"hello") is keeps_body
    assert ("content-type" in head(second)) is keeps_body
    assert head(second)["authorization"] == "Bearer abc"


def test_another_origin_gets_no_credentials() -> None:
    with serving(fixed(ok(b"there"))) as other, serving(fixed(moved(other.url("/b")))) as server:
        answer = asked(
            server.url("/a"),
            headers={
                "Authorization": "Bearer abc",
                "Cookie": "a=b",
                "X-Api-Key": "k",
                "Accept": "text/plain",
            },
        )
    assert answer["body"] == "there"
    assert set(head(other.requests[0])) == {"host", "accept", "user-agent", "accept-encoding", "connection"}
    assert head(other.requests[0])["host"] == f"127.0.0.1:{other.port}"


def test_another_origin_gets_no_body() -> None:
    with serving(fixed(ok())) as other:
        with serving(fixed(moved(other.url("/b"), "307 Moved"))) as server:
            error = failure(server.url(), "POST", body="secret")
        assert (error.code, other.requests) == ("http.redirects", [])


@pytest.mark.parametrize(
    "location",
    [
        "ftp://127.0.0.1/",
        "http://ann:pw@127.0.0.1/",
        "http://a:99999/",
        "file:///etc/passwd",
        "http://a b/",
        "javascript:0",
    ],
)
def test_a_redirect_to_nowhere_is_not_followed(location: str) -> None:
    with serving(fixed(moved(location))) as server:
        error = failure(server.url())
    assert (error.code, error.retryable, len(server.requests)) == ("http.redirects", False, 1)
    assert error.data == {"url": server.url(), "status": 302}


def test_a_redirect_loop_ends() -> None:
    with serving(fixed(moved("/again"))) as server:
        error = failure(server.url())
    assert (error.code, error.retryable) == ("http.redirects", False)
    assert len(server.requests) == MAX_REDIRECTS + 1


# -- special networks ----------------------------------------------------------------------------------------------


def no_allowance(resolve: Callable[[str, int], list[str]] = resolve_name) -> Egress:
    return Egress((), resolve, trust_of_the_system)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "127.1", "0x7f.1", "2130706433", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]"],
)
def test_no_notation_of_loopback_gets_through(host: str) -> None:
    with serving(fixed(ok(b"internal"))) as server:
        error = failure(server.url(host=host), egress=no_allowance())
        assert server.connections == 0
    assert (error.code, error.retryable) == ("http.refused_address", False)


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "[fd00:ec2::254]", "10.0.0.1", "[::ffff:169.254.169.254]"]
)
def test_a_redirect_to_a_metadata_service_is_refused(address: str) -> None:
    with serving(fixed(moved(f"http://{address}/latest/meta-data/"))) as server:
        error = failure(server.url())
    assert error.code == "http.refused_address"
    assert error.data["url"] == f"http://{address}/latest/meta-data/"


def test_a_name_that_leads_inwards_is_refused_even_if_it_leads_elsewhere_as_well() -> None:
    def resolve(_host: str, _port: int) -> list[str]:
        return ["93.184.216.34", "169.254.169.254"]

    error = failure("http://mixed.example/", egress=no_allowance(resolve))
    assert (error.code, error.data["address"]) == ("http.refused_address", "169.254.169.254")
    assert str(error) == (
        'GET http://mixed.example/: "mixed.example" leads to 169.254.169.254, which is in the special network '
        "169.254.0.0/16; the operator may allow it in SIGNALBOX_HTTP_ALLOW"
    )


def test_a_name_is_resolved_once_for_each_connection_and_the_socket_goes_there() -> None:
    """DNS rebinding: the first answer is harmless and checked, the second would lead to what listens on 127.0.0.2."""
    asked_for: list[str] = []

    def rebinding(host: str, _port: int) -> list[str]:
        asked_for.append(host)
        return ["127.0.0.1"] if len(asked_for) == 1 else ["169.254.169.254"]

    with serving(fixed(ok(b"once"))) as server:
        egress = Egress(read_networks("127.0.0.1"), rebinding, trust_of_the_system)
        assert asked(server.url(host="rebind.example"), egress=egress)["body"] == "once"
        assert asked_for == ["rebind.example"]
        assert head(server.requests[0])["host"] == f"rebind.example:{server.port}"
        error = failure(server.url(host="rebind.example"), egress=egress)
    assert (error.code, server.connections) == ("http.refused_address", 1)


def test_each_redirect_is_resolved_and_checked_anew() -> None:
    seen: list[str] = []

    def rebinding(host: str, _port: int) -> list[str]:
        seen.append(host)
        return ["127.0.0.1"] if len(seen) == 1 else ["127.0.0.2"]

    with serving(fixed(moved("/again"))) as server:
        egress = Egress(read_networks("127.0.0.1/32"), rebinding, trust_of_the_system)
        error = failure(server.url(host="rebind.example"), egress=egress)
    assert (error.code, len(server.requests), len(seen)) == ("http.refused_address", 1, 2)


def test_an_address_that_does_not_answer_gives_way_to_the_next() -> None:
    with serving(fixed(ok(b"second"))) as server:
        egress = Egress(LOOPBACK.allow, lambda _host, _port: ["127.0.0.9", "127.0.0.1"], trust_of_the_system)
        assert asked(server.url(host="two.example"), egress=egress)["body"] == "second"


def test_a_silent_address_gives_way_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener whose queue is full takes no notice of who knocks."""
    monkeypatch.setattr(http_network, "CONNECT_SECONDS", 0.3)
    with serving(fixed(ok(b"second"))) as server, ExitStack() as open_:
        full = open_.enter_context(socket.create_server(("127.0.0.2", server.port), backlog=0))
        for _ in range(3):
            knocking = open_.enter_context(socket.socket())
            knocking.setblocking(False)
            knocking.connect_ex(full.getsockname())
        egress = Egress(LOOPBACK.allow, lambda _host, _port: ["127.0.0.2", "127.0.0.1"], trust_of_the_system)
        began = time.monotonic()
        assert asked(server.url(host="two.example"), egress=egress)["body"] == "second"
        assert time.monotonic() - began >= 0.3
        alone = Egress(LOOPBACK.allow, lambda _host, _port: ["127.0.0.2"], trust_of_the_system)
        error = failure(server.url(host="one.example"), egress=alone, seconds=0.4)
    assert (error.code, "waited for the connection" in str(error)) == ("http.timeout", True)


def test_the_environment_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with serving(fixed(ok(b"direct"))) as server:
        assert asked(server.url())["body"] == "direct"


# -- no connection -------------------------------------------------------------------------------------------------


def test_nobody_there_is_to_be_tried_again() -> None:
    with serving(fixed(ok())) as server:
        pass
    error = failure(server.url())
    assert (error.code, error.retryable) == ("http.connect", True)
    assert "Connection refused" in str(error)


def test_a_name_that_leads_nowhere_is_to_be_tried_again() -> None:
    def nowhere(_host: str, _port: int) -> list[str]:
        raise OSError(-2, "Name or service not known")

    error = failure("http://nowhere.example/?key=s3cret", egress=no_allowance(nowhere))
    assert (error.code, error.retryable) == ("http.connect", True)
    assert str(error) == (
        'GET http://nowhere.example/?***: the name "nowhere.example" cannot be resolved: Name or service not known'
    )


def test_a_name_server_that_does_not_answer_costs_no_more_than_the_time_of_the_task() -> None:
    answered = threading.Event()

    def silent(_host: str, _port: int) -> list[str]:
        answered.wait(30)
        return ["127.0.0.1"]

    began = time.monotonic()
    error = failure("http://slow.example/", egress=no_allowance(silent), seconds=0.5)
    answered.set()
    assert (error.code, error.retryable) == ("http.timeout", True)
    assert_within(time.monotonic() - began, 2)


# -- TLS -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for `shop.example` that nobody has signed but itself."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    options = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=shop.example"
    name = "-addext subjectAltName=DNS:shop.example"
    subprocess.run(
        ["openssl", "req", *options.split(), *name.split(), "-keyout", str(path), "-out", f"{path}.crt"],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


@pytest.fixture
def shop(certificate: Path) -> Iterator[Server]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with serving(fixed(ok(b"secured")), tls) as server:
        yield server


def trusting(certificate: Path) -> Egress:
    return Egress(
        LOOPBACK.allow,
        lambda _host, _port: ["127.0.0.1"],
        lambda: ssl.create_default_context(cafile=str(certificate)),
    )


def test_tls_verifies_the_name_and_not_the_address(shop: Server, certificate: Path) -> None:
    answer = asked(shop.url(host="shop.example", scheme="https"), egress=trusting(certificate))
    assert answer["body"] == "secured"


@pytest.mark.parametrize("host", ["bank.example", "127.0.0.1"])
def test_a_certificate_of_another_name_is_not_accepted(shop: Server, certificate: Path, host: str) -> None:
    error = failure(shop.url(host=host, scheme="https"), egress=trusting(certificate))
    assert (error.code, error.retryable, shop.requests) == ("http.tls", False, [])


def test_a_certificate_that_nobody_signed_is_not_accepted(shop: Server) -> None:
    error = failure(shop.url(scheme="https"))
    assert error.code == "http.tls"
    assert "self-signed" in str(error)


def test_https_to_a_plain_server_is_no_connection() -> None:
    with serving(fixed(ok())) as server:
        error = failure(server.url(scheme="https"), seconds=2)
    assert error.code in ("http.connect", "http.timeout")
    assert error.retryable


# -- nothing secret ------------------------------------------------------------------------------------------------


def test_no_secret_stands_in_an_error_or_its_trace() -> None:
    def echo(connection: Any, request: bytes) -> None:
        body = request + b" decoded: s3cret value"
        connection.sendall(ok(body, "Set-Cookie: sid=c00kie", status="400 Bad Request"))

    with serving(echo) as server:
        error = failure(
            server.url("/a?key=s3cret%20value"),
            headers={"Authorization": "Bearer abcdefgh", "Cookie": "sid=mine1234", "X-Api-Key": "k-9876"},
        )
    told = dumps(told_of(error).to_json()) + str(told_of(error).trace)
    assert "GET /a?*** HTTP/1.1" in error.data["body"]
    for secret in ("s3cret", "abcdefgh", "mine1234", "k-9876", "c00kie"):
        assert secret not in told


def test_no_secret_stands_in_the_trace_of_a_broken_answer() -> None:
    with serving(fixed(b"HTTP/1.1 200 OK\r\nSet-Cookie: sid=c00kie\x00\r\n\r\n")) as server:
        error = failure(server.url("/?key=s3cret"))
    assert error.code == "http.protocol"
    assert "c00kie" not in str(told_of(error))
    assert "s3cret" not in str(told_of(error))


def test_cookies_of_an_answer_are_not_in_the_output() -> None:
    raw = ok(b"", "Set-Cookie: sid=c00kie", "Set-Cookie: b=2", "X-Auth-Token: t0ken")
    with serving(fixed(raw)) as server:
        headers = asked(server.url())["headers"]
    assert headers == {"content-length": "0", "set-cookie": "***", "x-auth-token": "***"}


def test_no_secret_stands_in_the_log(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level("DEBUG"), serving(fixed(ok(b"", "Set-Cookie: sid=c00kie"))) as server:
        asked(server.url("/a?key=s3cret"), headers={"Authorization": "Bearer abcdefgh"})
    logged = caplog.text + "".join(capsys.readouterr())
    assert "http.answered" in logged
    assert "/a?***" in logged
    for secret in ("s3cret", "abcdefgh", "c00kie"):
        assert secret not in logged


def told_of(error: HandlerError) -> TaskError:
    return described(error)


# -- as a handler --------------------------------------------------------------------------------------------------


def test_the_handler_is_registered_and_reads_its_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    handler = REGISTRY.find("HTTP", "")
    assert handler.built_in
    with serving(fixed(ok(b"hello"))) as server:
        input = dumps({"method": "GET", "url": server.url()})
        monkeypatch.delenv("SIGNALBOX_HTTP_ALLOW", raising=False)
        refused = attempt(handler, input, context(), max_output_bytes=ROOM)
        monkeypatch.setenv("SIGNALBOX_HTTP_ALLOW", "10.0.0.0/8, 127.0.0.0/8")
        settings_of_process.cache_clear()  # another process's, so to speak
        answered = attempt(handler, input, context(), max_output_bytes=ROOM)
        monkeypatch.setenv("SIGNALBOX_MAX_OUTPUT_BYTES", "1000")
        limits_of_process.cache_clear()
        bounded = attempt(handler, input, context(), max_output_bytes=ROOM)
    assert refused.error is not None
    assert refused.error.code == "http.refused_address"
    assert answered.output is not None
    assert read(answered.output)["body"] == "hello"
    assert bounded.output is not None


def test_the_handler_has_the_schemas_of_what_goes_in_and_comes_out() -> None:
    handler = REGISTRY.find("HTTP", "")
    wanted, given = (read(dumps(schema)) for schema in (handler.input_schema, handler.output_schema))
    assert (wanted["required"], wanted["additionalProperties"]) == (["method", "url"], False)
    with serving(fixed(ok(b"\xff"))) as server:
        answer = asked(server.url())
    assert set(given["required"]) < set(answer) == set(given["properties"])


# -- auth ----------------------------------------------------------------------------------------------------------

CREDENTIALS: list[tuple[dict[str, Any], str, str]] = [
    ({"bearer": "abc.def-123"}, "authorization", "Bearer abc.def-123"),
    ({"basic": {"username": "me", "password": "pässword: 1"}}, "authorization", "Basic bWU6cMOkc3N3b3JkOiAx"),
    ({"basic": {"username": "me", "password": ""}}, "authorization", "Basic bWU6"),
    ({"header": {"name": "X-Custom", "value": "Key 4711-0815"}}, "x-custom", "Key 4711-0815"),
    ({"header": {"name": "Accept", "value": "pass/4711-0815"}}, "accept", "pass/4711-0815"),
]


@pytest.mark.parametrize(("auth", "name", "value"), CREDENTIALS)
def test_auth_becomes_a_header(auth: dict[str, Any], name: str, value: str) -> None:
    with serving(fixed(ok())) as server:
        asked(server.url(), auth=auth)
    assert head(server.requests[0])[name] == value


@pytest.mark.parametrize(("auth", "name", "value"), CREDENTIALS)
def test_another_origin_gets_no_auth_whatever_its_header_is_called(
    auth: dict[str, Any], name: str, value: str
) -> None:
    with serving(fixed(ok())) as other:
        with serving(fixed(moved("/b"), moved(other.url("/c")))) as server:
            asked(server.url("/a"), auth=auth)
        assert [head(request).get(name) for request in server.requests] == [value, value]
        assert value not in other.requests[0].decode("latin-1")


@pytest.mark.parametrize(("auth", "name", "value"), CREDENTIALS)
def test_no_error_tells_what_auth_held(auth: dict[str, Any], name: str, value: str) -> None:
    secret = auth.get("bearer") or auth.get("basic", {}).get("password") or value

    def echo(connection: socket.socket, request: bytes) -> None:
        connection.sendall(ok(request + f"{value}|{secret}".encode(), status="401 No"))

    with serving(echo) as server:
        error = failure(server.url(), auth=auth)

    told = dumps(described(error).to_json()) + (described(error).trace or "")
    assert error.code == "http.401"
    assert secret not in told
    assert value not in told


BAD_AUTH: list[Any] = [
    None, "s3cret", [], {}, {"bearer": ""}, {"bearer": " "}, {"bearer": "s3cret\r\nX: 1"}, {"bearer": "s3crét"},
    {"bearer": 7}, {"bearer": "s3cret", "basic": {}}, {"digest": "s3cret"}, {"basic": "s3cret"},
    {"basic": {"username": "me"}}, {"basic": {"username": "m:e", "password": "s3cret"}},
    {"basic": {"username": "me", "password": "s3cret\n"}},
    {"basic": {"username": "me", "password": "s3cret", "realm": "s3cret"}}, {"header": {"name": "X"}},
    {"header": {"name": "Host", "value": "s3cret"}}, {"header": {"name": "a b", "value": "s3cret"}},
    {"header": {"name": "X", "value": "s3cret\n"}}, {"header": {"name": "X", "value": "s3cret", "more": 1}},
]  # fmt: skip


@pytest.mark.parametrize("auth", BAD_AUTH)
def test_unusable_auth_is_refused_without_being_shown(auth: Any) -> None:
    error = failure("http://127.0.0.1:9/", auth=auth)
    assert (error.code, "auth" in str(error)) == ("http.invalid", True)
    assert "s3c" not in str(error)


def test_auth_and_the_same_header_are_one_too_many() -> None:
    error = failure("http://127.0.0.1:9/", auth={"bearer": "abc"}, headers={"authorization": "Bearer abc"})
    assert str(error) == 'expected auth or the header "Authorization", found both'


# -- Retry-After ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        (["Retry-After: 7"], 7),
        (["Retry-After: 0"], 0),
        (["Date: Fri, 31 Dec 1999 23:58:59 GMT", "Retry-After: Fri, 31 Dec 1999 23:59:59 GMT"], 60),
        (["Date: Fri, 31 Dec 1999 23:59:59 GMT", "Retry-After: Fri, 31 Dec 1999 23:58:59 GMT"], 0),
        (["Date: x", "Retry-After: Fri, 31 Dec 1999 23:59:59 GMT"], 0),
        (["Retry-After: soon"], None),
        (["Retry-After: -1"], None),
        (["Retry-After: 7.5"], None),
        (["Retry-After: 99999999999"], None),
        (["Retry-After: Fri, 99 Dec 1999 99:99:99 GMT"], None),
        ([], None),
    ],
)
def test_a_server_may_say_when_to_come_again(headers: list[str], seconds: int | None) -> None:
    with serving(fixed(ok(b"", *headers, status="503 Busy"))) as server:
        error = failure(server.url())
    assert error.data.get("retryAfterSeconds") == seconds
    assert described(error).retry_after_ms == (None if seconds is None else seconds * 1_000)


def test_what_is_final_waits_for_nothing() -> None:
    with serving(fixed(ok(b"", "Retry-After: 7", status="404 No"))) as server:
        error = failure(server.url())
    assert (error.data["retryAfterSeconds"], described(error).retry_after_ms) == (7, None)


# -- secrets -------------------------------------------------------------------------------------------------------


def test_an_excerpt_ends_with_no_half_of_a_secret() -> None:
    secret = "sk_live_" + "0123456789abcdef" * 1_500
    about = context()
    about.conceal(Redaction({"[secret KEY]": secret}))

    def echo(connection: socket.socket, _request: bytes) -> None:
        connection.sendall(ok(f"you sent {secret}".encode(), status="400 No"))

    with serving(echo) as server, pytest.raises(HandlerError) as raised:
        perform({"method": "GET", "url": server.url()}, about, LOOPBACK, seconds=5, max_output_bytes=ROOM)
    assert raised.value.data["body"] == "you sent [secret KEY]"


def test_no_value_of_the_query_takes_a_secret_apart() -> None:
    """Whoever may send data guesses four letters of a secret, and would read the others of an answer that repeats it."""
    about = context()
    about.conceal(Redaction({"[secret KEY]": "sk_live_0123456789"}))
    given = {"method": "POST", "query": {"q": "live", "r": "4567"}, "json": {"key": "sk_live_0123456789"}}

    def echo(connection: socket.socket, request: bytes) -> None:
        connection.sendall(ok(request.partition(b"\r\n\r\n")[2] + b" live", status="400 No"))

    with serving(echo) as server, pytest.raises(HandlerError) as raised:
        perform(given | {"url": server.url()}, about, LOOPBACK, seconds=5, max_output_bytes=ROOM)
    assert raised.value.data["body"] == '{"key":"[secret KEY]"} ***'


WRITTEN = {
    "with a query": "{url}/hooks/t0ken?v=1",
    "with a fragment": "{url}/hooks/t0ken#top",
    "in capitals": "HTTP{rest}/hooks/t0ken",
    "with a step that leads nowhere": "{url}/./hooks/t0ken",
}


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("query", [{}, {"query": {"x": 1}}])
def test_a_url_that_is_a_secret_stands_in_no_error_and_no_log(
    written: str, query: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Reading a URL changes it, so that what is shown of it is not the text of the secret any more."""
    about = context()
    with serving(fixed(ok(b"{}", status="404 Not Found"))) as server:
        url = server.url("").rstrip("/")
        secret = WRITTEN[written].format(url=url, rest=url.removeprefix("http"))
        about.conceal(Redaction({"[secret HOOK]": secret}))
        with pytest.raises(Permanent) as raised:
            perform(
                {"method": "POST", "url": secret, **query}, about, LOOPBACK, seconds=5, max_output_bytes=ROOM
            )

    told = f"{raised.value} {raised.value.data} {capsys.readouterr()}"
    assert "[secret HOOK]" in told
    assert "t0ken" not in told
    assert b"/hooks/t0ken" in server.requests[0]


def test_a_part_of_a_url_that_is_a_secret_stands_in_no_error() -> None:
    about = context()
    about.conceal(Redaction({"[secret PATH]": "hooks/t0ken?code=1"}))
    with serving(fixed(ok(b"{}", status="404 Not Found"))) as server, pytest.raises(Permanent) as raised:
        perform(
            {"method": "GET", "url": server.url("/hooks/t0ken?code=1")},
            about,
            LOOPBACK,
            seconds=5,
            max_output_bytes=ROOM,
        )

    assert raised.value.data["url"] == f"{server.url('/')}[secret PATH]?***"
    assert "t0ken" not in f"{raised.value}"
