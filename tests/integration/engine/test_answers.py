"""Ends that are told to the step: written with it, once, as any other end; and stored by others where no step can take them."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from common.commands.outcome import known_end, report_known
from common.commands.verify import verify_instance
from common.db import Bells
from common.ids import InstanceId, WorkerId, new_id
from common.lifecycle import InstanceStatus
from common.queues.answers import Answer, Envelope
from common.queues.handed import TaskSealer, receipt_note, worker_call
from common.queues.offers import OFFERS, name_of
from common.store.claims import TaskClaim
from common.store.instances import lock_ready
from orchestrator import stepping
from orchestrator.answers import Answers
from orchestrator.sweep import expire_due_leases
from task_runner import answering
from task_runner.run import Runner
from tests.integration.engine.documents import ON_POSTGRESQL, ONE_TASK, one_task, waiting_with_task
from tests.support.engine import Engine
from tests.support.runners import MakeRunner
from tests.support.waiting import wait_until

ENVELOPE = Envelope(b"k" * 32)


class Told:
    """The engine's orchestrator with an ear, and what its runners hear of it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.answers = Answers(ENVELOPE, WorkerId(new_id()))
        engine.advancing = replace(engine.advancing, answers=self.answers)
        self.sealer = TaskSealer(ENVELOPE)
        self.rung: list[str] = []
        self.calls: list[bytes] = []
        self.is_deaf = False
        engine.database.listeners.append(self._ring)

    def _ring(self, bells: Bells) -> None:
        notes = bells.get(name_of(self.engine.worker), [])
        self.rung += notes
        if notes:
            whom = name_of(self.engine.worker)
            self.calls.append(worker_call(whom, notes, self.answers.address, self.sealer)[0])

    def say(self, whom: str, hints: bytes) -> int:
        if whom == OFFERS:
            self.engine.advancing.offers.hear([hints])
        elif not self.is_deaf:
            assert whom == self.answers.address
            self.answers.hear([hints])
        return 1

    def tell(self, claims: Sequence[TaskClaim], output: Any = None) -> list[str]:
        """Tell how claims ended, as a runner does; the notes of their receipts."""
        told = []
        for claim in claims:
            assert claim.claimed_at is not None
            ended_at = claim.claimed_at + timedelta(milliseconds=3)
            end = known_end(replace(self.engine.succeeded(claim, output), ended_at=ended_at))
            told.append(Answer(self.engine.worker, f"receipt of {claim.id}", end))
        assert self.answers.address is not None
        self.answers.hear([ENVELOPE.seal(self.answers.address, told)])
        return [receipt_note(one.receipt) for one in told]

    def deliver(self, runner: Runner) -> None:
        hints, self.calls = self.calls, []
        runner.take_up(hints)


@pytest.fixture
def told(engine: Engine) -> Told:
    return Told(engine)


def claimed(engine: Engine, *documents: dict[str, Any]) -> list[TaskClaim]:
    """A task each of an instance of each document."""
    engine.handler("work", lambda _input: None)
    ids = [engine.start(document) for document in documents]
    engine.advance()
    by_instance = {claim.instance_id: claim for claim in engine.claim()}
    return [by_instance[one] for one in ids]


def inbox(engine: Engine) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in engine.execute("SELECT type, parked FROM inbox ORDER BY id")]


def verified(engine: Engine, instance_id: InstanceId) -> bool:
    with engine.database.reading() as tx:
        return bool(verify_instance(tx, engine.tenant_id, instance_id)["valid"])


def statuses(engine: Engine, claims: Sequence[TaskClaim]) -> list[InstanceStatus]:
    return [engine.status(claim.instance_id) for claim in claims]


def test_a_step_ends_the_task_that_it_is_told_of_and_leaves_what_a_report_leaves(
    engine: Engine, told: Told
) -> None:
    first, second = claimed(engine, ONE_TASK, ONE_TASK)
    output = {"a": [1, None, "ü\\\"'"]}
    ended = known_end(
        replace(
            engine.succeeded(second, output),
            ended_at=(second.claimed_at or engine.now()) + timedelta(milliseconds=3),
        )
    )

    receipts = told.tell([first], output)
    assert report_known(engine.database, [replace(engine.succeeded(second, output), ended_at=ended.ended_at)])
    engine.advance()

    assert statuses(engine, [first, second]) == [InstanceStatus.COMPLETED] * 2
    assert told.rung == receipts
    stored = [
        [
            tuple(row)
            for one in (
                "SELECT status, attempt, output, error, lease_owner, lease_token, lease_expires_at, finished_at IS NULL FROM tasks WHERE id = '{}'",
                "SELECT attempt, outcome, error, result_digest, ended_at IS NULL FROM attempts WHERE task_id = '{}'",
            )
            for row in engine.execute(one.format(claim.id))
        ]
        for claim in (first, second)
    ]
    assert stored[0] == stored[1]
    assert engine.entry_types(first.instance_id) == engine.entry_types(second.instance_id)
    assert verified(engine, first.instance_id)
    assert inbox(engine) == []


