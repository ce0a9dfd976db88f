"""Places: how many instances of a definition run at once, who waits, who is refused, who gives way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event

from common.canonical import read
from common.errors import Conflict, Invalid
from common.ids import InstanceId
from common.lifecycle import LIVE, InstanceStatus
from orchestrator.advance import advance_ready
from orchestrator.places import PlaceLook
from tests.integration.engine.sagas import Ledger, trip
from tests.integration.schedules.scheduling import fire, row, schedule
from tests.support.engine import Engine
from tests.support.manual_clock import ManualClock

PENDING, WAITING, PAUSED = InstanceStatus.PENDING, InstanceStatus.WAITING, InstanceStatus.PAUSED
COMPLETED, CANCELLED, FAILED = InstanceStatus.COMPLETED, InstanceStatus.CANCELLED, InstanceStatus.FAILED
BY_CUSTOMER = "${input.customer}"


def visit(max: int = 1, **concurrency: Any) -> dict[str, Any]:
    """A document whose instances stay until they are told to leave, or fail when told to."""
    return {
        "id": "visit",
        "initial": "inside",
        "context": {"seen": []},
        "concurrency": {"max": max, **concurrency},
        "states": {
            "inside": {
                "on": {
                    "LEAVE": "gone",
                    "SAY": {
                        "actions": {"type": "assign", "path": "seen", "value": "${context.seen + [event.n]}"}
                    },
                    "BREAK": {"actions": {"type": "assign", "path": "n", "value": "${1 / 0}"}},
                }
            },
            "gone": {"type": "final"},
        },
    }


def enter(
    engine: Engine, count: int, document: dict[str, Any] | str = "visit", **request: Any
) -> list[InstanceId]:
    if not isinstance(document, str):
        document = engine.apply(document)
    return [engine.start(document, **request) for _ in range(count)]


def statuses(engine: Engine, ids: list[InstanceId]) -> list[InstanceStatus]:
    return [engine.status(one) for one in ids]


def leave(engine: Engine, instance_id: InstanceId) -> None:
    engine.send(instance_id, "LEAVE")
    engine.settle()


def inside(engine: Engine) -> int:
    """How many run: live, and not queued."""
    living = ", ".join(f"'{status.value}'" for status in LIVE)
    [(count,)] = engine.execute(f"SELECT count(*) FROM instances WHERE NOT queued AND status IN ({living})")
    return int(count)


# -- queue --------------------------------------------------------------------------------------------------------


def test_who_finds_all_places_taken_waits_for_one_and_gets_it_in_turn(engine: Engine) -> None:
    first, second, third, fourth = enter(engine, 4, visit(2))
    engine.settle()
    assert statuses(engine, [first, second, third, fourth]) == [WAITING, WAITING, PENDING, PENDING]

    leave(engine, second)
    assert statuses(engine, [first, third, fourth]) == [WAITING, WAITING, PENDING]

    leave(engine, first)
    assert statuses(engine, [third, fourth]) == [WAITING, WAITING]
    assert engine.entry_types(fourth)[:2] == ["instance.queued", "instance.started"]
    assert engine.entries(fourth)[0] == {"type": "instance.queued", "key": "", "max": 2, "taken": 2}
    assert engine.entry_types(first)[0] == "instance.started"


def test_each_key_has_its_own_places(engine: Engine) -> None:
    document = engine.apply(visit(1, key=BY_CUSTOMER))
    ada, again, bob = (engine.start(document, input={"customer": name}) for name in ("ada", "ada", "bob"))
    engine.settle()

    assert statuses(engine, [ada, again, bob]) == [WAITING, PENDING, WAITING]
    leave(engine, ada)
    assert statuses(engine, [again, bob]) == [WAITING, WAITING]


def test_a_higher_priority_goes_first(engine: Engine) -> None:
    (first,) = enter(engine, 1, visit())
    (low,) = enter(engine, 1)
    (high,) = enter(engine, 1, priority=5)
    engine.settle()

    leave(engine, first)

    assert statuses(engine, [low, high]) == [PENDING, WAITING]


def test_what_is_sent_to_a_queued_instance_waits_behind_its_start(engine: Engine) -> None:
    first, queued = enter(engine, 2, visit())
    engine.settle()
    for n in (1, 2):
        engine.send(queued, "SAY", n=n)
    engine.settle()
    assert engine.status(queued) is PENDING

    leave(engine, first)

    assert engine.context(queued)["seen"] == [1, 2]


@pytest.mark.parametrize("verb", ["cancel", "fail"])
def test_a_place_is_given_back_however_its_holder_ends(engine: Engine, verb: str) -> None:
    first, queued = enter(engine, 2, visit())
    engine.settle()

    if verb == "cancel":
        engine.control("cancel", first)
    else:
        engine.send(first, "BREAK")
    engine.settle()

    assert statuses(engine, [first, queued]) == [CANCELLED if verb == "cancel" else FAILED, WAITING]


def test_a_place_is_given_back_when_the_time_of_its_holder_is_over(
    engine: Engine, clock: ManualClock
) -> None:
    first, queued = enter(engine, 2, {**visit(), "timeout": "1m"})
    engine.settle()
    clock.advance(timedelta(minutes=1))
    engine.settle()

    assert statuses(engine, [first, queued]) == [InstanceStatus.TIMED_OUT, WAITING]
    # Its own time begins with its start, not with its waiting.
    clock.advance(timedelta(seconds=59))
    engine.settle()
    assert engine.status(queued) is WAITING


def test_a_paused_instance_keeps_its_place(engine: Engine) -> None:
    first, queued = enter(engine, 2, visit())
    engine.settle()
    engine.control("pause", first)
    engine.settle()

    assert statuses(engine, [first, queued]) == [PAUSED, PENDING]


# -- the queued one -----------------------------------------------------------------------------------------------


def test_a_queued_instance_can_be_cancelled_and_rejects_what_it_had_been_sent(engine: Engine) -> None:
    first, queued, behind = enter(engine, 3, visit())
    engine.send(queued, "SAY", n=1)
    engine.settle()

    engine.control("cancel", queued)
    engine.settle()
    assert engine.status(queued) is CANCELLED
    assert engine.entry_types(queued) == [
        "instance.queued", "instance.cancelled", "event.rejected", "event.rejected",
    ]  # fmt: skip

    leave(engine, first)
    assert engine.status(behind) is WAITING


def test_a_queued_instance_that_is_paused_is_passed_over_until_it_is_resumed(engine: Engine) -> None:
    first, paused, behind = enter(engine, 3, visit())
    engine.settle()
    engine.control("pause", paused)
    engine.settle()

    leave(engine, first)
    assert statuses(engine, [paused, behind]) == [PAUSED, WAITING]

    engine.control("step", paused)  # taken on by hand it still has no place
    engine.control("resume", paused)
    engine.settle()
    assert statuses(engine, [paused, behind]) == [PENDING, WAITING]

    leave(engine, behind)
    assert engine.status(paused) is WAITING


def test_a_queued_instance_holds_its_business_key(engine: Engine) -> None:
    enter(engine, 1, visit())
    queued = engine.start("visit", business_key="order-1")
    engine.settle()

    assert engine.start("visit", business_key="order-1") == queued


def test_a_start_in_the_future_wants_its_place_when_its_time_has_come(
    engine: Engine, clock: ManualClock
) -> None:
    engine.apply(visit())
    later = engine.start("visit", start_at=clock.now() + timedelta(hours=1))
    now = engine.start("visit")
    engine.settle()
    assert statuses(engine, [later, now]) == [PENDING, WAITING]

    clock.advance(timedelta(hours=1))
    engine.settle()
    assert statuses(engine, [later, now]) == [PENDING, WAITING]

    leave(engine, now)
    assert engine.status(later) is WAITING


def test_who_died_before_it_gave_the_place_is_made_good_by_the_look(engine: Engine) -> None:
    first, queued = enter(engine, 2, visit())
    engine.settle()
    engine.send(first, "LEAVE")
    while _advance_and_forget(engine):
        pass
    assert statuses(engine, [first, queued]) == [COMPLETED, PENDING]

    assert PlaceLook().look(engine.database)
    engine.settle()

    assert engine.status(queued) is WAITING


def _advance_and_forget(engine: Engine) -> int:
    """A process that dies between its step and the next one's place."""
    done = advance_ready(engine.advancing, until=time.monotonic() + 30)
    engine.advancing.vacancies.take()
    return done.steps


