"""A delayed task is run at its instant by whoever watches the clock, with no doorbell and no look each second."""

from datetime import timedelta

from common.ids import WorkerId, new_id
from task_runner.due import DueTasks
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock

DELAYED = {
    "id": "delayed",
    "initial": "working",
    "states": {
        "working": {
            "entry": {
                "type": "createTask",
                "params": {"task": {"type": "work", "delay": 5_000, "completionEvent": "DONE"}},
            },
            "on": {"DONE": "done"},
        },
        "done": {"type": "final"},
    },
}


def start_delayed(engine: Engine) -> DueTasks:
    engine.handler("work", lambda _input: None)
    engine.start(DELAYED)
    engine.advance()
    return DueTasks(WorkerId(new_id()), engine.registry.types(), engine.registry.functions())


def look(engine: Engine, due: DueTasks) -> tuple[bool, float | None]:
    with engine.database.reading() as tx:
        seen = due.look(tx)
    return seen.fell_due, seen.next_in


def test_a_delayed_task_is_told_of_once_when_its_instant_has_come(clock: ManualClock, engine: Engine) -> None:
    """It used to be asked for what comes after now, each time: what fell due between two looks was never seen."""
    due = start_delayed(engine)

    assert look(engine, due) == (False, 5.0)
    clock.advance(timedelta(seconds=3))
    assert look(engine, due) == (False, 2.0)
    clock.advance(timedelta(seconds=3))
    assert look(engine, due) == (True, None)
    assert look(engine, due) == (False, None)


def test_a_task_that_becomes_visible_after_its_instant_is_told_of(clock: ManualClock, engine: Engine) -> None:
    due = start_delayed(engine)
    assert look(engine, due) == (False, 5.0)
    clock.advance(timedelta(seconds=5.2))
    engine.execute("UPDATE tasks SET held = true")  # stands for: its transaction has not committed yet

    assert look(engine, due) == (False, None)
    engine.execute("UPDATE tasks SET held = false")
    clock.advance(timedelta(seconds=0.5))

    assert look(engine, due) == (True, None)