def test_an_end_that_comes_twice_counts_once(engine: Engine, told: Told) -> None:
    [claim] = claimed(engine, waiting_with_task())

    told.tell([claim] * 2)
    engine.advance()
    told.tell([claim])
    engine.advance()

    assert engine.entry_types(claim.instance_id).count("task.succeeded") == 1
    assert len(told.rung) == 1, "of what is not held any more nobody has a receipt"
    assert inbox(engine) == []


def test_an_end_whose_lease_is_gone_is_refused_and_harms_no_other(engine: Engine, told: Told) -> None:
    lost, held = claimed(engine, ONE_TASK, ONE_TASK)
    engine.execute(f"UPDATE tasks SET lease_expires_at = created_at WHERE id = '{lost.id}'")
    assert expire_due_leases(engine.database)

    receipts = told.tell([lost, held])
    engine.advance()

    assert statuses(engine, [lost, held]) == [InstanceStatus.RUNNING, InstanceStatus.COMPLETED]
    assert told.rung == receipts[1:]
    assert engine.execute(f"SELECT status FROM tasks WHERE id = '{lost.id}'") == [("pending",)]
    assert verified(engine, held.instance_id)


def test_events_that_came_before_are_taken_before(engine: Engine, told: Told) -> None:
    [claim] = claimed(engine, waiting_with_task())
    engine.send(claim.instance_id, "ADD", n=1)

    told.tell([claim])
    engine.advance()

    wanted = ("event.received", "task.succeeded")
    found = [one for one in engine.entry_types(claim.instance_id) if one in wanted]
    assert found[:2] == list(wanted)
    assert len(told.rung) == 1
    assert verified(engine, claim.instance_id)


def test_the_end_for_a_paused_instance_waits_until_it_is_resumed(engine: Engine, told: Told) -> None:
    [claim] = claimed(engine, ONE_TASK)
    engine.control("pause", claim.instance_id)
    engine.advance()

    receipts = told.tell([claim])
    engine.advance()
    assert engine.status(claim.instance_id) is InstanceStatus.PAUSED
    assert [bool(parked) for _, parked in inbox(engine)] == [True]
    assert told.rung == receipts

    engine.control("resume", claim.instance_id)
    engine.advance()
    assert engine.status(claim.instance_id) is InstanceStatus.COMPLETED
    assert verified(engine, claim.instance_id)