# -- reject -------------------------------------------------------------------------------------------------------


def test_a_start_without_a_place_is_refused_where_it_may_not_wait(engine: Engine) -> None:
    (first,) = enter(engine, 1, visit(1, key=BY_CUSTOMER, onFull="reject"), input={"customer": "ada"})

    with pytest.raises(Conflict) as refused:
        engine.start("visit", input={"customer": "ada"})

    assert refused.value.code == "concurrency.full"
    assert refused.value.message == (
        'definition "visit" has reached its concurrency limit of 1 for the key "ada": 1 are live; '
        "start it again when one has ended"
    )
    bob = engine.start("visit", input={"customer": "bob"})
    engine.settle()
    assert statuses(engine, [first, bob]) == [WAITING, WAITING]
    leave(engine, first)
    engine.start("visit", input={"customer": "ada"})


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "customer"),
        (None, "customer"),
        ({"customer": None}, "expected text or a whole number, found null"),
        ({"customer": ["a"]}, "expected text or a whole number, found a list"),
        ({"customer": ""}, "expected 1 to 500 characters, found 0"),
        ({"customer": "x" * 501}, "expected 1 to 500 characters, found 501"),
    ],
)
def test_a_start_without_a_key_is_refused(engine: Engine, given: Any, why: str) -> None:
    engine.apply(visit(1, key=BY_CUSTOMER))

    with pytest.raises(Invalid, match=why) as refused:
        engine.start("visit", input=given)

    assert refused.value.code == "concurrency.key"
    assert engine.execute("SELECT count(*) FROM instances") == [(0,)]


