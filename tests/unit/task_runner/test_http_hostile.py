"""HTTP against servers that mean harm: each is refused or bounded with a code, in little time and little memory."""

import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from common.config import read_networks
from task_runner.context import TaskContext
from task_runner.handlers.http import perform
from task_runner.handlers.http_answer import Unreadable, read_body
from task_runner.handlers.http_guard import resolve_name
from task_runner.handlers.http_network import Egress, trust_of_the_system
from task_runner.registry import HandlerError
from tests.support.http_server import Answer, fixed, ok, serving
from tests.support.slowdown import assert_within
from tests.support.waiting import wait_until
from tests.unit.task_runner.test_call import a_claim

LOOPBACK = Egress(read_networks("127.0.0.0/8"), resolve_name, trust_of_the_system)
ROOM = 1_000_000
GZIP = "Content-Encoding: gzip"


def answered(answer: Answer, *, seconds: float = 5.0, method: str = "GET", **more: Any) -> Any:
    with serving(answer) as server:
        input = {"method": method, "url": server.url(), **more}
        about = TaskContext(a_claim(type="HTTP"))
        return perform(input, about, LOOPBACK, seconds=seconds, max_output_bytes=ROOM)


def failure(answer: Answer, **more: Any) -> HandlerError:
    with pytest.raises(HandlerError) as raised:
        answered(answer, **more)
    return raised.value


def dripping(start: bytes, drop: bytes) -> Answer:
    """Send `start`, then `drop` every 20 ms for as long as anybody listens."""

    def answer(connection: socket.socket, _request: bytes) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(drop)
            threading.Event().wait(0.02)

    return answer


def pouring(start: bytes, piece: bytes) -> Answer:
    """Send `start`, then `piece` as fast as it is taken."""

    def answer(connection: socket.socket, _request: bytes) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(piece)

    return answer


def pouring_late(start: bytes, piece: bytes) -> Answer:
    """Send `start`, which is read by itself, then `piece` as fast as it is taken."""

    def answer(connection: socket.socket, _request: bytes) -> None:
        connection.sendall(start)
        threading.Event().wait(0.2)
        while True:
            connection.sendall(piece)

    return answer


ALMOST_TOO_MUCH = b"HTTP/1.1 200 OK\r\n" + 63 * (b"X-A: " + b"a" * 1_000 + b"\r\n")


# -- slow ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "waited_for"),
    [
        (lambda connection, _request: connection.recv(1), "the answer"),
        (dripping(b"HTTP/1.1 200 OK\r\nX-A: ", b"a"), "the answer"),
        (dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "the answer"),
        (dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"a"), "the body"),
        (dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"a"), "the body"),
        (dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"), "the body"),
    ],
    ids=["silence", "slow headers", "interim answers", "slow body", "slow endless body", "slow chunks"],
)
def test_a_slow_answer_costs_no_more_than_the_time_of_the_task(answer: Answer, waited_for: str) -> None:
    began = time.monotonic()
    error = failure(answer, seconds=0.5)
    assert (error.code, error.retryable) == ("http.timeout", True)
    assert str(error).endswith(f"no whole answer within 0.5 s: waited for {waited_for} last")
    assert_within(time.monotonic() - began, 2)


