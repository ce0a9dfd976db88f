"""Tasks of people in time: reminders, due and escalated on the database's clock, and rows that say the same."""

from datetime import timedelta
from typing import Any

from common.commands.incidents import resolve_incident
from common.commands.people import complete_task, reject_task
from common.commands.verify import verify_instance
from common.config import Limits
from common.people import Person
from common.store.incidents import read_open
from tests.integration.engine.documents import assign
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock

DUE = {"in": "3h", "remind": ["1h"], "escalate": {"after": "1h", "assignee": "boss"}}
KINDS = ("reminder", "due", "escalated")


def review(due: Any = DUE, **more: Any) -> dict[str, Any]:
    """Counts what comes of its `due`, until the review is done."""
    task = {"type": "HUMAN", "name": "review", "assignee": "ada", "due": due, **more}
    heard = {
        f"{kind}.task.review": {"actions": [assign("heard", f"${{context.heard + ['{kind}']}}")]}
        for kind in KINDS
    }
    return {
        "id": "in-time",
        "initial": "asked",
        "context": {"heard": []},
        "states": {
            "asked": {
                "entry": [{"type": "createTask", "task": task}],
                "on": {**heard, "done.task.review": "done", "STOP": "left"},
            },
            "left": {"on": {"END": "done"}},
            "done": {"type": "final"},
        },
    }


def task_row(engine: Engine) -> Any:
    return engine.execute("SELECT id, assignee, due_at, status, candidates FROM tasks")[0]


def timers(engine: Engine) -> list[str]:
    return sorted(row[0] for row in engine.execute("SELECT status FROM timers"))


def is_valid(engine: Engine, instance_id: str) -> bool:
    with engine.database.reading() as tx:
        verdict = verify_instance(tx, engine.tenant_id, instance_id)
    assert verdict["valid"], verdict["problems"]
    return bool(verdict["replayed"])


def let_go_by(engine: Engine, clock: ManualClock, **duration: float) -> None:
    clock.advance(timedelta(**duration))
    engine.settle()


def test_people_are_reminded_and_the_task_goes_to_somebody_else(engine: Engine, clock: ManualClock) -> None:
    instance_id = engine.start(review())
    engine.settle()
    assert timers(engine) == ["armed"] * 3

    heard = []
    for _ in range(4):
        let_go_by(engine, clock, hours=1)
        heard.append((list(engine.context(instance_id)["heard"]), task_row(engine)[1]))

    assert heard == [
        ([], "ada"),
        (["reminder"], "ada"),
        (["reminder", "due"], "ada"),
        (["reminder", "due", "escalated"], "boss"),
    ]
    assert [entry for entry in engine.entries(instance_id) if entry["type"] == "task.assigned"] == [
        {"type": "task.assigned", "key": "asked/1/1", "assignee": "boss"}
    ]
    assert is_valid(engine, instance_id)


def test_a_task_that_is_done_in_time_reminds_nobody(engine: Engine, clock: ManualClock) -> None:
    instance_id = engine.start(review())
    engine.settle()
    task_id = task_row(engine)[0]
    with engine.database.transaction() as tx:
        refusal = complete_task(
            tx, engine.tenant_id, task_id, by=Person("key:ada"), output=1, limits=Limits()
        )
    assert refusal is None
    engine.settle()
    let_go_by(engine, clock, days=2)

    assert timers(engine) == ["cancelled"] * 3
    assert engine.context(instance_id)["heard"] == []
    assert is_valid(engine, instance_id)


def test_a_task_that_is_cancelled_reminds_nobody(engine: Engine, clock: ManualClock) -> None:
    document = review()
    document["states"]["asked"] = {
        "invoke": {"src": "HUMAN", "name": "review", "due": DUE},
        "on": {"STOP": "left"},
    }
    instance_id = engine.start(document)
    engine.settle()
    engine.send(instance_id, "STOP")
    engine.settle()

    assert timers(engine) == ["cancelled"] * 3
    assert is_valid(engine, instance_id)


def test_a_rejected_task_that_is_retried_is_reminded_of_as_before(engine: Engine, clock: ManualClock) -> None:
    instance_id = engine.start(review())
    engine.settle()
    task_id = task_row(engine)[0]
    with engine.database.transaction() as tx:
        reject_task(tx, engine.tenant_id, task_id, by=Person("key:ada"), reason="no", limits=Limits())
    engine.settle()
    assert engine.status(instance_id) == "failed"
    let_go_by(engine, clock, hours=2)
    assert engine.context(instance_id)["heard"] == [], "it stands still"

    engine.control("retry", instance_id)
    engine.settle()
    assert engine.context(instance_id)["heard"] == ["reminder"]
    let_go_by(engine, clock, hours=2)

    assert (task_row(engine)[3], task_row(engine)[1]) == ("running", "boss")
    assert is_valid(engine, instance_id)


def test_a_skipped_rejection_ends_the_timers(engine: Engine, clock: ManualClock) -> None:

    instance_id = engine.start(review())
    engine.settle()
    task_id = task_row(engine)[0]
    with engine.database.transaction() as tx:
        reject_task(tx, engine.tenant_id, task_id, by=Person("key:ada"), reason="no", limits=Limits())
    engine.settle()
    with engine.database.transaction() as tx:
        [one] = read_open(tx, engine.tenant_id, instance_id)
        resolve_incident(
            tx, engine.tenant_id, one.id, way="skip", output=1, reason=None, actor="test", limits=Limits()
        )
    engine.settle()

    assert timers(engine) == ["cancelled"] * 3
    assert is_valid(engine, instance_id)


def test_escalation_opens_a_task_to_candidates(engine: Engine, clock: ManualClock) -> None:
    instance_id = engine.start(review({"in": "1h", "escalate": {"candidates": ["x", "y"]}}))
    engine.settle()
    let_go_by(engine, clock, hours=1)

    row = task_row(engine)
    assert row[1] is None
    assert "x" in str(row[4])
    assert is_valid(engine, instance_id)


def test_reminders_of_a_paused_instance_wait(engine: Engine, clock: ManualClock) -> None:
    instance_id = engine.start(review())
    engine.settle()
    engine.control("pause", instance_id)
    engine.settle()
    let_go_by(engine, clock, hours=5)
    assert (engine.context(instance_id)["heard"], task_row(engine)[1]) == ([], "ada")

    engine.control("resume", instance_id)
    engine.settle()
    assert (engine.context(instance_id)["heard"], task_row(engine)[1]) == (list(KINDS), "boss")
    assert is_valid(engine, instance_id)


def test_many_instances_escalate_in_one_batch(engine: Engine, clock: ManualClock) -> None:
    ids = [
        engine.start(review({"in": "1h", "escalate": {"assignee": f"boss-{n}"}}) | {"id": f"d{n}"})
        for n in range(5)
    ]
    engine.settle()
    engine.send(ids[0], "STOP")
    let_go_by(engine, clock, hours=1)

    rows = engine.execute("SELECT assignee FROM tasks ORDER BY instance_id")
    assert [row[0] for row in rows] == [f"boss-{n}" for n in range(5)]
    assert all(is_valid(engine, one) for one in ids)
