"""What a worker is called with: read as it was said, what tasks are by their runner alone and once, and nothing else is taken for it."""

import base64
from dataclasses import replace
from datetime import UTC, datetime

import orjson

from common.ids import InstanceId, LeaseToken, TaskId, TenantId, WorkerId, new_id
from common.queues.answers import LONGEST, Envelope
from common.queues.handed import (
    CALL_BYTES,
    SealedTasks,
    TaskSealer,
    read_worker_calls,
    receipt_note,
    task_note,
    worker_call,
)
from common.queues.offers import name_of
from common.queues.told_task import ToldTask

ENVELOPE = Envelope(b"k" * 32)
WORKER = WorkerId(new_id())
WHOM = name_of(WORKER)


def told_task() -> ToldTask:
    return ToldTask(
        TaskId(new_id()), LeaseToken(new_id()), TenantId(new_id()), InstanceId(new_id()), "working.work", "work", "work", 3,
        '{"a":"\u00fc"}', '{"maxAttempts":3}', None, "DONE", "FAILED", datetime(2026, 11, 29, 20, 28, 15, 123456, tzinfo=UTC),
    )  # fmt: skip


def sealed(sealer: TaskSealer, *tasks: ToldTask, number: int = 7) -> list[str]:
    """What a call about some tasks says of them."""
    notes = [note for one in tasks for note in (one.id, task_note(number, one))]
    return read_worker_calls([worker_call(WHOM, notes, None, sealer)[0]]).sealed


def test_a_worker_hears_of_its_tasks_with_whom_to_answer_and_of_what_is_stored() -> None:
    first, second = TaskId(new_id()), TaskId(new_id())

    call, ids = worker_call(WHOM, [receipt_note("4f2a"), first, second], "answers:here", None)
    assert ids == [first, second]
    read = read_worker_calls([call, worker_call(WHOM, [receipt_note("77")], "answers:here", None)[0]])
    assert read.tasks == {first: "answers:here", second: "answers:here"}
    assert read.receipts == ["4f2a", "77"]

    assert read_worker_calls([worker_call(WHOM, [first], None, None)[0]]).tasks == {first: None}


def test_what_is_no_note_is_passed_over() -> None:
    ids = [TaskId(new_id()) for _ in range(3)]
    hints = [
        orjson.dumps(ids[:2]),
        b"",
        b"7",
        b"{",
        b'{"by:": 1}',
        orjson.dumps([ids[2], "'; --", 7, None]),
        orjson.dumps(ids[:1]),
        b" " * LONGEST + orjson.dumps([new_id()]),
    ]

    read = read_worker_calls(hints)

    assert list(read.tasks) == ids
    assert read.receipts == []


def test_what_tasks_are_is_told_to_their_runner_alone_and_hints_stay_ids() -> None:
    first, second = told_task(), told_task()
    notes = [first.id, second.id, task_note(7, first), task_note(8, second), receipt_note("4f2a")]

    call, ids = worker_call(WHOM, notes, "answers:here", TaskSealer(ENVELOPE))

    assert ids == [first.id, second.id], "which Flower shows"
    assert b"working.work" not in call
    read = read_worker_calls([call])
    assert read.tasks == {first.id: "answers:here", second.id: "answers:here"}
    assert read.receipts == ["4f2a"]
    [text] = read.sealed
    assert SealedTasks(ENVELOPE, WORKER).open(text) == [(7, first), (8, second)]
    assert SealedTasks(ENVELOPE, WorkerId(new_id())).open(text) == [], "sealed for another runner"
    assert SealedTasks(Envelope(b"l" * 32), WORKER).open(text) == [], "another installation's secret"


def test_nobody_is_told_what_tasks_are_where_nothing_can_be_sealed() -> None:
    task = told_task()

    call, ids = worker_call(WHOM, [task.id, task_note(7, task)], None, None)

    assert ids == [task.id]
    assert orjson.loads(call) == [task.id]


def test_what_is_played_again_tells_nothing_and_neither_does_what_comes_late() -> None:
    sealer, hears = TaskSealer(ENVELOPE), SealedTasks(ENVELOPE, WORKER)
    [first], [second] = sealed(sealer, told_task()), sealed(sealer, told_task())
    [of_another] = sealed(TaskSealer(ENVELOPE), told_task())

    assert hears.open(second)
    assert hears.open(second) == []
    assert hears.open(first) == [], "whatever was sent before it"
    assert hears.open(of_another), "each sender counts by himself"


def test_what_was_changed_tells_nothing() -> None:
    [text] = sealed(TaskSealer(ENVELOPE), told_task())
    raw = bytearray(base64.b64decode(text))
    raw[-1] ^= 1
    hears = SealedTasks(ENVELOPE, WORKER)

    assert hears.open(base64.b64encode(raw).decode()) == []
    assert hears.open("no base64!") == []
    assert hears.open("") == []
    assert hears.open(text), "and it takes nothing from what was not"


def test_of_very_many_tasks_the_ids_are_told() -> None:
    tasks = [replace(told_task(), input='"' + "x" * 4_000 + '"') for _ in range(60)]
    notes = [note for one in tasks for note in (one.id, task_note(1, one))]

    call, ids = worker_call(WHOM, notes, None, TaskSealer(ENVELOPE))

    assert ids == [one.id for one in tasks]
    assert len(call) < 2 * CALL_BYTES
    read = read_worker_calls([call])
    opened = SealedTasks(ENVELOPE, WORKER).open(read.sealed[0])
    assert 0 < len(opened) < len(tasks)
    assert len(read.tasks) == len(tasks)