def test_a_server_that_does_not_take_the_request_is_not_waited_for() -> None:
    """The socket's buffers are full after some megabytes, and nobody reads them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        input = {"method": "POST", "url": url, "body": "a" * 20_000_000}
        with pytest.raises(HandlerError) as raised:
            perform(input, TaskContext(a_claim()), LOOPBACK, seconds=0.5, max_output_bytes=ROOM)
    assert raised.value.code == "http.timeout"
    assert "waited for sending" in str(raised.value)


def test_a_server_that_says_no_before_it_took_the_request_is_heard() -> None:
    def answer(connection: socket.socket, _request: bytes) -> None:
        connection.sendall(ok(b"too much", status="413 No"))

    error = failure(answer, method="POST", body="a" * 100_000)
    assert error.code == "http.413"


def test_slow_redirects_share_one_budget() -> None:
    def answer(connection: socket.socket, _request: bytes) -> None:
        threading.Event().wait(0.3)
        connection.sendall(ok(b"", "Location: /again", status="302 Found"))

    began = time.monotonic()
    assert failure(answer, seconds=0.8).code == "http.timeout"
    assert_within(time.monotonic() - began, 2)


@pytest.mark.parametrize(
    "start",
    [b"", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 500 No\r\n\r\n"],
    ids=["head", "body", "error's body"],
)
def test_a_cancelled_task_stops_reading(start: bytes) -> None:
    about = TaskContext(a_claim(type="HTTP"))
    failures: list[HandlerError] = []
    is_hung_up = threading.Event()

    def answer(connection: socket.socket, _request: bytes) -> None:
        connection.sendall(start)
        with suppress(OSError):
            connection.recv(1)  # until the client hangs up
        is_hung_up.set()

    with serving(answer) as server:

        def work() -> None:
            try:
                input = {"method": "GET", "url": server.url()}
                perform(input, about, LOOPBACK, seconds=60, max_output_bytes=ROOM)
            except HandlerError as error:
                failures.append(error)

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        wait_until(lambda: bool(server.requests), what="the request")
        about.cancel()
        worker.join(2)
        assert not worker.is_alive()
        assert is_hung_up.wait(2)
    # The status may or may not have been read when the cancel came; what counts is that nobody reads on.
    assert failures[0].code in ({"http.500", "http.cancelled"} if b"500" in start else {"http.cancelled"})


# -- large ---------------------------------------------------------------------------------------------------------


def test_an_endless_body_is_cut_off() -> None:
    began = time.monotonic()
    error = failure(pouring(b"HTTP/1.1 200 OK\r\n\r\n", b"a" * 65_536))
    assert (error.code, error.retryable) == ("http.too_large", False)
    assert error.data["maxBytes"] == ROOM
    assert_within(time.monotonic() - began, 2)


def test_an_endless_answer_to_head_is_not_read() -> None:
    assert answered(pouring(b"HTTP/1.1 200 OK\r\n\r\n", b"a" * 65_536), method="HEAD")["body"] is None


@pytest.mark.parametrize(("size", "is_refused"), [(1_000, False), (1_001, True)])
@pytest.mark.parametrize("is_packed", [False, True])
def test_the_bound_is_exact(size: int, is_refused: bool, is_packed: bool) -> None:
    body = b"a" * size
    raw = ok(packed(body), GZIP) if is_packed else ok(body)
    if is_refused:
        assert failure(fixed(raw), maxBytes=1_000).code == "http.too_large"
    else:
        assert answered(fixed(raw), maxBytes=1_000)["body"] == "a" * size


def test_more_than_a_task_may_return_is_never_read() -> None:
    error = failure(fixed(ok(b"a" * (ROOM + 1))), maxBytes=10 * ROOM)
    assert (error.code, error.data["maxBytes"]) == ("http.too_large", ROOM)


def packed(body: bytes, wbits: int = 31) -> bytes:
    pack = zlib.compressobj(9, zlib.DEFLATED, wbits)
    return pack.compress(body) + pack.flush()


def a_bomb(wbits: int, repeats: int = 64) -> bytes:
    """A gigabyte of zeros in one stream, made of a 16 MiB piece that refers to nothing before it."""
    pack = zlib.compressobj(9, zlib.DEFLATED, wbits)
    head = pack.compress(b"") + pack.flush(zlib.Z_FULL_FLUSH)
    piece = pack.compress(b"\0" * 2**24) + pack.flush(zlib.Z_FULL_FLUSH)
    return head + piece * repeats + pack.flush()


BOMBS: dict[str, Callable[[], bytes]] = {
    "one stream": lambda: ok(a_bomb(31), GZIP),
    "many members": lambda: ok(packed(b"\0" * 2**24) * 64, GZIP),
    "deflate": lambda: ok(a_bomb(15), "Content-Encoding: deflate"),
    "raw deflate": lambda: ok(a_bomb(-15), "Content-Encoding: deflate"),
    "an error's": lambda: ok(a_bomb(31), GZIP, status="404 Not Found"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_gigabyte_of_zeros_in_a_megabyte_is_defused(kind: str) -> None:
    """A bound on what is unpacked, checked while unpacking: 64 kB of it would be 64 MB otherwise."""
    raw = BOMBS[kind]()
    assert len(raw) < 2 * 2**20
    with serving(fixed(raw)) as server:
        tracemalloc.start()
        began = time.process_time()
        with pytest.raises(HandlerError) as raised:
            perform(
                {"method": "GET", "url": server.url()},
                TaskContext(a_claim()),
                LOOPBACK,
                seconds=10,
                max_output_bytes=ROOM,
            )
        took = time.process_time() - began
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert raised.value.code == ("http.404" if "error" in kind else "http.too_large")
    assert peak < 8 * 2**20
    assert_within(took, 2, clock=time.process_time)


def test_what_unpacks_to_nothing_for_ever_is_cut_off() -> None:
    empty = packed(b"")
    error = failure(pouring(f"HTTP/1.1 200 OK\r\n{GZIP}\r\n\r\n".encode(), empty * 1_000), maxBytes=1_000)
    assert error.code == "http.too_large"


def test_a_body_of_crumbs_costs_a_second_and_not_ten() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    error = failure(pouring(chunked, b"1\r\na\r\n" * 10_000), seconds=20)
    assert (error.code, error.retryable) == ("http.encoding", False)
    assert "more than 100000 pieces" in str(error)


def test_an_answer_that_never_makes_us_wait_ends_in_time_too() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert failure(pouring(chunked, b"1\r\na\r\n" * 10_000), seconds=0.1).code == "http.timeout"


@pytest.mark.parametrize(
    "answer",
    [
        pouring(b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"a" * 1_000 + b"\r\n"),
        pouring(b"HTTP/1.1 200 OK\r\nX-A: ", b"a" * 65_536),
        pouring(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        pouring(b"HTTP/1.1 200 ", b"O" * 65_536),
        pouring_late(ALMOST_TOO_MUCH, b"X-A: " + b"a" * 1_000 + b"\r\n"),
    ],
    ids=[
        "many headers",
        "one header",
        "interim answers",
        "reason",
        "just below, then more than a parser takes",
    ],
)
def test_huge_headers_are_refused(answer: Answer) -> None:
    tracemalloc.start()
    error = failure(answer)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (error.code, error.retryable) == ("http.headers_too_large", False), error
    assert peak < 8 * 2**20


# -- wrong ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ntoo short",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nX-A: a\x00b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX A: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"\x16\x03\x01\x00\x00",
        b"",
    ],
)
def test_what_is_not_a_whole_answer_is_a_failure_of_the_protocol(raw: bytes) -> None:
    error = failure(fixed(raw))
    assert (error.code, error.retryable) == ("http.protocol", True)


def test_more_than_the_length_says_is_not_read() -> None:
    """What stands behind an answer is nobody's: it is not the start of another one."""
    smuggled = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 500 No\r\n\r\n"
    assert answered(fixed(smuggled))["body"] == "ok"


