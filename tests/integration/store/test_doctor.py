"""The doctor: each kind of damage is found and named; a healthy system is told so, and a backlog is no damage."""

import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from common.commands.doctor import examine
from common.commands.presence import Presence, arrive, leave
from common.ids import InstanceId, new_id
from common.lifecycle import InstanceStatus
from common.store import history
from common.store.workers import PublishedHandler
from signalbox.cli.app import app
from signalbox.cli.database import SHOWN
from tests.integration.engine.documents import COUNTER, ON_SQLITE, after, one_task, waiting_with_task
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock
from tests.support.postgres import read_only

MISTAKEN = {"target": "done", "actions": [{"type": "assign", "path": "x", "value": "${context.nothing}"}]}
"""A transition whose step fails, each time."""


def problems(engine: Engine, *, replay: bool = True) -> list[str]:
    return sorted(problem["code"] for problem in examine(engine.database, replay=replay)["problems"])


def working(engine: Engine) -> str:
    """An instance with an open task and an armed timer, that also waits for events."""
    document = waiting_with_task()
    document["states"]["working"]["after"] = {"1h": "done"}
    instance_id = engine.start(document)
    engine.advance()
    return instance_id


def frozen(engine: Engine) -> str:
    """An instance that failed, with an incident, a held task and a parked event."""
    document = waiting_with_task()
    document["states"]["working"]["entry"].append(
        {"type": "createTask", "task": {"type": "other", "delay": "1h"}}
    )
    document["states"]["working"]["on"]["BREAK"] = {
        "actions": [{"type": "assign", "path": "x", "value": "${1 / 0}"}]
    }
    instance_id = engine.start(document)
    engine.advance()
    engine.send(instance_id, "BREAK")
    engine.send(instance_id, "ADD", n=1)
    engine.advance()
    assert engine.status(instance_id) is InstanceStatus.FAILED
    return instance_id


def completed(engine: Engine) -> str:
    instance_id = engine.start(COUNTER)
    engine.send(instance_id, "STOP")
    engine.advance()
    return instance_id


def test_a_healthy_system_is_told_so(engine: Engine) -> None:
    working(engine), frozen(engine), completed(engine)
    engine.start("counter")  # not stepped yet

    report = examine(engine.database)

    assert report["healthy"] is True
    assert report["problems"] == []
    assert report["instances"] == 4
    assert report["delays"]["inboxWaiting"] == 1