def test_a_key_may_read_what_the_start_says_of_the_instance(engine: Engine) -> None:
    engine.apply(visit(1, key="${instance.labels.region}/${instance.businessKey}"))
    engine.start("visit", business_key="a", labels={"region": "eu"})

    assert engine.execute("SELECT concurrency_key FROM instances") == [("eu/a",)]
    engine.settle()


# -- cancelOldest -------------------------------------------------------------------------------------------------


def test_the_oldest_gives_way_and_the_youngest_runs_when_it_has_gone(engine: Engine) -> None:
    first, second = enter(engine, 2, visit(2, onFull="cancelOldest"))
    engine.settle()
    assert statuses(engine, [first, second]) == [WAITING, WAITING]

    (third,) = enter(engine, 1)
    engine.settle()

    assert statuses(engine, [first, second, third]) == [CANCELLED, WAITING, WAITING]
    assert inside(engine) == 2
    (said,) = [entry for entry in engine.entries(first) if entry["type"] == "instance.cancelled"]
    assert said["reason"] == "a younger instance takes its place (concurrency.onFull: cancelOldest)"


def test_of_many_starts_at_once_the_youngest_are_left(engine: Engine) -> None:
    ids = enter(engine, 7, visit(2, onFull="cancelOldest"))
    engine.settle()

    assert statuses(engine, ids) == [CANCELLED] * 5 + [WAITING, WAITING]


# -- retry --------------------------------------------------------------------------------------------------------


def test_a_failed_instance_takes_a_place_again_only_where_there_is_one(engine: Engine) -> None:
    first, queued = enter(engine, 2, visit())
    engine.settle()
    engine.send(first, "BREAK")
    engine.settle()
    assert statuses(engine, [first, queued]) == [FAILED, WAITING]

    with pytest.raises(Conflict) as refused:
        engine.control("retry", first)
    assert refused.value.code == "concurrency.full"
    with pytest.raises(Conflict):
        engine.control("restart", first, state="inside")

    leave(engine, queued)
    engine.control("restart", first, state="inside")
    engine.settle()
    assert engine.status(first) is WAITING


def test_of_two_retries_for_one_place_one_is_rejected_on_record(engine: Engine) -> None:
    ids = enter(engine, 2, visit(2))
    engine.settle()
    for one in ids:
        engine.send(one, "BREAK")
    (third,) = enter(engine, 1)
    engine.settle()
    assert statuses(engine, [*ids, third]) == [FAILED, FAILED, WAITING]

    for one in ids:
        engine.control("restart", one, state="inside")
    engine.settle()

    assert sorted(statuses(engine, ids)) == [FAILED, WAITING]
    assert inside(engine) == 2
    (loser,) = [one for one in ids if engine.status(one) is FAILED]
    assert engine.entries(loser)[-1]["reason"].startswith("concurrency.full")


def test_what_undoes_waits_for_nobodys_place(engine: Engine) -> None:
    ledger = Ledger(engine)
    ledger.failing |= {"do.car", "undo.hotel"}
    document = {**trip(), "concurrency": {"max": 1}}
    first = engine.start(document)
    engine.settle()
    assert engine.status(first) is FAILED  # in the middle of compensating
    (second,) = enter(engine, 1, "trip")
    engine.advance()
    assert engine.status(second) is InstanceStatus.RUNNING

    with pytest.raises(Conflict):
        engine.control("restart", first, state=None)
    ledger.failing.discard("undo.hotel")
    engine.control("retry", first)
    engine.advance()

    assert engine.status(first) is InstanceStatus.COMPENSATING
    engine.settle()
    assert "undo.hotel" in ledger.lines


