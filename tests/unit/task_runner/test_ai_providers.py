"""The libraries of providers against servers that speak their protocols: real HTTP on loopback, through the guard."""

import json
import socket
import sys
from ipaddress import ip_network
from typing import Any

import pytest

from common.ai_policy import Policy, Ruling, Why, read_policy
from common.ai_providers import ProviderSetting, read_providers
from common.config import Settings
from common.errors import Misconfigured
from task_runner.attempt import stored
from task_runner.context import TaskContext
from task_runner.handlers.ai import answer
from task_runner.handlers.ai_input import check_input
from task_runner.handlers.ai_port import Answer, Request, Tool
from task_runner.handlers.ai_providers import Way, Ways, operators_ways
from task_runner.handlers.ai_wire import WireNames
from task_runner.handlers.http_guard import resolve_name
from task_runner.handlers.http_network import Egress, trust_of_the_system
from task_runner.redact import Redaction
from task_runner.registry import HandlerError, Permanent, Registry, Retryable
from tests.support.http_server import Server, fixed, ok, serving
from tests.unit.task_runner.test_call import a_claim

LOOPBACK = Egress((ip_network("127.0.0.0/8"),), resolve_name, trust_of_the_system)
HERE = read_policy({"allowedDomains": ["127.0.0.1"]})
KEY = "sk-the-operators-key-12345678"

SAID_BY_OPENAI = {
    "id": "c-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m-1-2026-01-01",
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "content": "let me see",
                "tool_calls": [
                    {
                        "id": "t-1",
                        "type": "function",
                        "function": {"name": "orders_find", "arguments": '{"id": 7}'},
                    }
                ],
            },
        }
    ],
    "usage": {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16},
}
SAID_BY_ANTHROPIC = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m-1-2026-01-01",
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "content": [
        {"type": "text", "text": "let me see"},
        {"type": "tool_use", "id": "t-1", "name": "orders_find", "input": {"id": 7}},
    ],
    "usage": {"input_tokens": 11, "output_tokens": 5},
}
SAID = {"openai": SAID_BY_OPENAI, "anthropic": SAID_BY_ANTHROPIC}
KINDS = pytest.mark.parametrize("kind", ["openai", "anthropic"])


def asked_of(kind: str, **input: Any) -> Any:
    return check_input(
        {"provider": kind, "model": "m-1", "messages": [{"role": "user", "content": "hello"}], **input}
    )


def request_of(**changed: Any) -> Request:
    given: dict[str, Any] = {
        "model": "m-1",
        "system": "be brief",
        "messages": [
            {"role": "user", "content": "find order 7"},
            {
                "role": "assistant",
                "content": "",
                "toolCalls": [{"id": "t-0", "name": "orders.find", "arguments": '{"id":6}'}],
            },
            {"role": "tool", "toolCallId": "t-0", "name": "orders.find", "content": '{"error":"none"}'},
        ],
        "tools": [Tool("orders.find", "finds an order", {"type": "object"})],
        "max_tokens": 100,
        "temperature": 0.5,
        "turn": 2,
        "wants_json": True,
    }
    return Request(**{**given, **changed})


def way_to(kind: str, url: str, *, seconds: float = 20, policy: Policy = HERE, **more: Any) -> Way | Ruling:
    ways = Ways({kind: ProviderSetting(kind, url, KEY, **more)}, LOOPBACK, seconds)
    return ways.to(asked_of(kind), policy, lambda: False)


def complete(kind: str, url: str, request: Request | None = None, **more: Any) -> Answer:
    way = way_to(kind, url, **more)
    assert isinstance(way, Way)
    return way.provider.complete(request or request_of())


def json_answer(value: Any, *headers: str, status: str = "200 OK") -> bytes:
    return ok(json.dumps(value).encode(), "Content-Type: application/json", *headers, status=status)


def sent(server: Server) -> tuple[str, dict[str, str], Any]:
    """The first line, headers and body of the last request."""
    head, _, body = server.requests[-1].partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return first, headers, json.loads(body)


