"""Locks on PostgreSQL: one order for whoever waits, senders never wait, and what commits later is applied later."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Connection, text

from common.commands.control import cancel_instance
from common.commands.send import send_event
from common.db import Database
from common.db.now import read_now
from common.ids import InstanceId
from common.lifecycle import InstanceStatus
from common.store import inbox, instances, timers
from orchestrator.sweep import expire_due_leases
from orchestrator.timers import fire_due_timers
from tests.integration.engine.documents import COUNTER, after, waiting_with_task
from tests.support.engine import LIMITS, Engine
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@contextmanager
def impatient(database: Database) -> Iterator[Connection]:
    """A transaction that would rather fail than wait for a lock."""
    with database.transaction() as tx:
        tx.exec_driver_sql("SET LOCAL lock_timeout = '300ms'")
        yield tx


def waiters(database: Database) -> int:
    with database.reading() as tx:
        asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        return int(tx.exec_driver_sql(asked).scalar_one())


def deadlocks(database: Database) -> int:
    with database.reading() as tx:
        asked = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        return int(tx.exec_driver_sql(asked).scalar_one())


def send(tx: Connection, engine: Engine, instance_id: str, n: int) -> None:
    send_event(tx, engine.tenant_id, instance_id, {"type": "ADD", "n": n}, actor="test", limits=LIMITS)


def cancel(tx: Connection, engine: Engine, instance_id: str) -> None:
    cancel_instance(tx, engine.tenant_id, instance_id, reason=None, actor="test")


def test_an_instance_that_is_being_stepped_takes_events_notes_and_cancels(engine: Engine) -> None:
    """Every insert into the inbox takes KEY SHARE on its instance: only NO KEY UPDATE goes together with it."""
    instance_id = engine.start(COUNTER)
    engine.advance()
    with engine.database.transaction() as stepping:
        assert instances.lock_ready(stepping, [instance_id])
        with impatient(engine.database) as tx:
            send(tx, engine, instance_id, 1)
            cancel(tx, engine, instance_id)
    engine.advance()

    assert engine.status(instance_id) is InstanceStatus.CANCELLED


def test_an_instance_that_somebody_writes_to_can_be_stepped(engine: Engine) -> None:
    """The other way round: an unfinished send must not make the orchestrator skip its instance for ever."""
    instance_id = engine.start(COUNTER)
    with engine.database.transaction() as sending:
        send(sending, engine, instance_id, 1)
        engine.advance()
        assert engine.status(instance_id) is InstanceStatus.WAITING
    engine.advance()

    assert engine.context(instance_id)["seen"] == [1]


def test_two_orchestrators_never_wait_for_each_other(engine: Engine) -> None:
    first, second = engine.start(COUNTER), engine.start("counter")
    with engine.database.transaction() as other:
        instances.lock_ready(other, [first])
        engine.advance()
        assert engine.status(first) is InstanceStatus.PENDING
        assert engine.status(second) is InstanceStatus.WAITING
    engine.advance()


def test_a_lower_inbox_id_that_commits_later_is_applied_later_and_not_lost(engine: Engine) -> None:
    instance_id = engine.start(COUNTER)
    engine.advance()
    with engine.database.transaction() as slow:
        send(slow, engine, instance_id, 1)
        engine.send(instance_id, "ADD", n=2)
        [(higher,)] = engine.execute("SELECT id FROM inbox")
        engine.advance()
        assert engine.context(instance_id)["seen"] == [2]
    [(lower,)] = engine.execute("SELECT id FROM inbox")
    engine.advance()

    assert lower < higher
    assert engine.context(instance_id)["seen"] == [2, 1]


def test_rows_that_somebody_consumed_between_the_page_and_the_lock_are_not_seen_again(engine: Engine) -> None:
    instance_id = engine.start(COUNTER)
    engine.send(instance_id, "ADD", n=1)
    with engine.database.transaction() as tx:
        stale = inbox.page_ready(tx).rows
        engine.advance()  # another orchestrator, in a transaction of its own
        assert instances.lock_ready(tx, [row.instance_id for row in stale][:1])

        assert inbox.read_ready(tx, [instance_id]) == []


def together(*works: Callable[[], Any]) -> list[Any]:
    """Run these in threads that begin at once."""
    barrier = Barrier(len(works))

    def one(work: Callable[[], Any]) -> Any:
        barrier.wait(10)
        return work()

    with ThreadPoolExecutor(len(works)) as threads:
        return [done.result(60) for done in [threads.submit(one, work) for work in works]]


@contextmanager
def holding_task(engine: Engine, task_id: str) -> Iterator[ThreadPoolExecutor]:
    """Somebody holds a task for a moment; the threads that are started in the block end after he lets go."""
    with ThreadPoolExecutor(4) as threads, engine.database.transaction() as tx:
        tx.execute(text("SELECT 1 FROM tasks WHERE id = :id FOR UPDATE"), {"id": task_id})
        yield threads


def two_claims(engine: Engine) -> tuple[list[InstanceId], list[Any]]:
    """Two instances with a running task each; the task with the lower id belongs to the later instance."""
    engine.handler("work", lambda _input: None)
    document = waiting_with_task()
    document["states"]["asked"] = {"on": {"GO": document["initial"]}}
    earlier = engine.start(document | {"initial": "asked"})
    later = engine.start("waiting-work")
    engine.send(later, "GO")
    time.sleep(0.002)  # ids of tasks tell the millisecond of what they were caused by
    engine.send(earlier, "GO")
    engine.advance()
    claims = sorted(engine.claim(), key=lambda claim: claim.id)
    assert [claim.instance_id for claim in claims] == [later, earlier]
    return [earlier, later], claims


def test_cancelling_and_reporting_lock_tasks_in_one_order(engine: Engine) -> None:
    """The orchestrator comes by its instances, the runner by its tasks; who of both is first does not matter."""
    started, claims = two_claims(engine)
    for instance_id in started:
        with engine.database.transaction() as tx:
            cancel(tx, engine, instance_id)
    outcomes = [engine.call(claim) for claim in claims]

    with holding_task(engine, claims[1].id) as threads:
        advancing: Future[Any] = threads.submit(engine.advance)
        wait_until(lambda: waiters(engine.database) == 1, what="the orchestrator to wait")
        reporting = threads.submit(engine.report, *reversed(outcomes))
        wait_until(lambda: waiters(engine.database) == 2, what="the runner to wait too")
    advancing.result(10)
    reporting.result(10)
    engine.settle()

    assert deadlocks(engine.database) == 0
    assert {engine.status(one) for one in started} == {InstanceStatus.CANCELLED}


def test_two_runners_that_report_the_same_tasks_lock_them_in_one_order(engine: Engine) -> None:
    """The same group told twice, in opposite orders: the second finds it ended."""
    started, claims = two_claims(engine)
    outcomes = [engine.call(claim) for claim in claims]
    with holding_task(engine, claims[1].id) as threads:
        first = threads.submit(engine.report, *outcomes)
        wait_until(lambda: waiters(engine.database) == 1, what="the first to wait")
        second = threads.submit(engine.report, *reversed(outcomes))
        wait_until(lambda: waiters(engine.database) == 2, what="the second to wait")
    counts = sorted([first.result(10).succeeded, second.result(10).succeeded])
    engine.settle()

    assert counts == [0, 2]
    assert deadlocks(engine.database) == 0
    assert {engine.status(one) for one in started} == {InstanceStatus.WAITING}


def test_sweeps_skip_what_others_hold(engine: Engine) -> None:
    engine.handler("work", lambda _input: None)
    document = waiting_with_task()
    document["states"]["working"]["after"] = {"1ms": "done"}
    engine.start(document)
    engine.advance()
    engine.lease = timedelta(microseconds=1)
    [claim] = engine.claim()
    with holding_task(engine, claim.id), engine.database.transaction() as tx:
        assert [due.key for due in timers.lock_due(tx, now=read_now(tx))]

        assert expire_due_leases(engine.database) == 0
        assert fire_due_timers(engine.database) == 0
        assert engine.claim() == []
    assert fire_due_timers(engine.database) == 1
    engine.report(engine.call(claim))
    engine.settle()


def test_a_timer_that_fires_while_its_state_is_left_deadlocks_nobody(engine: Engine) -> None:
    """Firing holds the timer and writes to the inbox of an instance that is held by who wants to cancel the timer."""
    instance_id = engine.start(after("1ms"))
    engine.advance()
    engine.send(instance_id, "LEAVE")
    with ThreadPoolExecutor(1) as threads, engine.database.transaction() as tx:
        due = timers.lock_due(tx, now=read_now(tx))
        advancing = threads.submit(engine.advance)
        wait_until(lambda: waiters(engine.database) == 1, what="the orchestrator to wait for the timer")
        timers.fire(tx, [timer.id for timer in due], now=read_now(tx))
        inbox.put(
            tx,
            [
                {"tenant_id": timer.tenant_id, "instance_id": timer.instance_id, "lane": inbox.ORDINARY,
                 "type": timer.inbox_type.value, "body": timer.body, "source": "timer", "accepted_at": read_now(tx)}
                for timer in due
            ],
        )  # fmt: skip
    advancing.result(10)
    engine.settle()

    assert deadlocks(engine.database) == 0
    assert engine.snapshot(instance_id)["configuration"] == ["left"]


def test_everybody_at_once_on_few_instances(engine: Engine) -> None:
    """Three orchestrators, two runners and three senders on four instances: all is taken once, and nobody deadlocks."""
    engine.handler("work", lambda _input: None)
    document = waiting_with_task()
    more = {
        "type": "createTask",
        "task": {"type": "work", "name": "more", "idempotencyKey": "${string(event.n % 3)}"},
    }
    document["states"]["working"]["on"]["ADD"]["actions"].append(more)
    started = [engine.start(document), *(engine.start("waiting-work") for _ in range(3))]
    sent = 40

    def sender(first: int) -> None:
        for n in range(first, first + sent):
            engine.send(started[n % 2 if n % 3 else n % 4], "ADD", n=n)

    def orchestrator() -> None:
        for _ in range(60):
            engine.advance()

    def runner() -> None:
        for _ in range(40):
            engine.work()

    together(
        *(lambda first=first: sender(first) for first in (0, 100, 200)), *[orchestrator] * 3, *[runner] * 2
    )
    engine.settle()

    seen = sorted(n for one in started for n in engine.context(one)["seen"])
    assert seen == [n for first in (0, 100, 200) for n in range(first, first + sent)]
    assert deadlocks(engine.database) == 0


def test_a_frozen_holder_loses_its_locks(engine: Engine) -> None:
    with engine.database.reading() as tx:
        assert tx.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar_one() == "5s"
