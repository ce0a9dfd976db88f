"""Who arrives beside a flood: the runner lets it rest before his first task is there, and no step or report takes a thousand of its first."""

import threading
from collections.abc import Iterator

import pytest

from common import courtesy
from common.courtesy import FLOOD, Courtesy, Portions
from common.lifecycle import InstanceStatus
from common.queues.offers import name_of
from orchestrator import advance
from orchestrator.advance import advance_pass
from orchestrator.laps import Sweep
from task_runner import reporting, run
from task_runner.run import Runner
from tests.integration.engine.documents import ONE_TASK
from tests.integration.engine.test_answers import Told, claimed
from tests.support.engine import Engine
from tests.support.post import Post
from tests.support.runners import MakeRunner
from tests.support.waiting import wait_until

MANY = 12


@pytest.fixture
def quiet(engine: Engine) -> Engine:
    return Engine.on(engine.database, "quiet")


@pytest.fixture
def post(engine: Engine) -> Post:
    return Post(engine)


@pytest.fixture
def gate(engine: Engine) -> Iterator[threading.Event]:
    """What the handler waits for: open, until a test clears it."""
    gate = threading.Event()
    gate.set()
    engine.handler("work", lambda _input: gate.wait(20))
    yield gate
    gate.set()


@pytest.fixture
def rests() -> list[float]:
    return []


@pytest.fixture
def runner(
    engine: Engine, post: Post, make_runner: MakeRunner, rests: list[float], gate: threading.Event
) -> Runner:
    """A runner that has had a flood of `engine`'s tenant, and believes that more of it is due."""
    runner = make_runner(slots=8, say=post.say, ring_in=rests.append)
    for _ in range(MANY):
        engine.start(ONE_TASK)
    engine.advance()
    runner._shares.note({engine.tenant_id: 2 * int(FLOOD)})

    def is_over() -> bool:
        runner.claim(until=0.0)
        return engine.execute("SELECT count(*) FROM tasks WHERE status <> 'succeeded'") == [(0,)]

    wait_until(is_over, what="the flood to be over")
    engine.advancing.offers.forget(name_of(engine.worker))
    runner.claiming.flooding = frozenset({engine.tenant_id})
    return runner


@pytest.fixture(autouse=True)
def long_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courtesy, "REST_SECONDS", 30.0)


def test_a_runner_in_a_flood_claims_nothing_of_it_once_somebody_quiet_has_arrived(
    engine: Engine, quiet: Engine, runner: Runner, rests: list[float]
) -> None:
    assert runner.is_in_a_flood
    engine.start(ONE_TASK)
    engine.advance()

    runner.note_arrivals([quiet.tenant_id])

    assert runner.claim(until=0.0).counts["claimed"] == 0
    assert len(rests) == 1
    assert 0 < rests[0] <= 30.0, "it is rung when the rest is over"


def test_the_flood_s_own_arrivals_are_none(engine: Engine, runner: Runner, rests: list[float]) -> None:
    engine.start(ONE_TASK)
    engine.advance()

    runner.note_arrivals([engine.tenant_id])

    assert runner.claim(until=0.0).counts["claimed"] == 1
    assert rests == []


def test_the_first_task_of_who_arrives_is_leased_by_its_step_although_a_line_of_the_flood_waits(
    engine: Engine, quiet: Engine, runner: Runner, post: Post, gate: threading.Event
) -> None:
    gate.clear()
    runner.claiming.flooding = frozenset()
    for _ in range(MANY):
        engine.start(ONE_TASK)
    engine.advance()
    runner.claim(until=0.0)
    assert runner.slots.free < 0, "the flood has a line here"
    runner.claiming.have_more = runner.claiming.flooding = frozenset({engine.tenant_id})
    runner._handed._offering._told_at = 0.0001
    runner._handed.offer()

    one = quiet.start(ONE_TASK)
    engine.advance()
    post.deliver(runner)
    gate.set()

    wait_until(lambda: runner.held == 0, what="everything to end")
    attempts = engine.execute(
        f"SELECT a.outcome FROM attempts a JOIN tasks t ON t.id = a.task_id WHERE t.instance_id = '{one}'"
    )
    assert attempts == [("succeeded",)], "neither claimed nor given back"
    engine.advance()
    assert quiet.status(one) is InstanceStatus.COMPLETED


