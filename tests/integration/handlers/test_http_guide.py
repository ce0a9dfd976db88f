"""The guide to HTTP tasks says what is true: its workflows run against a server, its codes are the source's."""

import json
import re
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import statechart
from common.commands.secrets import set_secret
from common.credentials import SECRET_BYTES, Secret
from common.lifecycle import InstanceStatus
from common.sealing import SealingKeys
from task_runner.handlers.http import TO_BE_TRIED_AGAIN, send_http
from task_runner.resolve import Resolver, Secrets
from tests.support.engine import Engine
from tests.support.http_server import Answer, Server, fixed, ok, serving

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/guides/http-tasks.md").read_text()
STOCK, SHIP, INVOICE = (json.loads(text) for text in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
JSON = "Content-Type: application/json"
KEYS = SealingKeys.of(Secret(b"k" * SECRET_BYTES))


@pytest.fixture
def engine(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setenv("SIGNALBOX_HTTP_ALLOW", "127.0.0.0/8")
    engine.handler("HTTP", send_http)
    return engine


def run(
    engine: Engine, document: dict[str, Any], member: str, answer: Answer, **input: Any
) -> tuple[str, Server]:
    with serving(answer) as server:
        instance_id = engine.start(document, input={member: server.url("").rstrip("/"), **input})
        engine.settle()
    return instance_id, server


def test_an_answer_goes_into_the_context(engine: Engine) -> None:
    instance_id, server = run(engine, STOCK, "warehouse", fixed(ok(b'{"left": 7}', JSON)), sku="a-1")
    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    assert engine.context(instance_id) == {"left": 7, "problem": None}
    assert server.requests[0].startswith(b"GET /articles/a-1?unit=piece HTTP/1.1\r\n")


def test_a_status_chooses_the_way(engine: Engine) -> None:
    instance_id, _ = run(engine, STOCK, "warehouse", fixed(ok(b"", status="404 No")), sku="a-1")
    assert engine.snapshot(instance_id)["configuration"] == ["unknown"]


def test_what_may_pass_is_tried_again(engine: Engine) -> None:
    answers = fixed(ok(b"", status="503 Busy"), b"", ok(b'{"left": 1}', JSON))
    document = json.loads(json.dumps(STOCK))
    document["states"]["asking"]["invoke"]["retry"] = {"maxAttempts": 4, "interval": 0}
    instance_id, server = run(engine, document, "warehouse", answers, sku="a-1")
    assert engine.context(instance_id)["left"] == 1
    assert len(server.requests) == 3


def test_nothing_secret_stands_in_the_history(engine: Engine) -> None:
    document = json.loads(json.dumps(STOCK))
    document["states"]["asking"]["invoke"]["input"] |= {
        "headers": {"Authorization": "Bearer t0psecret"},
        "query": {"key": "k3yk3y"},
    }
    echo = ok(b"you sent Bearer t0psecret and k3yk3y", "Set-Cookie: c00kie=1", status="400 No")
    instance_id, _ = run(engine, document, "warehouse", fixed(echo), sku="a-1")
    assert engine.snapshot(instance_id)["configuration"] == ["stuck"]
    problem = engine.context(instance_id)["problem"]
    assert "found 400" in problem
    [failed] = [entry for entry in engine.entries(instance_id) if entry["type"] == "task.failed"]
    [attempt] = engine.execute("SELECT * FROM attempts")
    for secret in ("t0psecret", "k3yk3y", "c00kie"):
        assert secret not in problem
        assert secret not in json.dumps(failed)
        assert secret not in str(attempt)


def test_the_same_key_is_sent_by_every_attempt(engine: Engine) -> None:
    answers = fixed(ok(b"", status="502 Bad"), ok(b'{"id": "p-1"}', JSON, status="201 Created"))
    document = json.loads(json.dumps(SHIP))
    document["states"]["ordering"]["entry"]["task"]["retry"] = {"interval": 0}
    instance_id, server = run(engine, document, "carrier", answers, address="Here 1")
    assert engine.context(instance_id) == {"parcel": "p-1"}
    first, second = server.requests
    assert first == second
    assert first.startswith(b"POST /parcels HTTP/1.1\r\n")
    assert first.endswith(b'\r\n\r\n{"grams":900,"to":"Here 1"}')
    assert re.search(rb"\r\nIdempotency-Key: [0-9a-f-]{36}\r\n", first)


@pytest.mark.parametrize("document", [STOCK, SHIP])
def test_the_examples_have_no_problems(document: dict[str, Any]) -> None:
    assert statechart.check(document) == []


def test_every_code_is_one_of_the_source_and_the_other_way_round() -> None:
    told = set(re.findall(r"`http\.([a-z_]+)`", PAGE))
    source = "\n".join(path.read_text() for path in (ROOT / "task_runner/handlers").glob("http*.py"))
    raised = set(re.findall(r'code="http\.([a-z_]+)"', source))
    raised |= set(re.findall(r'_failure\(\s*\w+, "([a-z_]+)"', source))
    raised |= set(re.findall(r'Unreadable\(\s*"([a-z_]+)"', source))
    assert told == raised
    assert {int(code) for code in re.findall(r"`http\.(\d+)`", PAGE)} == TO_BE_TRIED_AGAIN


def test_credentials_become_a_header(engine: Engine) -> None:
    engine.resolver = Resolver({"secret": Secrets(lambda: KEYS)})
    with engine.database.transaction() as tx:
        set_secret(tx, engine.tenant_id, "BOOKS_PASSWORD", "pass word", keys=KEYS, actor="test")
    instance_id, server = run(engine, INVOICE, "books", fixed(ok(b"pass word")))
    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    assert f"Authorization: Basic {b64encode(b'acme:pass word').decode()}\r\n".encode() in server.requests[0]
    assert engine.execute("SELECT output FROM tasks")[0][0].count("[secret BOOKS_PASSWORD]") == 1
