"""HTTP through a proxy: it is asked for the checked address by number, and for nothing that the guard refused."""

import select
import socket
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from common.config import Settings, read_networks
from common.errors import Misconfigured
from task_runner.context import TaskContext
from task_runner.handlers.http import perform, send_http
from task_runner.handlers.http_network import Egress, trust_of_the_system
from task_runner.handlers.http_proxy import MAX_ANSWER_BYTES, Proxy, read_proxy, refusal
from task_runner.registry import HandlerError
from tests.support.http_server import Answer, Server, fixed, ok, serving
from tests.unit.task_runner.test_call import a_claim


def relay(connection: socket.socket, request: bytes) -> None:
    """What a proxy does: connect to where it is asked to, and carry bytes both ways until one side ends."""
    host, _, port = request.split()[1].decode().rpartition(":")
    with socket.create_connection((host, int(port))) as upstream:
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        while True:
            for ready in select.select([connection, upstream], [], [])[0]:
                data = ready.recv(65_536)
                if not data:
                    return
                (upstream if ready is connection else connection).sendall(data)


@pytest.fixture
def proxy() -> Iterator[Server]:
    with serving(relay) as server:
        yield server


def asked(url: str, proxy: Proxy, allow: str = "127.0.0.0/8", address: str = "127.0.0.1") -> Any:
    egress = Egress(read_networks(allow), lambda _host, _port: [address], trust_of_the_system, proxy)
    input = {"method": "GET", "url": url}
    return perform(input, TaskContext(a_claim()), egress, seconds=5, max_output_bytes=1_000_000)


def failure(*arguments: Any, **more: Any) -> HandlerError:
    with pytest.raises(HandlerError) as raised:
        asked(*arguments, **more)
    return raised.value


def test_the_proxy_is_asked_for_the_checked_address(proxy: Server) -> None:
    with serving(fixed(ok(b"behind"))) as server:
        answer = asked(
            server.url("/a", host="shop.example"), read_proxy(f"http://ann:p%40ss@localhost:{proxy.port}")
        )
    assert answer["body"] == "behind"
    place = f"127.0.0.1:{server.port}"
    credentials = b64encode(b"ann:p@ss").decode()
    assert proxy.requests[0].decode() == (
        f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\nProxy-Authorization: Basic {credentials}\r\n\r\n"
    )
    assert f"Host: shop.example:{server.port}".encode() in server.requests[0]
    assert b"Proxy-Authorization" not in server.requests[0]


def test_what_the_guard_refuses_never_reaches_the_proxy(proxy: Server) -> None:
    error = failure("http://meta.example/", Proxy("127.0.0.1", proxy.port), address="169.254.169.254")
    assert error.code == "http.refused_address"
    assert proxy.connections == 0


def test_the_proxy_itself_may_be_anywhere(proxy: Server) -> None:
    error = failure(
        "http://public.example:1/", Proxy("127.0.0.1", proxy.port), allow="127.0.0.9/32", address="127.0.0.9"
    )
    assert error.code == "http.connect"  # nobody listens there, and the proxy hung up
    assert proxy.requests[0].startswith(b"CONNECT 127.0.0.9:1 ")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (fixed(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"), "the proxy answers 407"),
        (fixed(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno"), "the proxy answers 403"),
        (fixed(b"SSH-2.0\r\n\r\n"), "is not HTTP"),
        (fixed(b"HTTP/1.1 200 OK\r\n"), "is not HTTP"),
        (fixed(b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\nforged"), "has something behind it"),
        (fixed(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 2 * MAX_ANSWER_BYTES), "is not HTTP"),
        (fixed(b""), "is not HTTP"),
    ],
)
def test_a_proxy_that_opens_no_tunnel_is_no_connection(answer: Answer, said: str) -> None:
    with serving(answer) as proxy:
        error = failure("http://shop.example/?key=s3cret", Proxy("127.0.0.1", proxy.port, "Basic c2VjcmV0"))
    assert (error.code, error.retryable) == ("http.connect", True)
    assert said in str(error)
    assert "c2VjcmV0" not in str(error)


def test_a_silent_proxy_costs_no_more_than_the_time_of_the_task() -> None:
    with serving(lambda connection, _request: connection.recv(1) and None) as proxy:
        egress = Egress(
            (), lambda _h, _p: ["93.184.216.34"], trust_of_the_system, Proxy("127.0.0.1", proxy.port)
        )
        with pytest.raises(HandlerError) as raised:
            perform(
                {"method": "GET", "url": "http://shop.example/"},
                TaskContext(a_claim()),
                egress,
                seconds=0.4,
                max_output_bytes=1_000,
            )
    assert raised.value.code == "http.timeout"


def test_an_address_of_six_is_asked_for_in_brackets() -> None:
    assert (
        Proxy("p", 1)
        .asked_for("2606:4700::1111", 443)
        .startswith(b"CONNECT [2606:4700::1111]:443 HTTP/1.1\r\n")
    )
    assert refusal(b"HTTP/1.0 200 \r\n\r\n") is None


def test_the_setting_names_the_proxy(monkeypatch: pytest.MonkeyPatch, proxy: Server) -> None:
    monkeypatch.setenv("SIGNALBOX_HTTP_ALLOW", "127.0.0.0/8")
    monkeypatch.setenv("SIGNALBOX_HTTP_PROXY", f"http://ann:s3cret@127.0.0.1:{proxy.port}")
    with serving(fixed(ok(b"behind"))) as server:
        answer = send_http({"method": "GET", "url": server.url()}, TaskContext(a_claim()))
    assert (answer["body"], len(proxy.requests)) == ("behind", 1)
    assert Settings.load().redacted()["http_proxy"] is True
    assert "s3cret" not in str(Settings.load().redacted())


def test_the_setting_is_checked_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in (
        "socks5://127.0.0.1:1",
        "https://proxy:1",
        "proxy:3128",
        "http://",
        "http://p:0",
        "http://p:99999",
    ):
        monkeypatch.setenv("SIGNALBOX_HTTP_PROXY", url)
        with pytest.raises(Misconfigured, match="SIGNALBOX_HTTP_PROXY"):
            Settings.load()
    monkeypatch.setenv("SIGNALBOX_HTTP_PROXY", "")
    assert Settings.load().http_proxy is None
    assert Settings(http_proxy=SecretStr("http://p")).http_proxy == SecretStr("http://p")
