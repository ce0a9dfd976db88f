"""Circuit breakers: while a target is down its tasks wait without burning attempts, one tries, and all go on once it answers."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event

from common.commands.breakers import close_breaker, forget_idle, open_breaker, reset_breaker
from common.db.now import read_now
from common.errors import LimitExceeded, NotFound
from common.lifecycle import InstanceStatus
from common.store import breakers
from common.store.breakers import BreakerRecord
from orchestrator.sweep import wake_waiting_for_breakers
from task_runner.call import ended
from task_runner.registry import Options, Retryable
from tests.integration.engine.documents import one_task
from tests.support.engine import LIMITS, Engine
from tests.support.manual_clock import ManualClock

COMPLETED, RUNNING, FAILED = InstanceStatus.COMPLETED, InstanceStatus.RUNNING, InstanceStatus.FAILED
COOL_DOWN = timedelta(seconds=60)
PATIENT = {"maxAttempts": 3, "interval": "1s", "jitter": 0}


class Target:
    """What a handler calls: down until it is healed. Counts its calls by instance's number."""

    def __init__(self) -> None:
        self.is_down = True
        self.calls: Counter[int] = Counter()

    def call(self, input: Any) -> str:
        self.calls[input["n"]] += 1
        if self.is_down:
            raise Retryable("down", code="http.503")
        return "done"


@pytest.fixture
def target(engine: Engine, clock: ManualClock) -> Target:
    target = Target()
    engine.handler("work", target.call, Options(breaker=lambda input: input["url"]))
    engine.apply(calling())
    return target


def calling(**task: Any) -> dict[str, Any]:
    given = {"url": "${input.url}", "n": "${input.n}"}
    return one_task(input=given, **{"retry": PATIENT, **task})


def start(engine: Engine, count: int, *, url: str = "https://host/path?query", first: int = 0) -> list[str]:
    return [
        engine.start("one-work", input={"n": number, "url": url}) for number in range(first, first + count)
    ]


def records(engine: Engine) -> list[BreakerRecord]:
    with engine.database.reading() as tx:
        return breakers.list_breakers(
            tx, engine.tenant_id, state=None, type=None, after=None, limit=200
        ).items


def only(engine: Engine) -> BreakerRecord:
    [record] = records(engine)
    return record


def attempts(engine: Engine) -> Counter[str]:
    return Counter(row[0] for row in engine.execute("SELECT outcome FROM attempts"))


def tried(engine: Engine) -> list[tuple[int, int]]:
    return [tuple(row) for row in engine.execute("SELECT attempt, lost FROM tasks ORDER BY created_at, id")]


def test_while_a_target_is_down_its_tasks_wait_and_burn_no_attempts(
    engine: Engine, clock: ManualClock, target: Target
) -> None:
    instances = start(engine, 20)
    engine.settle()

    record = only(engine)
    assert (record.key.type, record.key.target) == ("work", "https://host:443")
    assert record.breaker.state == "open"
    calls_until_open = sum(target.calls.values())

    for _ in range(10):  # ten cool-downs: one try each
        clock.advance(COOL_DOWN)
        engine.settle()
    clock.advance(timedelta(seconds=4))
    engine.settle()

    assert sum(target.calls.values()) == calls_until_open + 10
    assert {engine.status(one) for one in instances} == {RUNNING}, "who tries for all burns none either"
    assert only(engine).waiting == 20
    assert sum(attempts(engine).values()) == calls_until_open + 10, "who waits leaves no attempts behind"


def test_once_it_answers_everybody_goes_on_at_once(
    engine: Engine, clock: ManualClock, target: Target
) -> None:
    instances = start(engine, 20)
    engine.settle()
    target.is_down = False
    clock.advance(COOL_DOWN - timedelta(microseconds=1))
    engine.settle()
    assert not any(engine.status(one) is COMPLETED for one in instances)

    clock.advance(timedelta(microseconds=1))
    engine.settle()

    assert {engine.status(one) for one in instances} == {COMPLETED}
    assert attempts(engine)["succeeded"] == 20
    assert {lost for _, lost in tried(engine)} == {0}
    record = only(engine)
    assert (record.breaker.state, record.breaker.failures, record.waiting) == ("closed", 0, 0)


