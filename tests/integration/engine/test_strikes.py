"""Poison: an instance that ends its process whenever it is stepped is found out, and costs only itself."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from sqlalchemy import event

from common import faults
from common.commands.control import cancel_instance
from common.db import Database
from common.db.now import read_now
from common.faults import FaultInjected
from common.lifecycle import InstanceStatus
from common.store import instances
from orchestrator.advance import advance_pass, advance_ready
from orchestrator.laps import Sweep
from orchestrator.suspects import TOGETHER
from tests.integration.engine.documents import COUNTER, ON_SQLITE
from tests.support.engine import Engine

WAITING, PENDING, FAILED = InstanceStatus.WAITING, InstanceStatus.PENDING, InstanceStatus.FAILED


def after_a_death(engine: Engine, *, ago: timedelta = timedelta(0)) -> Engine:
    """The engine of a process that knows of a death just now: every row that waits is older."""
    with engine.database.reading() as tx:
        death: datetime = read_now(tx) - ago
    engine.advancing = replace(engine.advancing, last_death=lambda: death)
    return engine


def dies_in_step(business_key: str) -> None:
    """From here on the process `dies` whenever the instance with this business key is stepped."""

    def die() -> None:
        raise FaultInjected

    faults.arm("in_step", die, subject=business_key)


def strikes(engine: Engine) -> list[int]:
    return [int(row[0]) for row in engine.execute("SELECT strikes FROM instances ORDER BY id")]


def codes(engine: Engine) -> list[str]:
    return [row[0] for row in engine.execute("SELECT code FROM incidents")]


def test_the_third_strike_is_an_incident_and_the_others_go_on(engine: Engine) -> None:
    before = engine.start(COUNTER, business_key="before")
    deadly = engine.start("counter", business_key="deadly")
    behind = engine.start("counter", business_key="behind")
    dies_in_step("deadly")
    after_a_death(engine)

    deaths = 0
    for _ in range(2):
        with pytest.raises(FaultInjected):
            engine.advance()
        deaths += 1
    engine.advance()

    assert deaths == 2
    assert [engine.status(one) for one in (before, deadly, behind)] == [WAITING, FAILED, WAITING]
    assert codes(engine) == ["engine.poison"]
    assert strikes(engine) == [0, 0, 0]


@ON_SQLITE
def test_only_the_instance_that_was_being_stepped_is_struck(engine: Engine) -> None:
    """A hundred others that were to be stepped after it have nothing to do with the death."""
    engine.start(COUNTER, business_key="deadly")
    for n in range(3):
        engine.start("counter", business_key=f"behind-{n}")
    dies_in_step("deadly")
    after_a_death(engine)

    with pytest.raises(FaultInjected):
        engine.advance()

    assert strikes(engine) == [1, 0, 0, 0]


MANY = 30


def test_of_many_one_that_is_deadly_is_found_out_and_the_others_cost_one_death_together(
    engine: Engine,
) -> None:
    """They are stepped together first; after a death among them alone, and nobody is struck who was not being stepped."""
    others = [engine.start(COUNTER, business_key="0")]
    others += [engine.start("counter", business_key=str(n)) for n in range(1, MANY // 2)]
    deadly = engine.start("counter", business_key="deadly")
    others += [engine.start("counter", business_key=str(n)) for n in range(MANY // 2, MANY)]
    dies_in_step("deadly")
    after_a_death(engine)

    with pytest.raises(FaultInjected):
        engine.advance()
    assert strikes(engine) == [instances.DOUBTED] * TOGETHER + [0] * (MANY + 1 - TOGETHER)
    with pytest.raises(FaultInjected):
        engine.advance()
    assert sorted(engine.execute("SELECT strikes, count(*) FROM instances GROUP BY strikes"))[1:] == [
        (0, MANY // 2 + MANY + 1 - TOGETHER),
        (1, 1),
    ]
    with pytest.raises(FaultInjected):
        engine.advance()
    engine.advance()

    assert engine.status(deadly) is FAILED
    assert {engine.status(one) for one in others} == {WAITING}
    assert codes(engine) == ["engine.poison"]
    assert strikes(engine) == [0] * (MANY + 1)


def test_of_many_one_that_the_database_refuses_costs_only_itself(engine: Engine) -> None:
    engine.start(COUNTER, business_key="0")
    for n in range(1, MANY):
        engine.start("counter", business_key=str(n))
    refused = engine.start("counter", business_key="refused")

    def refuse() -> None:
        raise ValueError("a value that cannot be stored")

    faults.arm("in_step", refuse, subject="refused")
    after_a_death(engine)

    engine.advance()

    assert engine.status(refused) is FAILED
    assert codes(engine) == ["engine.rejected"]
    assert strikes(engine) == [0] * (MANY + 1)


def test_it_is_noted_once_of_those_who_are_stepped_together(engine: Engine) -> None:
    engine.start(COUNTER)
    for _ in range(1, 2 * TOGETHER):
        engine.start("counter")
    after_a_death(engine)

    noted: list[str] = []
    event.listen(
        engine.database.engine,
        "before_cursor_execute",
        lambda _c, _cursor, statement, *_: noted.append(statement) if "SET strikes" in statement else None,
    )

    done = advance_pass(engine.advancing, Sweep())

    assert done.instances == 2 * TOGETHER
    assert len(noted) == 2, noted


@ON_SQLITE
@pytest.mark.parametrize("many", [1, MANY])
def test_timers_that_a_suspect_arms_are_told_of(engine: Engine, many: int) -> None:
    """Nobody rings for them: who is not told looks too late."""
    due: list[float] = []
    engine.apply(
        {"id": "waits", "initial": "a", "states": {"a": {"after": {"30": "b"}}, "b": {"type": "final"}}}
    )
    for _ in range(many):
        engine.start("waits")
    after_a_death(engine)
    engine.advancing = replace(engine.advancing, on_due=due.append)

    advance_pass(engine.advancing, Sweep())

    assert len(due) == 1
    assert 0 < due[0] <= 0.03


@ON_SQLITE
def test_a_committed_pass_forgives_earlier_strikes(engine: Engine) -> None:
    deadly = engine.start(COUNTER, business_key="deadly")
    dies_in_step("deadly")
    after_a_death(engine)
    for _ in range(2):
        with pytest.raises(FaultInjected):
            engine.advance()
    assert strikes(engine) == [2]

    faults.disarm()
    engine.execute("UPDATE instances SET strikes = 1")
    engine.advance()

    assert engine.status(deadly) is WAITING
    assert strikes(engine) == [0]


@ON_SQLITE
def test_rows_younger_than_the_death_strike_nobody(engine: Engine) -> None:
    after_a_death(engine, ago=timedelta(seconds=30))
    engine.start(COUNTER, business_key="deadly")
    dies_in_step("deadly")

    with pytest.raises(FaultInjected):
        engine.advance()

    assert strikes(engine) == [0]


@ON_SQLITE
def test_without_a_death_a_backlog_strikes_nobody(engine: Engine) -> None:
    engine.start(COUNTER, business_key="deadly")
    dies_in_step("deadly")
    for _ in range(4):
        with pytest.raises(FaultInjected):
            engine.advance()

    faults.disarm()
    engine.advance()

    assert codes(engine) == []


@ON_SQLITE
def test_a_poisoned_instance_can_be_cancelled(engine: Engine) -> None:
    deadly = engine.start(COUNTER, business_key="deadly")
    dies_in_step("deadly")
    after_a_death(engine)
    for _ in range(2):
        with pytest.raises(FaultInjected):
            engine.advance()
    engine.advance()
    faults.disarm()

    with engine.database.transaction() as tx:
        cancel_instance(tx, engine.tenant_id, deadly, reason=None, actor="test")
    engine.advance()

    assert engine.status(deadly) is InstanceStatus.CANCELLED
    assert engine.execute("SELECT count(*) FROM inbox") == [(0,)]


@pytest.fixture
def postgres_engine(postgres_url: str) -> Iterator[Engine]:
    database = Database.open(postgres_url)
    yield Engine.on(database)
    database.dispose()


def test_processes_that_step_the_same_suspects_at_once_strike_nobody_to_death(
    postgres_engine: Engine,
) -> None:
    """One process died, four others take up what it may have held, all at once: nobody died in a step."""
    engine = after_a_death(postgres_engine)
    started = [engine.start(COUNTER), *(engine.start("counter") for _ in range(20))]
    after_a_death(engine)
    together = threading.Barrier(4)

    def process() -> None:
        together.wait(10)
        advance_ready(engine.advancing, until=time.monotonic() + 30)

    with ThreadPoolExecutor(4) as processes:
        for done in [processes.submit(process) for _ in range(4)]:
            done.result(30)

    assert codes(engine) == []
    assert {engine.status(one) for one in started} == {WAITING}
    assert strikes(engine) == [0] * len(started)


def test_a_suspect_that_somebody_else_is_about_to_step_is_left_to_him(postgres_engine: Engine) -> None:
    """Between his strike and his step nothing is locked but the turn: whoever comes then must not strike too."""
    engine = postgres_engine
    suspect = engine.start(COUNTER)
    after_a_death(engine)

    with engine.database.reading() as turn:
        assert instances.take_turns(turn, [suspect]) == {suspect}
        done = advance_pass(engine.advancing, Sweep())

    assert done.instances == 0
    assert strikes(engine) == [0]
    assert engine.advance().instances == 1
