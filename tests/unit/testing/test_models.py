"""AI tasks in the kit: the policy holds there as in the engine, turn by turn, and suggestions wait for a word."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from common.commands.suggestions import decide_suggestion
from common.db import Database
from common.store import suggestions
from signalbox.testing import Unexpected, Workflow, WrongAnswer, says
from tests.support.ai import asking, decision, with_ai
from tests.support.engine import LIMITS, Engine
from tests.support.manual_clock import ManualClock
from tests.unit.testing.both import Both

DIRECT = {"allowedEvents": ["APPROVE"], "allowDirectEmit": True}
SUGGESTING = {"allowedEvents": ["APPROVE"]}
APPROVE = decision("APPROVE", {"amount": 5})


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[Engine]:
    database = Database.open(sqlite_url)
    yield with_ai(Engine.on(database))
    database.dispose()


@pytest.fixture
def clock(engine: Engine) -> Iterator[ManualClock]:
    clock = ManualClock(engine.database, datetime(2026, 3, 1, 12, tzinfo=UTC))
    yield clock
    clock.release()


def both_of(engine: Engine, clock: ManualClock, script: list[Any], policy: Any) -> Both:
    """The same answers, on one side from the script in the input, on the other from the test."""
    document = asking(script, policy)
    both = Both(engine, clock, Workflow.load(document, at=clock.now()).task("AI", says(*script)))
    both.run = both.workflow.start()
    both.instance_id = str(engine.start(document))
    return both.agreed()


@pytest.mark.parametrize(
    ("script", "policy", "verdict"),
    [
        ([APPROVE], DIRECT, "emitted"),
        ([APPROVE], SUGGESTING, "suggested"),
        ([APPROVE], None, "refused"),
        ([decision("PAY_OUT")], DIRECT, "refused"),
        (["It looks fine."], None, "none"),
    ],
)
def test_the_kit_and_the_engine_rule_alike(
    engine: Engine, clock: ManualClock, script: list[Any], policy: Any, verdict: str
) -> None:
    both = both_of(engine, clock, script, policy)
    assert both.run.context["output"]["verdict"] == verdict
    assert len(both.run.context["taken"]) == (verdict == "emitted")
    both.send("STOP")


@pytest.mark.parametrize("word", ["accept", "reject"])
def test_a_word_on_a_suggestion_is_the_same_on_both_sides(
    engine: Engine, clock: ManualClock, word: Any
) -> None:
    both = both_of(engine, clock, [APPROVE], SUGGESTING)
    getattr(both.run, word)("APPROVE", comment="why not")
    with engine.database.transaction() as tx:
        [found] = suggestions.list_suggestions(
            tx, engine.tenant_id, status="open", instance_id=None, before=None, limit=9
        ).items
        decide_suggestion(
            tx, engine.tenant_id, found.id, word, comment="why not", actor="test", limits=LIMITS
        )
    both.agreed()

    [view] = both.run.suggestions
    assert (view.event, view.payload, view.status) == ("APPROVE", {"amount": 5}, f"{word}ed")
    assert len(both.run.context["taken"]) == (word == "accept")


def test_a_model_says_what_the_test_says() -> None:
    document = asking([], DIRECT, input={"provider": "openai", "model": "gpt-x"})
    run = Workflow.load(document).task("clerk", says({"event": "APPROVE", "payload": {"amount": 5}})).start()

    assert run.context["output"]["verdict"] == "emitted"
    assert run.context["taken"][0]["amount"] == 5
    assert "ai.decided" in run.history.types()


def test_suggestions_expire_with_their_instance_and_a_word_needs_one_that_is_open() -> None:
    run = Workflow.load(asking([], SUGGESTING)).task("clerk", says({"event": "APPROVE"})).start()
    run.send("STOP")

    assert [one.status for one in run.suggestions] == ["expired"]
    with pytest.raises(Unexpected, match="an open suggestion"):
        run.accept("APPROVE")


def test_only_models_say_something() -> None:
    document = asking([], DIRECT, type="work")
    with pytest.raises(WrongAnswer, match="what the model of an AI task says"):
        Workflow.load(document).task("clerk", says("hello")).start()


def test_turns_are_attempts_here_too() -> None:
    tool = {"toolCalls": [{"name": "orders.find", "arguments": {"id": 7}}]}
    run = Workflow.load(asking([], DIRECT)).task("clerk", says(tool, tool, {"event": "APPROVE"})).start()

    assert run.context["output"]["verdict"] == "emitted"
    assert run.task("clerk").outcomes == ("continued", "continued", "succeeded")
    assert [one["outcome"] for turn in run.context["output"]["turns"] for one in turn["toolCalls"]] == [
        "refused"
    ] * 2