def failure_of(kind: str, url: str, **more: Any) -> HandlerError:
    with pytest.raises(HandlerError) as raised:
        complete(kind, url, **more)
    told = f"{raised.value} {raised.value.code} {raised.value.data} {raised.value.__cause__} {raised.value.__context__}"
    assert KEY not in told
    return raised.value


@KINDS
def test_a_question_and_its_answer(kind: str) -> None:
    with serving(fixed(json_answer(SAID[kind]))) as server:
        answer = complete(kind, server.url("/v1"))
        first, headers, body = sent(server)

    assert answer.text == "let me see"
    [call] = answer.tool_calls
    assert (call.id, call.name, json.loads(call.arguments)) == ("t-1", "orders.find", {"id": 7})
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.is_estimated) == (
        11,
        5,
        False,
    )
    assert (answer.model, body["model"], body["max_tokens"], body["temperature"]) == (
        "m-1-2026-01-01",
        "m-1",
        100,
        0.5,
    )
    if kind == "openai":
        assert first == "POST /v1/chat/completions HTTP/1.1"
        assert headers["authorization"] == f"Bearer {KEY}"
        assert [one["role"] for one in body["messages"]] == ["system", "user", "assistant", "tool"]
        assert body["tools"][0]["function"]["name"] == "orders_find"
        assert body["messages"][2]["tool_calls"][0]["function"]["name"] == "orders_find"
    else:
        assert first == "POST /v1/v1/messages HTTP/1.1"
        assert headers["x-api-key"] == KEY
        assert body["system"] == "be brief"
        assert [one["role"] for one in body["messages"]] == ["user", "assistant", "user"]
        assert body["messages"][2]["content"][0]["type"] == "tool_result"
        assert body["tools"][0]["name"] == "orders_find"


@KINDS
def test_nothing_of_the_environment_goes_along(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spilt = {
        "OPENAI_API_KEY": "env-1",
        "OPENAI_ORG_ID": "env-2",
        "OPENAI_PROJECT_ID": "env-3",
        "OPENAI_BASE_URL": "http://127.0.0.1:1/env",
        "OPENAI_CUSTOM_HEADERS": "X-Spilt: env-4",
        "ANTHROPIC_API_KEY": "env-5",
        "ANTHROPIC_AUTH_TOKEN": "env-6",
        "ANTHROPIC_BASE_URL": "http://127.0.0.1:1/env",
        "ANTHROPIC_CUSTOM_HEADERS": "X-Spilt: env-7",
        "HTTPS_PROXY": "http://127.0.0.1:1",
        "HTTP_PROXY": "http://127.0.0.1:1",
    }
    for name, value in spilt.items():
        monkeypatch.setenv(name, value)
    with serving(fixed(json_answer(SAID[kind]))) as server:
        complete(kind, server.url())
        [request] = server.requests

    assert b"env-" not in request
    assert b"x-stainless" not in request.lower()


@KINDS
@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        ("400 Bad Request", False),
        ("401 Unauthorized", False),
        ("404 Not Found", False),
        ("301 Moved", False),
        ("204 No Content", False),
        ("408 Timeout", True),
        ("429 Too Many", True),
        ("500 Oops", True),
        ("503 Away", True),
        ("529 Overloaded", True),
    ],
)
def test_statuses_are_retried_or_not_and_never_by_the_library(
    kind: str, status: str, retryable: bool
) -> None:
    said = {"error": {"message": f"Incorrect API key provided: {KEY} sk-the-o***5678"}}
    with serving(
        fixed(json_answer(said, "Retry-After: 7", "Location: http://127.0.0.1:1/", status=status))
    ) as server:
        error = failure_of(kind, server.url())
        assert server.connections == 1

    assert isinstance(error, Retryable if retryable else Permanent)
    assert error.code == f"ai.{status[:3]}"
    assert error.data["retryAfterSeconds"] == 7


