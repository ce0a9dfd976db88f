"""Nothing poisons: whatever one instance carries, its neighbours in the same batch go on, and it says what happened."""

from typing import Any

import pytest
from sqlalchemy import text

from common.lifecycle import InstanceStatus
from orchestrator.advancing import Advancing
from tests.integration.engine.documents import COUNTER, ON_SQLITE, assign, on_go, one_task
from tests.support.engine import LIMITS, Engine

FAILED, WAITING, COMPLETED = InstanceStatus.FAILED, InstanceStatus.WAITING, InstanceStatus.COMPLETED


def statuses(engine: Engine, *instance_ids: str) -> list[InstanceStatus]:
    return [engine.status(instance_id) for instance_id in instance_ids]


def codes(engine: Engine) -> list[str]:
    return [row[0] for row in engine.execute("SELECT code FROM incidents ORDER BY id")]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("output", "code"),
    [
        ("nul \x00", "output.invalid"),
        ({"deep": ["\ud800"]}, "output.invalid"),
        (float("1e400"), "output.invalid"),
        (object(), "output.invalid"),
        ({1: "key"}, "output.invalid"),
        ("x" * LIMITS.max_output_bytes, "output.too_large"),
    ],
    ids=["NUL", "lone surrogate", "1e400", "no JSON", "number as key", "too large"],
)
def test_an_output_that_cannot_be_stored_fails_its_own_task(engine: Engine, output: Any, code: str) -> None:
    engine.handler("work", lambda input: output if input else "fine")
    bad = engine.start(one_task(input="${input}"), input="bad")
    good = engine.start("one-work", input=None)

    engine.settle()

    assert statuses(engine, bad, good) == [FAILED, COMPLETED]
    assert codes(engine) == [code]
    assert engine.execute("SELECT count(*) FROM attempts") == [(2,)], "the same input would fail again"


def test_a_context_that_grows_past_its_limit_fails_its_own_instance(engine: Engine) -> None:
    engine.advancing = Advancing(engine.database, max_context_bytes=20_000)
    document = on_go(assign("text", "${context.text + context.text}"), context={"text": "ä" * 1_000})
    growing, modest = engine.start(document), engine.start("on-go")
    engine.advance()
    for _ in range(5):
        engine.send(growing, "GO")
    engine.send(modest, "GO")

    engine.advance()

    assert statuses(engine, growing, modest) == [FAILED, WAITING]
    assert codes(engine) == ["limit.context"]
    assert len(engine.context(growing)["text"]) == 8_000, (
        "the last that was within the limit, counted in bytes"
    )
    assert engine.execute("SELECT count(*) FROM inbox WHERE parked") == [(1,)]


@ON_SQLITE
def test_the_limit_that_decided_is_recorded_and_replayed_under_another(engine: Engine) -> None:
    engine.advancing = Advancing(engine.database, max_context_bytes=3_000)
    growing = engine.start(
        on_go(assign("text", "${context.text + context.text}"), context={"text": "x" * 1_000})
    )
    engine.advance()
    for _ in range(2):
        engine.send(growing, "GO")

    engine.advance()

    assert engine.status(growing) is FAILED
    rows = engine.execute("SELECT input FROM history ORDER BY sequence")
    assert ['"contextLimit":3000' in row[0] for row in rows] == [False, False, True]


def task(**options: Any) -> dict[str, Any]:
    return {"type": "createTask", "task": {"type": "work", **options}}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("actions", "code"),
    [
        ([assign("x", "${1 / 0}")], "step.uncaught"),
        ([assign("x", "${context.nothing.here}")], "step.uncaught"),
        ([{"type": "raise", "event": "GO"}], "step.endless"),
        ([task(delay="${'soon'}")], "step.uncaught"),
        ([task(retry={"maxAttempts": "${context.many}"})], "step.uncaught"),
        ([task(idempotencyKey="k", retry={"maxAttempts": "${context.many}"})], "step.uncaught"),
        ([task(retry={"retryOn": "${context.code}"})], "step.uncaught"),
        ([task(priority="${40000}")], "step.uncaught"),
        ([task(idempotencyKey="k", priority="${40000}")], "step.uncaught"),
    ],
    ids=[
        "value",
        "path",
        "endless",
        "delay",
        "retry",
        "keyed retry",
        "codes",
        "priority",
        "keyed priority",
    ],
)
def test_a_definition_whose_step_cannot_be_done_fails_its_own_instance(
    engine: Engine, actions: list[Any], code: str
) -> None:
    engine.handler("work", lambda _input: None)
    bad = engine.start(on_go(*actions, context={"many": -1, "code": "handler.*"}))
    good = engine.start(COUNTER)
    engine.advance()
    engine.send(bad, "GO")
    engine.send(good, "ADD", n=1)

    engine.advance()

    assert statuses(engine, bad, good) == [FAILED, WAITING]
    assert codes(engine) == [code]
    assert engine.context(good) == {"seen": [1]}
    assert engine.execute("SELECT count(*) FROM tasks") == [(0,)]


@ON_SQLITE
def test_text_that_only_a_step_can_make_is_refused_before_it_is_stored(engine: Engine) -> None:
    """No door has seen it: an expression spells it out."""
    bad = engine.start(on_go(assign("x", "${'\\\\u0000'}")))
    good = engine.start(COUNTER)
    engine.advance()
    engine.send(bad, "GO")
    engine.send(good, "ADD", n=1)

    engine.advance()

    assert engine.status(good) is WAITING
    assert engine.context(good) == {"seen": [1]}
    assert engine.context(bad).get("x") in (None, "\\u0000"), "never NUL itself"


def refuse_history_where(engine: Engine, condition: str) -> None:
    """Let the database refuse rows of the history, as a check of the operator's own might."""
    if engine.database.is_sqlite:
        engine.execute(
            f"CREATE TRIGGER refusing BEFORE INSERT ON history WHEN NEW.{condition} "
            "BEGIN SELECT RAISE(ABORT, 'refused by the test'); END"
        )
    else:
        engine.execute(f"ALTER TABLE history ADD CONSTRAINT refusing CHECK (NOT ({condition})) NOT VALID")


def test_a_row_that_the_database_refuses_costs_its_own_instance_in_the_batch(engine: Engine) -> None:
    bad, good, behind = engine.start(COUNTER), engine.start("counter"), engine.start("counter")
    engine.advance()
    refuse_history_where(engine, "actor = 'poison'")
    for instance_id in (bad, good, behind):
        engine.send(instance_id, "ADD", n=1)
    with engine.database.transaction() as tx:
        tx.execute(text("UPDATE inbox SET source = 'poison' WHERE instance_id = :id"), {"id": bad})

    engine.advance()

    assert statuses(engine, bad, good, behind) == [FAILED, WAITING, WAITING]
    assert codes(engine) == ["engine.rejected"]
    assert engine.context(good) == engine.context(behind) == {"seen": [1]}
    assert engine.execute("SELECT parked FROM inbox") == [(True,)]


def test_an_instance_that_cannot_even_be_given_up_stops_nobody(engine: Engine) -> None:
    stuck, good, behind = engine.start(COUNTER), engine.start("counter"), engine.start("counter")
    engine.advance()
    refuse_history_where(engine, f"instance_id = '{stuck}'")
    for instance_id in (stuck, good, behind):
        engine.send(instance_id, "ADD", n=1)

    engine.advance()

    assert engine.context(good) == engine.context(behind) == {"seen": [1]}
    assert engine.status(stuck) is WAITING
    assert engine.execute("SELECT count(*) FROM inbox") == [(1,)]
