"""Tasks taken up again by hand: another series of attempts for a failed one, and held ones let go."""

from datetime import timedelta
from typing import Any

from common.db.now import read_now
from common.ids import InstanceId, TaskId, WorkerId, new_id
from common.store import tasks
from common.store.coming_tasks import read_coming_tasks
from tests.integration.engine.documents import one_task
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock

TWO = {"maxAttempts": 2, "interval": "1s", "backoffRate": 3, "jitter": 0}


def row(engine: Engine, *columns: str) -> tuple[Any, ...]:
    return tuple(engine.execute(f"SELECT {', '.join(columns)} FROM tasks")[0])


def retry_all(engine: Engine) -> list[TaskId]:
    ids = all_ids(engine)
    with engine.database.transaction() as tx:
        return tasks.retry(tx, ids, now=read_now(tx))


def all_ids(engine: Engine) -> list[TaskId]:
    return [TaskId(str(one)) for (one,) in engine.execute("SELECT id FROM tasks")]


def failed(engine: Engine, clock: ManualClock, **task: Any) -> InstanceId:
    def work(_input: Any) -> None:
        raise ValueError("no")

    engine.handler("work", work)
    instance_id = engine.start(one_task(retry=TWO, **task))
    engine.settle()
    clock.advance(timedelta(seconds=1))
    engine.settle()
    assert row(engine, "status", "attempt", "max_attempts") == ("failed", 2, 2)
    return instance_id


def test_a_failed_task_gets_another_series_of_attempts(clock: ManualClock, engine: Engine) -> None:
    failed(engine, clock)

    [changed] = retry_all(engine)

    again = ("pending", 2, 4, 0, None, None)
    assert row(engine, "status", "attempt", "max_attempts", "lost", "error", "finished_at") == again
    assert str(row(engine, "id")[0]) == changed
    with engine.database.reading() as tx:
        now = read_now(tx)
        coming = read_coming_tasks(
            tx, worker=WorkerId(new_id()), types=["work"], functions=[], since=now - timedelta(milliseconds=1)
        )
    assert coming.fell_due_at == now, "due at once"
    assert coming.is_any_due


def test_only_failed_tasks_are_taken_up_again(clock: ManualClock, engine: Engine) -> None:
    failed(engine, clock)
    assert len(retry_all(engine)) == 1
    assert retry_all(engine) == []
    assert row(engine, "max_attempts") == (4,)


def test_held_tasks_of_an_instance_can_be_claimed_again(clock: ManualClock, engine: Engine) -> None:
    engine.handler("work", lambda _input: None)
    one, other = engine.start(one_task()), engine.start(one_task())
    engine.advance()
    ids = all_ids(engine)
    with engine.database.transaction() as tx:
        tasks.hold(tx, ids)
    assert engine.claim() == []

    with engine.database.transaction() as tx:
        assert len(tasks.unhold(tx, [one])) == 1

    assert [claim.instance_id for claim in engine.claim()] == [one]
    with engine.database.transaction() as tx:
        assert len(tasks.unhold(tx, [one, other])) == 1