def test_only_one_tries_while_the_others_wait_for_how_that_ends(
    engine: Engine, clock: ManualClock, target: Target
) -> None:
    start(engine, 8)
    engine.settle()
    clock.advance(COOL_DOWN)
    sweep(engine)
    start(engine, 5, first=8)  # newcomers do not try either
    engine.advance()

    assert len(engine.claim()) == 1
    assert engine.claim() == []
    clock.advance(timedelta(hours=1))
    keep_leases(engine)
    sweep(engine)
    assert engine.claim() == [], "also when the try takes long"
    assert only(engine).breaker.state == "half_open"


def test_a_probe_that_dies_lets_another_one_try(engine: Engine, clock: ManualClock, target: Target) -> None:
    start(engine, 8)
    engine.settle()
    clock.advance(COOL_DOWN)
    sweep(engine)
    [dead] = engine.claim()
    assert engine.claim() == []

    target.is_down = False
    clock.advance(engine.lease + timedelta(seconds=1))
    engine.settle()

    assert engine.execute("SELECT count(*) FROM tasks WHERE status <> 'succeeded'")[0][0] == 0
    assert engine.report(engine.call(dead)).late == 1, "what it still brings back is refused"
    assert [lost for _, lost in tried(engine) if lost] == [1]


def test_a_probe_that_is_given_back_or_never_calls_lets_another_one_try(
    engine: Engine, clock: ManualClock, target: Target
) -> None:
    start(engine, 8)
    engine.settle()
    clock.advance(COOL_DOWN)
    sweep(engine)

    [given_back] = engine.claim()
    engine.report(ended(given_back, released=True))
    assert only(engine).breaker.state == "half_open"
    [another] = engine.claim()
    assert another.attempt == given_back.attempt or another.id != given_back.id
    assert engine.claim() == []


def test_a_task_of_a_tenant_does_not_wait_for_what_another_tenant_broke(
    engine: Engine, clock: ManualClock, target: Target
) -> None:
    start(engine, 8)
    engine.settle()
    other = replace(Engine.on(engine.database, "other"), registry=engine.registry)
    other.apply(calling())
    target.is_down = False

    theirs = start(other, 3)
    other.settle()

    assert {other.status(one) for one in theirs} == {COMPLETED}
    assert records(other) == []
    assert only(engine).breaker.state == "open"


def test_a_task_that_may_be_tried_once_is_not_tried_twice_to_test_its_target(
    engine: Engine, clock: ManualClock, target: Target
) -> None:
    turn(engine, open_breaker, limits=LIMITS)
    engine.apply(calling(retry={"maxAttempts": 1}))
    [once] = start(engine, 1)
    engine.settle()
    turn(engine, reset_breaker)
    engine.execute("UPDATE breakers SET state = 'open', retry_at = '2026-03-01 12:00:00.000000'")
    engine.settle()

    assert engine.status(once) is FAILED
    assert target.calls[0] == 1


def test_another_target_and_another_type_go_on(engine: Engine, clock: ManualClock, target: Target) -> None:
    start(engine, 8)
    engine.settle()
    target.is_down = False

    [elsewhere] = start(engine, 1, url="https://elsewhere/")
    [nowhere] = start(engine, 1, url="not a target")
    engine.settle()

    assert engine.status(elsewhere) is COMPLETED
    assert engine.status(nowhere) is COMPLETED


def test_a_retry_that_falls_due_while_it_is_open_waits_too(
    engine: Engine, clock: ManualClock, target: Target
) -> None:
    start(engine, 8)
    engine.settle()
    before = tried(engine)
    assert any(attempt for attempt, _ in before)

    clock.advance(timedelta(seconds=30))
    engine.settle()

    assert tried(engine) == before


@pytest.mark.parametrize(
    ("timeouts", "after", "code"),
    [
        ({"scheduleToStart": "30s"}, 30, "task.schedule_to_start_timeout"),
        ({"scheduleToClose": "30s"}, 30, "task.schedule_to_close_timeout"),
    ],
)
def test_a_task_that_waits_still_runs_out_of_time(
    engine: Engine, clock: ManualClock, target: Target, timeouts: Any, after: float, code: str
) -> None:
    start(engine, 8)
    engine.settle()
    engine.apply(calling(timeouts=timeouts))
    [waiting] = start(engine, 1)
    engine.settle()
    clock.advance(timedelta(seconds=after) - timedelta(microseconds=1))
    engine.settle()
    assert engine.status(waiting) is RUNNING

    clock.advance(timedelta(microseconds=1))
    engine.settle()

    assert engine.status(waiting) is FAILED
    [row] = engine.execute("SELECT error FROM tasks WHERE status = 'failed'")
    assert code in row[0]