def test_a_header_of_the_server_injects_nothing() -> None:
    """A lone CR or LF ends no header of ours; what a redirect names is sent percent-encoded or not at all."""
    error = failure(fixed(ok(b"", "Location: /a\rX-Evil: 1", status="302 Found")))
    assert error.code in ("http.protocol", "http.redirects")
    with serving(fixed(ok(b"", "Location: /a%0d%0aX-Evil:%201", status="302 Found"), ok())) as server:
        input = {"method": "GET", "url": server.url()}
        perform(input, TaskContext(a_claim()), LOOPBACK, seconds=5, max_output_bytes=ROOM)
        assert server.requests[1].startswith(b"GET /a%0d%0aX-Evil:%201 HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"{'a': 1}",
        b'{"a": 1, "a": 2}',
        b"NaN",
        b"1e999",
        b"9007199254740993",
        b'"\\ud800"',
        b'"a\\u0000b"',
        b"\xff",
        b"[" * 100_000,
        b"<html>not found</html>",
    ],
)
def test_json_that_is_none_is_said_to_be_none(body: bytes) -> None:
    error = failure(fixed(ok(body, "Content-Type: application/json")))
    assert (error.code, error.retryable, error.data["status"]) == ("http.invalid_json", False, 200)
    assert len(str(error)) < 1_000


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (ok(b"abc", "Content-Encoding: br"), 'found "br"'),
        (ok(b"abc", "Content-Encoding: gzip, gzip"), 'found "gzip, gzip"'),
        (ok(b"abc", GZIP), "the body is not gzip"),
        (ok(packed(b"hello" * 100)[:-12], GZIP), "the gzip body ends in its middle"),
        (ok(packed(b"hello")[:-8] + b"\0" * 8, GZIP), "the body is not gzip"),
        (ok(b"\xff\xff", "Content-Encoding: deflate"), "the body is not deflate"),
    ],
)
def test_a_body_that_cannot_be_unpacked_is_said_to_be_so(raw: bytes, said: str) -> None:
    error = failure(fixed(raw))
    assert (error.code, error.retryable) == ("http.encoding", False)
    assert said in str(error)


@pytest.mark.parametrize("bits", [15, -15, 31])
@pytest.mark.parametrize("first", range(4))
def test_a_packed_body_may_be_cut_anywhere(bits: int, first: int) -> None:
    body = packed(b"hello", bits)
    pieces = [body[:first], body[first : first + 1], b"", body[first + 1 :]]

    assert read_body(pieces, "gzip" if bits == 31 else "deflate", max_bytes=100) == b"hello"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_packed_body_of_one_byte_is_no_whole_one(encoding: str) -> None:
    with pytest.raises(Unreadable, match="ends in its middle"):
        read_body([b"\x78"], encoding, max_bytes=100)
    assert read_body([b""], encoding, max_bytes=100) == b""


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", packed(b"hello")),
        ("x-gzip", packed(b"hel") + packed(b"lo")),
        ("deflate", packed(b"hello", 15)),
        ("deflate", packed(b"hello", -15)),
        ("identity", b"hello"),
    ],
)
def test_a_packed_body_is_unpacked(encoding: str, body: bytes) -> None:
    in_pieces = ok(body, f"Content-Encoding: {encoding}")

    def answer(connection: socket.socket, _request: bytes) -> None:
        for byte in in_pieces:
            connection.sendall(bytes([byte]))

    assert answered(answer)["body"] == "hello"
