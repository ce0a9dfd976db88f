"""What a worker is called with: ids of tasks that steps leased to it, what those tasks are, whom to tell of their ends, and receipts.

All of it is a hint. What a plain task is travels with its id, so that its runner need not read a row that was written a millisecond ago. It carries
what a definition gives to a handler, so it is sealed as answers are (`answers.py`), and an address names who may open it. A runner that cannot, or has
heard that call before, or made the offer that it answers a while ago (`task_runner/offering.py`), reads what the ids are of: then nothing but the row can tell.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from common.ids import TaskId, WorkerId, is_id, new_id
from common.queues.answers import LONGEST, Envelope
from common.queues.heard import HeardOnce
from common.queues.offers import name_of
from common.queues.told_task import ToldTask

TOLD_BYTES = 4_096
"""Of a task's input; what is longer is read."""
CALL_BYTES = 200_000
"""Of all tasks of a call; the ids of the others are enough."""
_RECEIPT, _ADDRESS, _TASK, _SEALED = "stored:", "by:", "task:", "sealed:"


def receipt_note(receipt: str) -> str:
    """What a worker is called with when an answer is stored."""
    return _RECEIPT + receipt


def task_note(offer_number: int, task: ToldTask) -> str:
    """What a worker is called with beside the id of a task that its offer of this number had leased to it."""
    return _TASK + orjson.dumps((offer_number, *task.told())).decode()


class TaskSealer:
    """Seals what tasks are for the runners that they were leased to. For one thread at a time."""

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope
        self._sender = new_id()  # of this process, as its count is
        self._number = 0

    def seal(self, whom: str, tasks: Sequence[str]) -> str:
        """JSON texts of tasks, as `whom` alone can read them."""
        self._number += 1
        told = [self._sender, self._number, [orjson.Fragment(text) for text in tasks]]
        address = self._envelope.address_of("handed", whom)
        return base64.b64encode(self._envelope.seal_value(address, told)).decode()


class SealedTasks:
    """Opens what one runner was told of tasks, each call once. For one thread."""

    def __init__(self, envelope: Envelope, worker: WorkerId) -> None:
        self._envelope = envelope
        self._address = envelope.address_of("handed", name_of(worker))
        self._heard = HeardOnce()

    def open(self, sealed: str) -> list[tuple[int, ToldTask]]:
        """Tasks, each with the number of the offer that it was leased by; none where this was heard before, or is not sealed for us."""
        try:
            sender, number, tasks = self._envelope.open_value(
                self._address, base64.b64decode(sealed, validate=True)
            )
        except (ValueError, binascii.Error):
            return []  # by a process with another secret, whose ids are as good
        if not self._heard.is_new(sender, number):
            return []
        return [(offer_number, ToldTask.read(told)) for offer_number, *told in tasks]


@dataclass(frozen=True, slots=True)
class Told:
    """What calls to a worker say: tasks that are leased to it, with whom to answer (None: nobody), what they are, and receipts for its answers."""

    tasks: dict[TaskId, str | None]
    receipts: list[str]
    sealed: list[str]


def worker_call(
    whom: str, notes: Sequence[str], address: str | None, sealer: TaskSealer | None
) -> tuple[bytes, list[str]]:
    """The call that tells `whom` of `notes`, ids of tasks, what they are, and receipts; and the ids among them."""
    told, ids, tasks, room = [], [], [], CALL_BYTES
    for note in notes:
        if not note.startswith(_TASK):
            told.append(note)
            if not note.startswith(_RECEIPT):
                ids.append(note)
        elif sealer is not None and len(note) <= room:
            room -= len(note)
            tasks.append(note.removeprefix(_TASK))
    if tasks and sealer is not None:
        told.append(_SEALED + sealer.seal(whom, tasks))
    if ids and address is not None:
        told.append(_ADDRESS + address)
    return orjson.dumps(told), ids


def read_worker_calls(hints: Sequence[bytes]) -> Told:
    """Read what a worker was called with; what cannot be read is passed over, and found by a look."""
    told = Told({}, [], [])
    for said in hints:
        if len(said) > LONGEST:
            continue
        try:
            notes = orjson.loads(said)
        except ValueError:
            continue
        if not isinstance(notes, list):
            continue
        texts = [one for one in notes if isinstance(one, str)]
        address = next((one.removeprefix(_ADDRESS) for one in texts if one.startswith(_ADDRESS)), None)
        told.tasks.update((TaskId(one), address) for one in texts if is_id(one))
        told.receipts.extend(one.removeprefix(_RECEIPT) for one in texts if one.startswith(_RECEIPT))
        told.sealed.extend(one.removeprefix(_SEALED) for one in texts if one.startswith(_SEALED))
    return told