@ON_SQLITE
def test_more_instances_than_a_page_are_all_examined(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.commands.doctor.PAGE", 2)
    completed(engine)
    for _ in range(4):
        engine.start("counter")
    assert examine(engine.database)["instances"] == 5


DAMAGED_TASKS = {
    "UPDATE tasks SET status = 'succeeded', finished_at = created_at": ["task.missing"],
    "DELETE FROM tasks": ["task.missing"],
    "UPDATE tasks SET key = 'elsewhere'": ["task.missing", "task.unasked"],
    "UPDATE timers SET status = 'fired', finished_at = created_at": ["timer.missing"],
    "DELETE FROM timers": ["timer.missing"],
    "UPDATE timers SET key = 'elsewhere'": ["timer.missing", "timer.unasked"],
}


@pytest.mark.breaks_promises
@pytest.mark.parametrize("damage", DAMAGED_TASKS)
@ON_SQLITE
def test_an_obligation_without_its_row_and_a_row_without_its_obligation(engine: Engine, damage: str) -> None:
    working(engine)
    engine.execute(damage)
    assert problems(engine) == DAMAGED_TASKS[damage]


@pytest.mark.breaks_promises
@ON_SQLITE
def test_an_ended_task_whose_event_is_gone(engine: Engine) -> None:
    engine.handler("work", lambda _input: None)
    engine.start(one_task())
    engine.advance()
    engine.work()
    assert problems(engine) == [], "while its event waits, it stands for the obligation"

    engine.execute("DELETE FROM inbox")

    assert problems(engine) == ["instance.stalled", "task.missing"]


@pytest.mark.breaks_promises
@ON_SQLITE
def test_a_fired_timer_whose_event_is_gone(clock: ManualClock, engine: Engine) -> None:
    document = after("1m")
    document["states"]["early"].pop("on")
    engine.start(document)
    engine.advance()
    engine.execute("UPDATE timers SET status = 'fired', finished_at = created_at")

    assert problems(engine) == ["instance.stalled", "timer.missing"]


@pytest.mark.breaks_promises
@ON_SQLITE
def test_a_start_that_is_gone(engine: Engine) -> None:
    engine.start(COUNTER)
    engine.execute("DELETE FROM inbox")
    assert problems(engine) == ["instance.stalled"]


@pytest.mark.breaks_promises
@ON_SQLITE
def test_a_failed_instance_without_an_incident(engine: Engine) -> None:
    frozen(engine)
    engine.execute("UPDATE incidents SET status = 'resolved', resolved_at = opened_at")
    assert problems(engine) == ["instance.stalled"]


@pytest.mark.breaks_promises
@pytest.mark.parametrize(
    ("damage", "code"),
    [
        ("UPDATE inbox SET parked = {true}", "left.inbox.parked"),
        ("UPDATE tasks SET held = {true}", "left.task.held"),
    ],
)
@ON_SQLITE
def test_what_was_set_aside_for_a_frozen_instance_and_is_not_frozen(
    engine: Engine, damage: str, code: str
) -> None:
    instance_id = working(engine)
    engine.send(instance_id, "ADD", n=1)
    engine.execute(damage.format(true="1" if engine.database.is_sqlite else "true"))
    assert code in problems(engine)


@pytest.mark.breaks_promises
@pytest.mark.parametrize(
    ("damage", "codes"),
    [
        ("UPDATE tasks SET status = 'pending', finished_at = NULL", ["left.task.open", "task.unasked"]),
        ("UPDATE timers SET status = 'armed', finished_at = NULL", ["left.timer.armed", "timer.unasked"]),
    ],
)
@ON_SQLITE
def test_what_outlives_its_instance(engine: Engine, damage: str, codes: list[str]) -> None:
    instance_id = working(engine)
    engine.send(instance_id, "STOP")
    engine.advance()
    assert problems(engine) == []

    engine.execute(damage)

    assert problems(engine) == codes


@pytest.mark.breaks_promises
@ON_SQLITE
def test_an_instance_that_ended_with_open_obligations(engine: Engine) -> None:
    working(engine)
    engine.execute("UPDATE instances SET status = 'cancelled', finished_at = created_at")
    assert "instance.open" in problems(engine, replay=False)


@pytest.mark.breaks_promises
def test_a_broken_history_and_a_snapshot_that_it_does_not_explain(engine: Engine) -> None:
    working(engine)
    engine.execute(
        "UPDATE instances SET snapshot = replace(snapshot, '\"seen\":[]', '\"seen\":[1]'), head_hash = salted.digest FROM (SELECT digest FROM history) AS salted"
    )

    assert problems(engine) == ["history.head", "replay.snapshot"]
    assert problems(engine, replay=False) == [], "asked not to replay, it does not read histories"


@pytest.mark.breaks_promises
@pytest.mark.parametrize(
    ("damage", "code"),
    [
        ("UPDATE instances SET open_tasks = 7", "instance.counts"),
        ("UPDATE instances SET open_timers = 0", "instance.counts"),
        ("UPDATE instances SET accepts_events = {false}", "replay.accepts_events"),
    ],
)
@ON_SQLITE
def test_counts_that_do_not_agree_with_the_snapshot(engine: Engine, damage: str, code: str) -> None:
    working(engine)
    engine.execute(damage.format(false="0" if engine.database.is_sqlite else "false"))
    assert code in problems(engine)


def ended_twice(engine: Engine) -> None:
    """A result that counted under two attempts: what fencing is there to prevent."""
    engine.handler("work", lambda _input: None)
    engine.start(one_task())
    engine.settle()
    row = "SELECT task_id, {token}, tenant_id, attempt + 1, worker_id, started_at, ended_at, outcome FROM attempts"
    engine.execute(
        "INSERT INTO attempts (task_id, token, tenant_id, attempt, worker_id, started_at, ended_at, outcome) "
        + row.format(token=f"'{new_id()}'" + ("" if engine.database.is_sqlite else "::uuid"))
    )


@pytest.mark.breaks_promises
def test_a_result_that_counted_twice(engine: Engine) -> None:
    ended_twice(engine)
    assert problems(engine) == ["task.counted_twice"]


@pytest.mark.breaks_promises
@ON_SQLITE
def test_a_success_that_the_history_tells_twice(engine: Engine) -> None:
    """A forged row that continues the chain as it should."""
    engine.handler("work", lambda _input: None)
    instance_id = engine.start(one_task())
    engine.settle()
    with engine.database.transaction() as tx:
        last = list(history.read_chain(tx, engine.tenant_id, instance_id))[-1]
        forged = history.chained(
            last.tenant_id, last.instance_id, last.sequence + 1, at=last.at, actor=last.actor, input=last.input or "",
            changes=last.changes or "", previous_hash=last.hash,
        )  # fmt: skip
        history.append(tx, [forged])
        tx.execute(
            text("UPDATE instances SET sequence = sequence + 1, head_hash = :head"), {"head": forged["hash"]}
        )

    assert problems(engine) == ["replay.changes", "task.told_twice"]


def retry_in_vain(engine: Engine, instance_id: InstanceId) -> None:
    """Let it fail, and twice more after a retry each."""
    engine.settle()
    for _ in range(2):
        assert engine.status(instance_id) is InstanceStatus.FAILED
        engine.control("retry", instance_id)
        engine.settle()


@ON_SQLITE
def test_a_success_that_each_retry_of_a_failed_step_tells_again(engine: Engine) -> None:
    """As of a definition with a mistake that operators retry: it took the success in vain each time, and nothing is wrong with the history."""
    document = one_task()
    document["states"]["working"]["on"]["DONE"] = MISTAKEN
    engine.handler("work", lambda _input: None)
    instance_id = engine.start(document)
    retry_in_vain(engine, instance_id)

    assert engine.entry_types(instance_id).count("task.succeeded") == 3
    assert problems(engine) == []


@ON_SQLITE
def test_a_child_s_end_that_each_retry_of_a_failed_step_tells_again(engine: Engine) -> None:
    engine.apply({"id": "child", "initial": "ended", "states": {"ended": {"type": "final"}}})
    invoke = {"src": "WORKFLOW", "input": {"definitionKey": "child"}, "onDone": MISTAKEN}
    states = {"waiting": {"invoke": invoke}, "done": {"type": "final"}}
    instance_id = engine.start({"id": "parent", "initial": "waiting", "states": states})
    retry_in_vain(engine, instance_id)

    assert engine.entry_types(instance_id).count("child.completed") == 3
    assert problems(engine) == []


@pytest.mark.breaks_promises
@ON_SQLITE
def test_a_success_without_an_attempt_that_succeeded(engine: Engine) -> None:
    engine.handler("work", lambda _input: None)
    engine.start(one_task())
    engine.settle()
    engine.execute("UPDATE attempts SET outcome = 'failed'")
    assert problems(engine) == ["task.unaccounted"]


def test_a_backlog_is_a_delay_and_no_damage(clock: ManualClock, engine: Engine) -> None:
    engine.handler("work", lambda _input: None)
    working(engine)
    engine.claim()
    waiting = engine.start(COUNTER)
    clock.advance(timedelta(hours=2))

    report = examine(engine.database)

    assert report["healthy"] is True
    assert report["delays"] == {
        "expiredLeases": 1,
        "overdueTimers": 1,
        "overdueTasks": 0,
        "inboxWaiting": 1,
        "inboxOldestSeconds": 7200.0,
        "unclaimableTypes": [],
        "orchestrators": 0,
        "holders": [],
        "readOnly": False,
        "full": False,
        "unrestricted": None,
        "unopened": None,
    }
    assert engine.status(waiting) is InstanceStatus.PENDING


def test_types_that_no_runner_offers_are_named(engine: Engine) -> None:
    working(engine)
    assert _delays(engine)["unclaimableTypes"] == ["work"], "nobody is there at all"

    with engine.database.transaction() as tx:
        arrive(tx, Presence.of("task-runner"), version="test")
    assert _delays(engine)["unclaimableTypes"] == ["work"]

    offers = PublishedHandler(
        "work", "", "", light=False, isolated=False, input_schema=None, output_schema=None
    )
    runner = Presence.of("task-runner", types=["work"])
    with engine.database.transaction() as tx:
        arrive(tx, runner, version="test", published=[offers])
    assert _delays(engine)["unclaimableTypes"] == []

    with engine.database.transaction() as tx:  # its handler stays published, but nobody runs it any more
        leave(tx, runner)
    assert _delays(engine)["unclaimableTypes"] == ["work"]


def everybody_works(engine: Engine) -> None:
    """An orchestrator, and a runner that offers "work": on two hosts, since one process is one worker."""
    offers = PublishedHandler(
        "work", "", "", light=False, isolated=False, input_schema=None, output_schema=None
    )
    with engine.database.transaction() as tx:
        arrive(tx, Presence.of("orchestrator"), version="test")
        tx.execute(text("UPDATE workers SET host = 'elsewhere'"))
        arrive(tx, Presence.of("task-runner", types=["work"]), version="test", published=[offers])


def test_a_worker_that_has_long_said_nothing_takes_nothing(clock: ManualClock, engine: Engine) -> None:
    working(engine)
    everybody_works(engine)
    delays = _delays(engine)
    assert (delays["unclaimableTypes"], delays["orchestrators"]) == ([], 1)

    clock.advance(timedelta(seconds=15))  # killed: nobody was left to write that they are dead

    delays = _delays(engine)
    assert (delays["unclaimableTypes"], delays["orchestrators"]) == (["work"], 0)


def test_the_command_tells_who_is_missing(
    engine: Engine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    working(engine)

    result = CliRunner().invoke(app, ["doctor"])

    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[:3] == [
        "! healthy, but nobody works, 1 instance examined",
        "  ! no orchestrator is alive; start one: `signalbox worker orchestrator`",
        '  ! no living task runner takes "work"; start one: `signalbox worker task-runner`, '
        "with the module of its handler in SIGNALBOX_HANDLERS",
    ]

    everybody_works(engine)
    assert CliRunner().invoke(app, ["doctor"]).stdout == "✓ healthy, 1 instance examined\n"


@pytest.mark.breaks_promises
@ON_SQLITE
def test_the_command_shows_the_first_findings_and_counts_all(
    engine: Engine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One cause may have damaged thousands of instances: what else there is must not leave the screen."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    engine.handler("work", lambda _input: None)
    for _ in range(SHOWN + 3):
        engine.start(one_task())
    engine.settle()
    engine.execute("UPDATE attempts SET outcome = 'failed'")

    result = CliRunner().invoke(app, ["doctor"])

    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert sum("task.unaccounted:" in line for line in lines) == SHOWN
    assert f"  these are the first {SHOWN} of {SHOWN + 3} task.unaccounted; --json has them all" in lines
    told = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    assert len(told["problems"]) == SHOWN + 3


def test_a_task_beyond_its_time_is_told(clock: ManualClock, engine: Engine) -> None:
    engine.start(one_task(timeouts={"scheduleToStart": "1m"}))
    engine.advance()
    clock.advance(timedelta(minutes=2))
    assert _delays(engine)["overdueTasks"] == 1
    engine.settle()
    assert _delays(engine)["overdueTasks"] == 0


def _delays(engine: Engine) -> dict[str, Any]:
    delays: dict[str, Any] = examine(engine.database)["delays"]
    return delays


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_database_that_takes_no_writes_is_told_and_nobody_is_missed_then(
    engine: Engine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    working(engine)
    with read_only(database_url):
        result = CliRunner().invoke(app, ["doctor"])

    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[:2] == [
        "! healthy, but nobody works, 1 instance examined",
        "  ! the database takes no writes: it is a standby, or default_transaction_read_only is on; "
        "mend that, or name the primary in DATABASE_URL",
    ]
    assert CliRunner().invoke(app, ["doctor"]).stdout.splitlines()[1].startswith("  ! no orchestrator")