def test_a_claim_takes_no_more_than_others_may_wait_for(
    engine: Engine, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "CLAIMED", Portions(3, 2, 1))

    assert claims_of_a_flood(engine, runner, monkeypatch)[:4] == [3, 3, 3, 3]


def test_who_was_here_before_a_flood_is_expected_back(
    engine: Engine, quiet: Engine, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "CLAIMED", Portions(3, 2, 1))
    quiet.start(ONE_TASK)
    engine.advance()
    runner.claim(until=float("inf"))
    wait_until(lambda: runner.held == 0, what="his task to end")
    monkeypatch.setattr("task_runner.shares.JUDGED_SECONDS", float("inf"))  # he has been gone for a while

    assert claims_of_a_flood(engine, runner, monkeypatch)[:4] == [2, 2, 2, 2]


def claims_of_a_flood(engine: Engine, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tasks each claim takes of many that are due."""
    for _ in range(MANY):
        engine.start(ONE_TASK)
    engine.advance()
    runner.claiming.flooding = frozenset()
    batches: list[int] = []
    claim_due = runner.claiming.claim_due

    def noted(room: int) -> object:
        batch = claim_due(room)
        batches.append(batch.claimed)
        # What a slow slot still holds would be taken from the next one.
        wait_until(lambda: runner.held == 0, what="everything to end")
        return batch

    monkeypatch.setattr(runner.claiming, "claim_due", noted)
    runner.claim(until=float("inf"))
    return batches


def test_a_flood_that_never_waits_is_known_to_who_steps_it(
    engine: Engine, quiet: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courtesy, "FLOOD", MANY - 1.0)
    monkeypatch.setattr(courtesy, "STILL_FLOOD", 2.0)
    monkeypatch.setattr(courtesy, "QUIET", 2.0)
    sweep = Sweep(courtesy=Courtesy())
    for _ in range(MANY):
        engine.start(ONE_TASK)
    advance_pass(engine.advancing, sweep)
    assert not sweep.is_shared, "nobody else is here"

    quiet.start(ONE_TASK)
    advance_pass(engine.advancing, sweep)
    assert sweep.is_shared

    engine.start(ONE_TASK)
    done = advance_pass(engine.advancing, sweep)
    assert done.instances == 0
    assert 0 < done.rest <= 30.0, "and it rests for him"


def test_answers_are_stepped_in_portions_of_the_tenants_in_turn(
    engine: Engine, quiet: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advance, "ANSWERS", Portions(2, 2, 2))
    told = Told(engine)
    claims = claimed(engine, *[ONE_TASK] * 3)
    quiet.start(ONE_TASK)
    engine.advance()
    [mine] = engine.claim()
    told.tell([*claims, mine])

    done = advance_pass(engine.advancing, Sweep())

    assert done.more, "some have been told of and not stepped"
    assert quiet.status(mine.instance_id) is InstanceStatus.COMPLETED, "the last that was told, and his first"
    assert [engine.status(one.instance_id) for one in claims].count(InstanceStatus.COMPLETED) == 1
    engine.advance()
    assert [engine.status(one.instance_id) for one in claims] == [InstanceStatus.COMPLETED] * 3


def test_outcomes_are_stored_in_portions_of_the_tenants_in_turn(
    engine: Engine, quiet: Engine, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "STORED", Portions(2, 2, 2))
    for one in (engine, engine, engine, quiet):
        one.start(ONE_TASK)
    engine.advance()
    ends = [engine.succeeded(claim) for claim in engine.claim()]
    ends.sort(key=lambda end: end.tenant_id == quiet.tenant_id)
    store = runner.reporting
    portions: list[list[str]] = []
    report = store._report

    def noted(group: list[object]) -> None:
        portions.append([end.tenant_id for end in group])  # type: ignore[attr-defined]
        report(group)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "_report", noted)
    with store._turn:
        store._ready += ends
        store._turn.notify_all()
    wait_until(lambda: sum(map(len, portions)) == len(ends), what="all of them to be stored")

    assert portions == [[engine.tenant_id, quiet.tenant_id], [engine.tenant_id] * 2]
    engine.advance()