@KINDS
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"<html>a login page</html>",
        b'{"choices": [], "content": "text"}',
        b'{"choices": [{"message": null}], "content": [{}]}',
        b'{"choices": [{"message": {"content": {"a": 1}}}], "content": [1]}',
    ],
)
def test_an_answer_that_is_none_fails_and_is_tried_again(kind: str, body: bytes) -> None:
    with serving(fixed(ok(body, "Content-Type: application/json"))) as server:
        error = failure_of(kind, server.url())

    assert isinstance(error, Retryable)
    assert error.code == "ai.unreadable"


@pytest.mark.parametrize("tokens", [-1, -1_000_000, 10**10, 10**400])
@KINDS
def test_tokens_that_no_turn_takes_are_no_answer(kind: str, tokens: int) -> None:
    """Fewer than none would give back what the turns before have spent of the policy's budget."""
    usage = dict.fromkeys(SAID[kind]["usage"], tokens)
    with serving(fixed(json_answer({**SAID[kind], "usage": usage}))) as server:
        assert failure_of(kind, server.url()).code == "ai.unreadable"


@KINDS
def test_no_half_of_a_secret_stands_in_a_failure(kind: str) -> None:
    """A provider repeats what the model was told: across the end of what is shown, and with what looks like a key in it."""
    secrets = Redaction(
        {"[secret A]": "the-secret-" + "0123456789" * 5, "[secret B]": "before sk-4711 after"}
    )
    said = f"before sk-4711 after{' ' * 440}the-secret-{'0123456789' * 5}"
    with serving(fixed(ok(said.encode(), status="400 No"))) as server:
        ways = Ways({kind: ProviderSetting(kind, server.url(), KEY)}, LOOPBACK, 20)
        way = ways.to(asked_of(kind), HERE, lambda: False, secrets)
        assert isinstance(way, Way)
        with pytest.raises(HandlerError) as raised:
            way.provider.complete(request_of())

    assert raised.value.data["body"] == f"[secret B]{' ' * 440}[secret A]"


@pytest.mark.parametrize("end", [2_000, 8_000, 16_000, 20_000, 50_000])
def test_no_half_of_a_secret_is_kept(end: int) -> None:
    """What was said is cut at many places, and whatever comes back is searched for secrets only then."""
    secret = "the-secret-" + "0123456789" * 5
    about = TaskContext(a_claim(type="AI"))
    about.conceal(Redaction({"[secret A]": secret}))
    long = "-" * (end - 30) + secret
    said = {"event": None, "reason": "-" * (end - 30) + secret}
    for script in (long, {"json": said}, {"toolCalls": [{"name": long, "arguments": long}]}):
        messages = [{"role": "user", "content": long}]
        asked = {"provider": "scripted", "model": "m", "messages": messages, "script": [script, script]}
        result = stored(answer(asked, about, Ways(), Registry()), hidden=about.redaction)

        assert result.error is None
        assert "the-secret" not in f"{result.output} {result.state}"


