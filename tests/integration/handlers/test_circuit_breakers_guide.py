"""The definition and the handler of docs/guides/circuit-breakers.md do what the page says."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from common.breaker import canonical_target
from common.config import Settings
from common.lifecycle import InstanceStatus
from statechart import check
from task_runner.handlers import http
from task_runner.registry import REGISTRY, Options, Permanent, Retryable
from tests.integration.engine.documents import ON_SQLITE
from tests.support.engine import Engine
from tests.support.http_server import Server, ok, serving
from tests.support.manual_clock import ManualClock

PAGE = (Path(__file__).parents[3] / "docs" / "guides" / "circuit-breakers.md").read_text()
(CAPTURE,) = map(json.loads, re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
(HANDLER,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_it_raises_no_alarm() -> None:
    assert check(CAPTURE) == []


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("SIGNALBOX_HTTP_ALLOW", "127.0.0.0/8")
    state = {"answer": ok(b"{}", status="503 Service Unavailable")}
    with serving(lambda connection, _request: connection.sendall(state["answer"])) as server:
        yield server, state


def test_orders_wait_while_the_service_is_down_and_are_captured_when_it_is_back(
    clock: ManualClock, engine: Engine, service: tuple[Server, dict[str, bytes]]
) -> None:
    server, state = service
    engine.handler("HTTP", http.send_http, Options(breaker=http.target))
    engine.apply(CAPTURE)
    orders = [
        engine.start("capture", input={"url": server.url("/capture?token=x"), "order": number})
        for number in range(12)
    ]
    for _ in range(12):
        engine.settle()
        clock.advance(timedelta(seconds=61))
    assert {engine.status(one) for one in orders} == {InstanceStatus.RUNNING}
    assert len(server.requests) < 12 + 13

    state["answer"] = ok(b"{}")
    engine.settle()
    assert {engine.status(one) for one in orders} == {InstanceStatus.COMPLETED}
    assert {tuple(engine.snapshot(one)["configuration"]) for one in orders} == {("captured",)}
    [row] = engine.execute("SELECT type, target FROM breakers")
    assert tuple(row) == ("HTTP", f"http://127.0.0.1:{server.port}")


@ON_SQLITE
def test_what_waits_longer_than_its_time_out_has_failed(
    clock: ManualClock, engine: Engine, service: tuple[Server, dict[str, bytes]]
) -> None:
    server, _state = service
    engine.handler("HTTP", http.send_http, Options(breaker=http.target))
    engine.apply(CAPTURE)
    orders = [engine.start("capture", input={"url": server.url(), "order": number}) for number in range(8)]
    engine.settle()

    clock.advance(timedelta(hours=2))
    engine.settle()

    assert {tuple(engine.snapshot(one)["configuration"]) for one in orders} == {("failed",)}


def test_the_handler_names_its_target() -> None:
    before = dict(REGISTRY._handlers)
    names: dict[str, Any] = {}
    try:
        exec(HANDLER, names)
        handler = REGISTRY.find("ledger.book", "")
        assert handler.options.breaker is not None
        written = {"ledgerUrl": "https://Ledger.example/v1?key=x", "amount": 0}
        assert canonical_target(handler.options.breaker(written) or "") == "https://ledger.example:443"
        with pytest.raises(Permanent):
            handler.function(written)
        with pytest.raises(Retryable):
            handler.function(written | {"amount": 1})
    finally:
        REGISTRY._handlers.clear()
        REGISTRY._handlers.update(before)


def test_the_figures_of_the_page_are_the_defaults() -> None:
    told = dict(re.findall(r"^\| `SIGNALBOX_(BREAKER\w*)` \| ([\w.]+) \|", PAGE, re.MULTILINE))
    fields = {name.upper(): field.default for name, field in Settings.model_fields.items()}

    assert {name: json.loads(value) for name, value in told.items()} == {
        name: value for name, value in fields.items() if name.startswith("BREAKER")
    }