# -- what it costs ------------------------------------------------------------------------------------------------


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    """Every statement meanwhile."""
    seen: list[str] = []

    def note(*execution: Any) -> None:
        seen.append(execution[2])

    event.listen(engine.database.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine.database.engine, "before_cursor_execute", note)


def test_definitions_without_places_cost_no_statement(engine: Engine) -> None:
    free = engine.apply(
        {key: value for key, value in visit().items() if key != "concurrency"} | {"id": "free"}
    )
    engine.apply(visit())
    for key in (free, "visit"):  # what is kept by definition is there then
        leave(engine, engine.start(key))

    counts = {}
    for key in (free, "visit"):
        with statements(engine) as seen:
            engine.start(key)
            engine.advance()
        counts[key] = len(seen)
        asked = [one for one in seen if "queued" in one and "concurrency_key =" in one.replace("\n", " ")]
        assert bool(asked) is (key == "visit")
        assert any("pg_advisory" in one for one in seen) is (key == "visit" and not engine.database.is_sqlite)
    assert counts["visit"] > counts[free]


# -- versions -----------------------------------------------------------------------------------------------------


def test_all_versions_share_the_places_and_the_youngest_that_waits_says_how_many(engine: Engine) -> None:
    enter(engine, 3, visit(1))
    engine.settle()
    assert inside(engine) == 1

    enter(engine, 1, visit(3))
    engine.settle()

    assert inside(engine) == 3


# -- other ways in ------------------------------------------------------------------------------------------------


def parent(count: int) -> dict[str, Any]:
    child = {"src": "WORKFLOW", "input": {"definitionKey": "visit"}, "onDone": "over", "onError": "refused"}
    regions = {
        f"r{index}": {
            "initial": "asking",
            "states": {"asking": {"invoke": child}, "over": {"type": "final"}, "refused": {"type": "final"}},
        }
        for index in range(count)
    }
    return {"id": "family", "type": "parallel", "states": regions}


def test_children_wait_for_places(engine: Engine) -> None:
    engine.apply(visit(1))
    family = engine.start(parent(3))
    engine.settle()
    assert inside(engine) == 2  # the parent, whose definition says nothing, and one child

    for _ in range(3):
        [(child,)] = engine.execute(
            "SELECT id FROM instances WHERE definition_key = 'visit' AND status = 'waiting'"
        )
        leave(engine, InstanceId(str(child)))

    assert engine.status(family) is COMPLETED


def test_a_child_without_a_place_is_refused_to_its_parent(engine: Engine) -> None:
    engine.apply(visit(1, onFull="reject"))
    family = engine.start(parent(3))
    engine.settle()

    configuration = engine.snapshot(family)["configuration"]
    assert sorted(path.partition(".")[2] for path in configuration) == ["asking", "refused", "refused"]
    refused = [entry for entry in engine.entries(family) if entry["type"] == "child.refused"]
    assert [entry["error"]["code"] for entry in refused] == ["concurrency.full"] * 2


def test_the_items_of_a_map_wait_for_places_and_all_end(engine: Engine) -> None:
    engine.handler("count", lambda _input, _context: None)
    engine.apply(
        {
            "id": "short",
            "initial": "working",
            "concurrency": {"max": 2},
            "states": {"working": {"invoke": {"src": "count", "onDone": "over"}}, "over": {"type": "final"}},
        }
    )
    given = {"items": list(range(7)), "workflow": {"definitionKey": "short"}}
    instance_id = engine.start(
        {
            "id": "mapping",
            "initial": "mapping",
            "states": {
                "mapping": {"invoke": {"src": "MAP", "input": given, "onDone": "over"}},
                "over": {"type": "final"},
            },
        }
    )
    engine.settle()

    assert engine.status(instance_id) is COMPLETED


def test_a_schedule_says_on_its_row_that_there_was_no_place(engine: Engine, clock: ManualClock) -> None:
    document = visit(1, onFull="reject")
    engine.apply(document)
    engine.start("visit")
    hourly = schedule(engine, "visit")
    clock.advance(timedelta(hours=1))

    fire(engine)
    engine.settle()

    found = row(engine, hourly)
    assert (found.fired, found.refused) == (0, 1)
    assert read(found.last_error or "")["code"] == "concurrency.full"
    assert inside(engine) == 1