def test_an_operator_opens_closes_and_resets(engine: Engine, clock: ManualClock, target: Target) -> None:
    target.is_down = False
    turn(engine, open_breaker, limits=LIMITS)
    [waiting] = start(engine, 1)
    clock.advance(timedelta(days=1))
    engine.settle()
    assert engine.status(waiting) is RUNNING
    assert target.calls == {}

    turn(engine, reset_breaker)
    engine.settle()
    assert engine.status(waiting) is COMPLETED

    turn(engine, close_breaker, limits=LIMITS)
    target.is_down = True
    start(engine, 8, first=1)
    engine.settle()
    assert only(engine).breaker.state == "closed", "whatever the calls say"
    assert all(target.calls[number] == 1 for number in range(1, 9))

    turn(engine, reset_breaker)
    start(engine, 8, first=9)
    engine.settle()
    assert only(engine).breaker.state == "open"
    with pytest.raises(NotFound):
        turn(engine, reset_breaker, target="https://nobody.called.it")


def test_a_tenant_has_so_many_breakers_and_what_tells_nothing_is_forgotten(
    engine: Engine, clock: ManualClock, target: Target
) -> None:
    few = LIMITS.model_copy(update={"max_breakers": 2})
    for name in ("a", "b"):
        turn(engine, open_breaker, target=name, limits=few)
    with pytest.raises(LimitExceeded):
        turn(engine, open_breaker, target="c", limits=few)
    start(engine, 2)
    engine.settle()
    assert len(records(engine)) == 3

    target.is_down = False
    clock.advance(timedelta(minutes=2))
    engine.settle()
    clock.advance(timedelta(hours=2))
    with engine.database.transaction() as tx:
        assert forget_idle(tx, now=read_now(tx)) == 1
    assert {record.key.target for record in records(engine)} == {"a", "b"}, "an operator's word stays"


def test_what_was_passed_over_when_it_closed_is_woken_by_the_sweep(
    engine: Engine, clock: ManualClock, target: Target
) -> None:
    instances = start(engine, 10)
    engine.settle()
    clock.advance(COOL_DOWN)
    sweep(engine)
    [probe] = engine.claim()
    engine.report(engine.succeeded(probe, "done"))
    engine.execute("UPDATE tasks SET run_at = '2026-03-02 00:00:00.000000' WHERE status = 'pending'")
    target.is_down = False

    engine.settle()

    assert {engine.status(one) for one in instances} == {COMPLETED}


def test_a_definition_may_have_none_watch_its_task(
    engine: Engine, clock: ManualClock, target: Target
) -> None:
    start(engine, 8)
    engine.settle()
    target.is_down = False
    engine.apply(calling(breaker=False))

    [unwatched] = start(engine, 1)
    engine.settle()

    assert engine.status(unwatched) is COMPLETED
    assert only(engine).breaker.state == "open", "and it tells nothing either"


@pytest.fixture
def statements(engine: Engine) -> Iterator[Callable[[], list[str]]]:
    """What was executed since it was last asked."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        seen.append(statement)

    def taken() -> list[str]:
        taken, seen[:] = list(seen), []
        return taken

    event.listen(engine.database.engine, "before_cursor_execute", note)
    yield taken
    event.remove(engine.database.engine, "before_cursor_execute", note)


def test_a_target_that_does_well_costs_one_read_a_claim_and_one_a_report_and_others_nothing(
    engine: Engine, clock: ManualClock, target: Target, statements: Callable[[], list[str]]
) -> None:
    target.is_down = False
    engine.handler("plain", lambda _input: "done")
    engine.start(one_task("plain"))
    engine.advance()
    statements()
    engine.report(*map(engine.call, engine.claim()))
    assert not [one for one in statements() if "breakers" in one]

    start(engine, 3)
    engine.advance()
    statements()
    engine.report(*map(engine.call, engine.claim()))
    assert [one.split()[0] for one in statements() if "breakers" in one] == ["SELECT", "SELECT"]
    assert records(engine) == []


def sweep(engine: Engine) -> None:
    wake_waiting_for_breakers(engine.database)


def keep_leases(engine: Engine) -> None:
    engine.execute(
        "UPDATE tasks SET lease_expires_at = '2030-01-01 00:00:00.000000' WHERE lease_token IS NOT NULL"
    )


def turn(engine: Engine, verb: Callable[..., Any], *, target: str = "https://host", **more: Any) -> None:
    with engine.database.transaction() as tx:
        verb(tx, engine.tenant_id, "work", target, actor="test", **more)
