"""Sending: what is accepted is consumed once, in order, on record; what cannot be is refused at the door."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from common.commands.send import MAX_NOTE, add_note, send_event
from common.config import Limits
from common.db import Database
from common.errors import Conflict, Invalid, LimitExceeded, NotFound, SignalboxError
from common.event_names import MAX_TYPE
from common.ids import new_id
from common.lifecycle import InstanceStatus
from tests.integration.engine.documents import COUNTER, ON_SQLITE
from tests.support.engine import LIMITS, Engine


@pytest.fixture
def instance_id(engine: Engine) -> str:
    started = engine.start(COUNTER)
    engine.settle()
    return started


def send(engine: Engine, instance_id: str, event: Any, limits: Limits = LIMITS) -> None:
    with engine.database.transaction() as tx:
        send_event(tx, engine.tenant_id, instance_id, event, actor="key:test", limits=limits)


def refused(
    engine: Engine, kind: type[SignalboxError], instance_id: str, event: Any, **more: Any
) -> SignalboxError:
    with pytest.raises(kind) as caught:
        send(engine, instance_id, event, **more)
    assert engine.execute("SELECT count(*) FROM inbox") == [(0,)], "a refusal stores nothing"
    return caught.value


def test_events_are_taken_in_the_order_in_which_they_were_acknowledged(
    engine: Engine, instance_id: str
) -> None:
    for n in range(250):  # more than one pass takes
        engine.send(instance_id, "ADD", n=n)

    engine.advance()

    assert engine.context(instance_id)["seen"] == list(range(250))


@ON_SQLITE
def test_every_event_has_one_history_row_with_its_actor(engine: Engine, instance_id: str) -> None:
    send(engine, instance_id, {"type": "ADD", "n": 1})
    send(engine, instance_id, {"type": "UNHEARD"})
    engine.advance()

    rows = engine.execute("SELECT sequence, actor FROM history ORDER BY sequence")
    assert rows == [(1, "test"), (2, "key:test"), (3, "key:test")]
    assert engine.entries(instance_id)[-1] == {
        "type": "event.ignored",
        "eventType": "UNHEARD",
        "reason": "no_transition",
    }


def test_events_sent_at_once_are_each_taken_once(engine: Engine, instance_id: str) -> None:
    def sender(first: int) -> None:
        for n in range(first, first + 25):
            engine.send(instance_id, "ADD", n=n)

    with ThreadPoolExecutor(4) as senders:
        for done in [senders.submit(sender, first) for first in (0, 100, 200, 300)]:
            done.result(30)
        engine.advance()

    seen = engine.context(instance_id)["seen"]
    assert sorted(seen) == [n for first in (0, 100, 200, 300) for n in range(first, first + 25)]
    for first in (0, 100, 200, 300):  # of one sender, in its order
        mine = [n for n in seen if first <= n < first + 100]
        assert mine == sorted(mine)


@pytest.mark.parametrize(
    "type_",
    [
        "xstate.done.actor.x",
        "error.task.x",
        "done.task.x",
        "error.",
        "done.state",
        "reminder.task.x",
        "due.task.x",
        "escalated.task.x",
    ],
)
@ON_SQLITE
def test_names_of_the_engine_are_refused(engine: Engine, instance_id: str, type_: str) -> None:
    error = refused(engine, Invalid, instance_id, {"type": type_})
    assert error.code == "event.reserved"
    assert type_ in error.message


@pytest.mark.parametrize(
    "event",
    [
        None,
        [],
        "ADD",
        {},
        {"type": None},
        {"type": 1},
        {"type": ""},
        {"type": " ADD"},
        {"type": "ADD "},
        {"type": "*"},
        {"type": "ADD.*"},
        {"type": "x" * (MAX_TYPE + 1)},
    ],
)
@ON_SQLITE
def test_what_is_no_event_is_refused(engine: Engine, instance_id: str, event: Any) -> None:
    assert refused(engine, Invalid, instance_id, event).code == "event.invalid"


@ON_SQLITE
def test_values_that_cannot_be_stored_are_refused(engine: Engine, instance_id: str) -> None:
    for value in ("\x00", "\ud800", float("inf"), 2**53 + 1, object()):
        assert refused(engine, Invalid, instance_id, {"type": "ADD", "n": value}).code == "json.invalid"


@ON_SQLITE
def test_events_are_bounded_in_bytes_and_depth(engine: Engine, instance_id: str) -> None:
    limits = Limits(max_event_bytes=1_000, max_json_depth=4)
    too_large = refused(engine, LimitExceeded, instance_id, {"type": "ADD", "n": "é" * 500}, limits=limits)
    assert too_large.fields["limit"] == "max_event_bytes"
    too_deep = refused(engine, LimitExceeded, instance_id, {"type": "ADD", "n": [[[[]]]]}, limits=limits)
    assert too_deep.fields["limit"] == "max_json_depth"


@ON_SQLITE
def test_an_unknown_instance_is_not_found(engine: Engine, instance_id: str) -> None:
    for unknown in (new_id(), "no-id", instance_id.upper(), ""):
        assert refused(engine, NotFound, unknown, {"type": "ADD"}).code == "instance.not_found"


@ON_SQLITE
def test_another_tenant_s_instance_is_not_found(engine: Engine, database: Database, instance_id: str) -> None:
    other = Engine.on(database, tenant="other")
    assert refused(other, NotFound, instance_id, {"type": "ADD"}).code == "instance.not_found"


@ON_SQLITE
def test_a_finished_instance_refuses_events_and_says_since_when(engine: Engine, instance_id: str) -> None:
    engine.send(instance_id, "STOP")
    engine.advance()

    error = refused(engine, Conflict, instance_id, {"type": "ADD"})

    assert error.code == "instance.finished"
    assert error.message.startswith(f"cannot send an event to instance {instance_id}: completed at 20")
    assert error.fields["status"] == "completed"


def test_an_event_that_lost_the_race_with_the_end_is_rejected_on_record(
    engine: Engine, instance_id: str
) -> None:
    engine.send(instance_id, "STOP")
    engine.send(instance_id, "ADD", n=1)
    engine.advance()

    assert engine.entries(instance_id)[-1] == {
        "type": "event.rejected",
        "eventType": "ADD",
        "inboxType": "event",
        "reason": "instance is completed",
    }


@ON_SQLITE
def test_what_comes_after_the_end_does_not_move_the_end(engine: Engine, instance_id: str) -> None:
    engine.send(instance_id, "STOP")
    engine.advance()
    ended = engine.execute("SELECT finished_at, status FROM instances")

    with engine.database.transaction() as tx:
        add_note(tx, engine.tenant_id, instance_id, "for the file", actor="test")
    engine.advance()

    assert engine.execute("SELECT finished_at, status FROM instances") == ended
    assert engine.entries(instance_id)[-1] == {"type": "note", "note": "for the file"}


def test_a_note_is_taken_in_every_status_and_overtakes_events(engine: Engine, instance_id: str) -> None:
    pending = engine.start("counter")
    for id_ in (pending, instance_id):
        engine.send(id_, "ADD", n=1)
        with engine.database.transaction() as tx:
            add_note(tx, engine.tenant_id, id_, "look at this", actor="test")
    engine.advance()

    assert engine.entry_types(pending)[:2] == ["note", "instance.started"]
    assert engine.entry_types(instance_id)[-3:] == ["note", "event.received", "context.assigned"]
    assert engine.status(pending) is InstanceStatus.WAITING


@pytest.mark.parametrize("note", ["", "x" * (MAX_NOTE + 1), None, 7])
@ON_SQLITE
def test_a_note_is_text_of_bounded_length(engine: Engine, instance_id: str, note: Any) -> None:
    with engine.database.transaction() as tx, pytest.raises(Invalid) as caught:
        add_note(tx, engine.tenant_id, instance_id, note, actor="test")
    assert caught.value.code == "note.invalid"