def test_a_step_that_fails_by_itself_keeps_the_end_for_the_retry(
    engine: Engine, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    [claim] = claimed(engine, ONE_TASK)
    through = stepping.Stepping.through

    def broken(*_: Any) -> Any:
        raise RuntimeError("a fault of the engine")

    monkeypatch.setattr(stepping.Stepping, "through", broken)
    told.tell([claim])
    engine.advance()
    assert engine.status(claim.instance_id) is InstanceStatus.FAILED

    monkeypatch.setattr(stepping.Stepping, "through", through)
    engine.control("retry", claim.instance_id)
    engine.advance()
    assert engine.status(claim.instance_id) is InstanceStatus.COMPLETED
    assert verified(engine, claim.instance_id)


def test_two_ends_for_one_instance_are_both_taken(engine: Engine, told: Told) -> None:
    document = {
        "id": "both",
        "type": "parallel",
        "states": {
            name: {
                "initial": "working",
                "states": {
                    "working": {"invoke": {"src": "work", "onDone": "done"}},
                    "done": {"type": "final"},
                },
            }
            for name in ("left", "right")
        },
    }
    engine.handler("work", lambda _input: None)
    instance_id = engine.start(document)
    engine.advance()

    told.tell(engine.claim())
    engine.advance()

    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    assert len(told.rung) == 2
    assert verified(engine, instance_id)


@ON_POSTGRESQL
def test_the_end_for_an_instance_that_others_hold_waits_in_the_inbox(engine: Engine, told: Told) -> None:
    """On SQLite nobody else writes meanwhile, so nobody holds it."""
    held, free = claimed(engine, ONE_TASK, ONE_TASK)

    with engine.database.transaction() as tx:
        assert lock_ready(tx, [held.instance_id])
        told.tell([held, free])
        engine.advance()
        assert statuses(engine, [held, free]) == [InstanceStatus.RUNNING, InstanceStatus.COMPLETED]
    engine.advance()

    assert statuses(engine, [held]) == [InstanceStatus.COMPLETED]
    assert len(told.rung) == 2


def test_after_a_death_ends_are_stored_before_anybody_is_stepped(engine: Engine, told: Told) -> None:
    [claim] = claimed(engine, ONE_TASK)
    engine.advancing = replace(engine.advancing, last_death=engine.now)

    told.tell([claim])
    engine.advance()

    assert engine.status(claim.instance_id) is InstanceStatus.COMPLETED
    assert verified(engine, claim.instance_id)


def test_a_giant_inbox_hides_no_end(engine: Engine, told: Told) -> None:
    [claim] = claimed(engine, ONE_TASK)
    key = engine.apply(one_task("nobody"))
    for _ in range(80):
        engine.start(key)

    told.tell([claim])
    engine.advance()

    assert engine.status(claim.instance_id) is InstanceStatus.COMPLETED
    assert inbox(engine) == []


# -- from the runner ---------------------------------------------------------------------------------------------------


@pytest.fixture
def hungry(make_runner: MakeRunner, told: Told) -> Callable[[], Runner]:
    """Make a runner that has found nothing to claim, and tells how it ended what is leased to it."""

    def make() -> Runner:
        runner = make_runner(say=told.say, envelope=ENVELOPE)
        assert runner.claim(until=0.0).counts["claimed"] == 0
        return runner

    return make


def leased(engine: Engine, told: Told, runner: Runner) -> InstanceId:
    """An instance whose task is leased to a runner, and taken up."""
    instance_id = engine.start(ONE_TASK)
    engine.advance()
    told.deliver(runner)
    return instance_id


def test_a_runner_holds_what_it_told_until_the_receipt(
    engine: Engine, told: Told, hungry: Callable[[], Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "PATIENCE", 600.0)
    engine.handler("work", lambda _input: {"made": "here"})
    runner = hungry()
    instance_id = leased(engine, told, runner)
    wait_until(lambda: told.answers._heard, what="the answer")
    assert engine.execute("SELECT status FROM tasks") == [("running",)]
    assert inbox(engine) == []

    engine.advance()
    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    assert runner.held == 1
    told.deliver(runner)

    assert runner.held == 0
    assert verified(engine, instance_id)
    [ended] = [one for one in engine.entries(instance_id) if one["type"] == "task.succeeded"]
    assert ended["attemptsDigest"]


def test_what_nobody_hears_a_runner_stores_by_itself(
    engine: Engine, told: Told, hungry: Callable[[], Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "PATIENCE", 0.05)
    engine.handler("work", lambda _input: None)
    runner = hungry()
    told.is_deaf = True
    instance_id = leased(engine, told, runner)

    wait_until(lambda: runner.held == 0, what="the runner to store it")
    engine.advance()

    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    assert engine.entry_types(instance_id).count("task.succeeded") == 1


def test_a_receipt_that_gets_lost_costs_nothing_but_a_look(
    engine: Engine, told: Told, hungry: Callable[[], Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "PATIENCE", 0.3)
    engine.handler("work", lambda _input: None)
    runner = hungry()
    instance_id = leased(engine, told, runner)
    wait_until(lambda: told.answers._heard, what="the answer")
    engine.advance()
    entries = engine.entry_types(instance_id)

    wait_until(lambda: runner.held == 0, what="the runner to find that it is stored")
    engine.advance()

    assert engine.entry_types(instance_id) == entries
    assert engine.execute("SELECT outcome FROM attempts") == [("succeeded",)]


def test_a_drain_stores_what_no_receipt_has_come_for(
    engine: Engine, told: Told, hungry: Callable[[], Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "PATIENCE", 600.0)
    engine.handler("work", lambda _input: None)
    runner = hungry()
    instance_id = leased(engine, told, runner)
    wait_until(lambda: told.answers._heard, what="the answer")

    assert runner.drain(5) == 0

    assert engine.execute("SELECT status FROM tasks") == [("succeeded",)]
    engine.advance()
    assert engine.status(instance_id) is InstanceStatus.COMPLETED
    assert engine.entry_types(instance_id).count("task.succeeded") == 1


def test_what_is_too_long_to_be_told_is_stored(
    engine: Engine, told: Told, hungry: Callable[[], Runner]
) -> None:
    engine.handler("work", lambda _input: "x" * 20_000)
    runner = hungry()
    instance_id = leased(engine, told, runner)

    wait_until(lambda: runner.held == 0, what="the runner to store it")
    assert told.answers.take() == []
    engine.advance()
    assert engine.status(instance_id) is InstanceStatus.COMPLETED


def test_no_answer_for_an_orchestrator_of_another_secret(
    engine: Engine, told: Told, make_runner: MakeRunner
) -> None:
    engine.handler("work", lambda _input: None)
    runner = make_runner(say=told.say, envelope=Envelope(os.urandom(32)))
    assert runner.claim(until=0.0).counts["claimed"] == 0

    instance_id = leased(engine, told, runner)

    wait_until(lambda: runner.held == 0, what="the runner to store it")
    engine.advance()
    assert engine.status(instance_id) is InstanceStatus.COMPLETED