@KINDS
def test_an_endless_answer_is_cut(kind: str) -> None:
    def endless(connection: socket.socket, _request: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        while True:
            connection.sendall(b" " * 65_536)

    with serving(endless) as server:
        error = failure_of(kind, server.url())

    assert (error.code, error.retryable) == ("ai.too_large", False)


@KINDS
def test_a_provider_that_says_nothing_is_waited_for_so_long(kind: str) -> None:
    def silent(connection: socket.socket, _request: bytes) -> None:
        connection.recv(1)

    with serving(silent) as server:
        error = failure_of(kind, server.url(), seconds=0.3)

    assert (error.code, error.retryable) == ("ai.timeout", True)


@KINDS
def test_a_provider_that_is_not_there_is_tried_again(kind: str) -> None:
    with serving(fixed(b"")) as server:
        url = server.url()

    assert (failure_of(kind, url).code, failure_of(kind, url).retryable) == ("ai.connect", True)


@KINDS
def test_special_networks_are_closed_unless_the_operator_opens_them(kind: str) -> None:
    with serving(fixed(json_answer(SAID[kind]))) as server:
        closed = Egress((), resolve_name, trust_of_the_system)
        way = Ways({kind: ProviderSetting(kind, server.url(), KEY)}, closed, 5).to(
            asked_of(kind), HERE, lambda: False
        )
        assert isinstance(way, Way)
        with pytest.raises(Permanent) as raised:
            way.provider.complete(request_of())
        assert server.connections == 0

    assert raised.value.code == "ai.refused_address"


@KINDS
def test_who_is_cancelled_asks_no_more(kind: str) -> None:
    ways = Ways({kind: ProviderSetting(kind, "http://127.0.0.1:9", KEY)}, LOOPBACK, 5)
    way = ways.to(asked_of(kind), HERE, lambda: True)
    assert isinstance(way, Way)
    with pytest.raises(Retryable) as raised:
        way.provider.complete(request_of())
    assert raised.value.code == "ai.cancelled"


# -- who may be asked ----------------------------------------------------------------------------------------------


@KINDS
def test_the_operators_key_goes_to_the_operators_place_only(kind: str) -> None:
    with serving(fixed(json_answer(SAID[kind]))) as elsewhere:
        ways = Ways({kind: ProviderSetting(kind, "https://api.operator.test/v1", KEY)}, LOOPBACK, 5)
        for input, shown in (({}, None), ({"apiKey": "of-the-task"}, "of-the-task")):
            way = ways.to(asked_of(kind, baseUrl=elsewhere.url(), **input), HERE, lambda: False)
            assert isinstance(way, Way)
            way.provider.complete(request_of())
            _, headers, _ = sent(elsewhere)
            assert headers.get("x-api-key", headers.get("authorization", "")[7:] or None) == shown
        assert not [request for request in elsewhere.requests if KEY.encode() in request]


@pytest.mark.parametrize(
    ("policy", "base_url", "allowed"),
    [
        (None, None, True),
        ({}, None, True),
        ({}, "https://evil.test/v1", False),
        (None, "https://evil.test/v1", False),
        (None, "https://api.operator.test/other", True),
        ({"allowedDomains": []}, None, False),
        ({"allowedDomains": ["*.operator.test"]}, None, True),
        ({"allowedDomains": ["operator.test"]}, None, False),
        ({"allowedDomains": ["evil.test"]}, "https://evil.test/v1", True),
        ({"allowedDomains": ["evil.test"]}, "https://evil.test.example/v1", False),
        ({}, "https://API.OPERATOR.TEST/v1", True),
        ({}, "https://api.operator.test.evil.test/v1", False),
    ],
)
def test_hosts_are_the_operators_or_the_policys(policy: Any, base_url: str | None, allowed: bool) -> None:
    ways = Ways({"openai": ProviderSetting("openai", "https://api.operator.test/v1", KEY)}, LOOPBACK, 5)
    given = {} if base_url is None else {"baseUrl": base_url}

    way = ways.to(asked_of("openai", **given), read_policy(policy), lambda: False)

    assert isinstance(way, Way) if allowed else getattr(way, "why", None) is Why.DOMAIN_NOT_ALLOWED


@pytest.mark.parametrize(
    "url",
    [
        "https://user:pass@api.operator.test/v1",
        "https://api.operator.test/v1?x=1",
        "https://",
        "https://a:b/",
        "https://x/#y",
    ],
)
def test_an_address_is_an_address_and_no_more(url: str) -> None:
    with pytest.raises(Permanent) as raised:
        Ways().to(asked_of("openai", baseUrl=url), HERE, lambda: False)
    assert raised.value.code == "ai.input"


def test_a_provider_that_nobody_has_set_up_is_reached_nowhere() -> None:
    assert (
        getattr(Ways().to(asked_of("openai"), read_policy({}), lambda: False), "why", None)
        is Why.DOMAIN_NOT_ALLOWED
    )
    with pytest.raises(Permanent, match='did you mean "openai"') as raised:
        Ways().to(asked_of("opnai"), read_policy({}), lambda: False)
    assert raised.value.code == "ai.provider"


def test_the_operators_list_of_models_holds_without_a_policy() -> None:
    listed = way_to(
        "openai",
        "https://x.test",
        policy=read_policy({"allowedDomains": ["x.test"]}),
        models=frozenset({"m-1"}),
    )
    assert isinstance(listed, Way)
    assert listed.is_listed
    other = way_to("openai", "https://x.test", models=frozenset({"m-2"}))
    assert getattr(other, "why", None) is Why.MODEL_NOT_ALLOWED


def test_the_setting_is_read_whole() -> None:
    written = {
        "openai": {"key": "k", "models": ["m"], "prices": {"m": {"input": 1, "output": 2}}},
        "local": {"kind": "openai", "url": "http://127.0.0.1:11434/v1/"},
    }
    found = read_providers(json.dumps(written))

    assert found["openai"].url == "https://api.openai.com/v1"
    assert found["openai"].prices["m"].output == 2
    assert (found["local"].kind, found["local"].url) == ("openai", "http://127.0.0.1:11434/v1")
    assert "'k'" not in repr(found)


@pytest.mark.parametrize(
    "written",
    [
        "{",
        "[]",
        '{"a": {}}',
        '{"openai": 1}',
        '{"scripted": {"kind": "openai"}}',
        '{"openai": {"key": 1}}',
        '{"openai": {"keys": "the-secret-key"}}',
        '{"openai": {"key": "the-secret-key", "url": "ftp://x"}}',
        '{"openai": {"key": "the-secret-key", "models": "all"}}',
        '{"openai": {"key": "the-secret-key", "prices": {"m": 1}}}',
    ],
)
def test_a_setting_that_is_wrong_is_refused_at_the_start_without_its_keys(
    monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    monkeypatch.setenv("SIGNALBOX_AI_PROVIDERS", written)

    with pytest.raises(Misconfigured) as raised:
        Settings.load()

    assert "SIGNALBOX_AI_PROVIDERS" in str(raised.value)
    assert "the-secret-key" not in str(raised.value)


def test_the_settings_of_the_process_are_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(fixed(json_answer(SAID_BY_OPENAI))) as server:
        monkeypatch.setenv("SIGNALBOX_HTTP_ALLOW", "127.0.0.0/8")
        monkeypatch.setenv(
            "SIGNALBOX_AI_PROVIDERS", json.dumps({"openai": {"url": server.url("/v1"), "key": KEY}})
        )
        way = operators_ways().to(asked_of("openai"), read_policy(None), lambda: False)
        assert isinstance(way, Way)
        assert way.provider.complete(request_of()).text == "let me see"
    assert KEY not in json.dumps(Settings.load().redacted())


@KINDS
def test_a_library_that_is_not_installed_is_named(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, kind, None)

    error = failure_of(kind, "http://127.0.0.1:9")

    assert (error.code, error.retryable) == ("ai.no_library", False)
    assert "signalbox[ai]" in str(error)


def test_names_on_the_wire_lead_back_exactly() -> None:
    ours = ["a.b", "a_b", "a:b", "x" * 100, "x" * 101]
    names = WireNames(ours)
    theirs = [names.theirs(name) for name in ours]

    assert len(set(theirs)) == len(ours)
    assert [names.ours(wire) for wire in theirs] == ours
    assert max(map(len, theirs)) <= 64
    assert names.ours("a.b") == "a.b"
    assert names.ours("made_up") == "made_up"


def test_an_answer_that_no_database_takes_is_made_fit() -> None:
    said = json.loads(json.dumps(SAID_BY_OPENAI))
    message = said["choices"][0]["message"]
    message["content"] = "a\x00b\ud800"
    message["tool_calls"][0]["function"] |= {"name": "x\x00" + "y" * 500, "arguments": '{"a": "\x00"}'}
    with serving(fixed(json_answer(said))) as server:
        answer = complete("openai", server.url()).storable()

    [call] = answer.tool_calls
    told = answer.text + call.name + call.arguments
    assert "\x00" not in told
    assert told.encode()
    assert len(call.name) == 200
