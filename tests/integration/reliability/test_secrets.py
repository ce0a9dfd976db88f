"""Secrets in a runner: resolved for every kind of handler, in one statement a claim, and never told by what comes back."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from sqlalchemy import event

from common.canonical import read
from common.commands.secrets import set_secret
from common.credentials import SECRET_BYTES, Secret
from common.errors import Misconfigured
from common.sealing import SealingKeys
from common.store.keys import ensure_tenant
from task_runner.isolate import Surroundings
from task_runner.registry import REGISTRY, Options, make_handler
from task_runner.resolve import Resolver, Secrets
from task_runner.run import Runner
from tests.integration.engine.documents import one_task
from tests.support import isolated_handlers
from tests.support.engine import Engine
from tests.support.runners import MakeRunner
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(120)
KEYS = SealingKeys.of(Secret(b"k" * SECRET_BYTES))
VALUE = "sk_live_0123456789"
INPUT = {"key": "Bearer ${secret.KEY}", "data": "${context.data}"}
ONCE = {"maxAttempts": 1}

Make = Callable[..., Runner]


@pytest.fixture
def make_resolving(make_runner: MakeRunner) -> Make:
    """Make a runner that resolves secrets by these keys."""

    def make(keys: Callable[[], SealingKeys] = lambda: KEYS) -> Runner:
        return make_runner(surroundings=Surroundings("json"), resolver=Resolver({"secret": Secrets(keys)}))

    return make


@pytest.fixture(autouse=True)
def handlers(engine: Engine) -> list[Any]:
    given: list[Any] = []

    def work(input: Any) -> Any:
        given.append(input)
        return {"got": input}

    def fail(input: Any) -> Any:
        raise ValueError(f"cannot use {input['key']}")

    engine.handler("work", work)
    engine.handler("fail", fail)
    engine.registry.add(make_handler("light", work, options=Options(light=True)))
    for handler in REGISTRY.all():
        if handler.function.__module__ == isolated_handlers.__name__:
            engine.registry.add(handler)
    return given


def put(engine: Engine, name: str = "KEY", value: str = VALUE) -> None:
    with engine.database.transaction() as tx:
        set_secret(tx, engine.tenant_id, name, value, keys=KEYS, actor="test")


def begin(engine: Engine, kind: str, input: Any = INPUT) -> str:
    document = one_task(kind, input=input, retry=ONCE)
    return engine.start({**document, "context": {"data": None}}, context={"data": "${secret.KEY}"})


def ended(engine: Engine, runner: Runner, kind: str, input: Any = INPUT) -> tuple[str, Any]:
    """Run a task to the end of its attempt: its outcome, and its output or error."""
    begin(engine, kind, input)
    engine.advance()
    runner.claim(until=0.0)

    def is_over() -> bool:
        return engine.execute("SELECT count(*) FROM attempts WHERE ended_at IS NULL") == [(0,)]

    wait_until(is_over, what="the attempt to end", seconds=60)
    [(outcome, error, output)] = engine.execute(
        "SELECT a.outcome, a.error, t.output FROM attempts a JOIN tasks t ON t.id = a.task_id "
        "ORDER BY a.started_at DESC LIMIT 1"
    )
    engine.advance()
    return outcome, read(error or output)


@pytest.mark.parametrize("kind", ["work", "light", "isolated.echo"])
def test_a_handler_gets_the_value_and_nothing_that_came_as_data(
    engine: Engine, make_resolving: Make, handlers: list[Any], kind: str
) -> None:
    put(engine)

    outcome = ended(engine, make_resolving(), kind)

    shown = {"key": "Bearer [secret KEY]", "data": "${secret.KEY}"}
    if kind == "isolated.echo":
        assert outcome == ("succeeded", {"length": len(f"Bearer {VALUE}"), "got": shown})
    else:
        assert outcome == ("succeeded", {"got": shown})
        assert handlers == [{"key": f"Bearer {VALUE}", "data": "${secret.KEY}"}]
    assert engine.execute("SELECT input FROM tasks") == [
        ('{"data":"${secret.KEY}","key":"Bearer ${secret.KEY}"}',)
    ]


@pytest.mark.parametrize("kind", ["fail", "isolated.fail"])
def test_an_error_does_not_tell_the_value(engine: Engine, make_resolving: Make, kind: str) -> None:
    put(engine)

    outcome, error = ended(engine, make_resolving(), kind)

    assert (outcome, error["message"]) == ("failed", "cannot use Bearer [secret KEY]")
    assert VALUE not in repr(error)
    assert "ValueError: cannot use Bearer [secret KEY]" in error["trace"]


@pytest.mark.parametrize("kind", ["work", "light", "isolated.echo"])
def test_a_secret_that_is_not_set_fails_the_task_for_good(
    engine: Engine, make_resolving: Make, kind: str
) -> None:
    outcome, error = ended(engine, make_resolving(), kind)

    assert (outcome, error["code"]) == ("failed", "secret.unknown")
    assert "`signalbox secrets set KEY`" in error["message"]
    put(engine)
    assert ended(engine, make_resolving(), kind)[0] == "succeeded"


def test_another_tenants_secret_is_none_of_ours(engine: Engine, make_resolving: Make) -> None:
    with engine.database.transaction() as tx:
        other = ensure_tenant(tx, "other")
        set_secret(tx, other, "KEY", VALUE, keys=KEYS, actor="test")

    assert ended(engine, make_resolving(), "work")[1]["code"] == "secret.unknown"


def test_a_value_that_was_set_again_is_used_at_once(
    engine: Engine, make_resolving: Make, handlers: list[Any]
) -> None:
    runner = make_resolving()
    for value in ("first value", "second value"):
        put(engine, value=value)
        ended(engine, runner, "work")

    assert [given["key"] for given in handlers] == ["Bearer first value", "Bearer second value"]


def without_a_secret() -> SealingKeys:
    raise Misconfigured("SIGNALBOX_SECRET is not set")


def test_a_runner_without_the_installations_secret_fails_what_needs_one_and_nothing_else(
    engine: Engine, make_resolving: Make, handlers: list[Any]
) -> None:
    put(engine)
    runner = make_resolving(without_a_secret)

    outcome, error = ended(engine, runner, "work")
    assert (outcome, error["code"]) == ("failed", "secret.no_key")
    assert "SIGNALBOX_SECRET is not set" in error["message"]
    assert ended(engine, runner, "work", {"key": "none"}) == ("succeeded", {"got": {"key": "none"}})
    assert handlers == [{"key": "none"}]


def test_what_another_installation_sealed_is_told(engine: Engine, make_resolving: Make) -> None:
    put(engine)

    _, error = ended(engine, make_resolving(lambda: SealingKeys.of(Secret(b"x" * SECRET_BYTES))), "work")

    assert error["code"] == "secret.unreadable"
    assert "SIGNALBOX_OLD_SECRETS" in error["message"]


def test_a_claim_reads_all_its_secrets_in_one_statement_and_none_where_it_has_none(
    engine: Engine, make_resolving: Make, handlers: list[Any]
) -> None:
    put(engine)
    put(engine, "OTHER", "another value")
    asked: list[str] = []

    def note(asked: list[str], *execution: Any) -> None:
        if "FROM secrets" in execution[2]:
            asked.append(execution[2])

    event.listen(engine.database.engine, "before_cursor_execute", partial(note, asked))
    runner = make_resolving()
    for _ in range(2):
        begin(engine, "light", ["none"])
    engine.advance()
    runner.claim(until=0.0)
    assert (asked, len(handlers)) == ([], 2)

    for name in ("KEY", "OTHER", "KEY"):
        begin(engine, "light", [f"${{secret.{name}}}"])
    engine.advance()
    runner.claim(until=0.0)
    assert len(asked) == 1
    assert sorted(handlers[2:]) == [["another value"], [VALUE], [VALUE]]
    engine.advance()
