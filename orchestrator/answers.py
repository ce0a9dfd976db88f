"""Answers that runners tell this process, until a step takes them, or they are stored for a later one (`common.queues.answers`).

The step of an instance that has nothing else waiting ends the task by its own writes, as if its row had just come into the inbox.
All others are stored as a runner would have stored them, and wait their turn in the inbox.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Sequence, Set

import structlog
from sqlalchemy import Connection

from common.commands.outcome import store_known
from common.courtesy import in_turn
from common.db import Database, note_bell
from common.db.tables import InboxType
from common.ids import InstanceId, LeaseToken, TaskId, WorkerId
from common.queues.answers import Answer, Envelope
from common.queues.handed import receipt_note
from common.queues.offers import name_of
from common.store.inbox import NOT_STORED, ORDINARY, InboxRow
from common.store.instances import LockedInstance

HEARD_MAX = 2_000
"""Answers that wait for a step; of more nothing is kept, and their runners store them."""
log = structlog.get_logger("signalbox.orchestrator")


class Answers:
    """What has been told to this process and no step has taken. Safe to use from any thread; without an `envelope` it hears nothing."""

    def __init__(self, envelope: Envelope | None = None, worker: WorkerId | None = None) -> None:
        self._envelope = envelope
        self.address = None if envelope is None or worker is None else envelope.address(worker)
        self._heard: list[Answer] = []
        self._turn = threading.Lock()

    def hear(self, hints: Sequence[bytes]) -> None:
        """Take note of calls. Never raises: what cannot be read is stored by who told it."""
        if self._envelope is None or self.address is None:
            return
        for said in hints:
            try:
                answers = self._envelope.open(self.address, said)
            except ValueError as error:
                log.warning("answer.unreadable", error=str(error)[:200])
                continue
            with self._turn:
                if len(self._heard) < HEARD_MAX:
                    self._heard += answers

    @property
    def are_any(self) -> bool:
        """Is there anything that no step has taken?"""
        return bool(self._heard)

    def take(self, most: int = HEARD_MAX) -> list[Answer]:
        """What has been told since the last time, of each claim one; of more than `most` the first ones, of the tenants in turn."""
        if not self._heard:
            return []
        with self._turn:
            heard, self._heard = self._heard, []
            if len(heard) > most:
                heard = in_turn(heard, lambda answer: answer.end.tenant_id)
                heard, self._heard = heard[:most], heard[most:]
        return list({answer.end.claim: answer for answer in heard}.values())


def for_this_step(
    answers: Sequence[Answer], locked: Collection[LockedInstance], waiting: Collection[InstanceId]
) -> dict[InstanceId, Answer]:
    """The answers that a step takes: of a locked instance that has only this one and nothing `waiting` in its inbox."""
    told = Counter(answer.end.instance_id for answer in answers)
    free = {(held.tenant_id, held.id) for held in locked if held.id not in waiting}
    return {
        answer.end.instance_id: answer
        for answer in answers
        if (answer.end.tenant_id, answer.end.instance_id) in free and told[answer.end.instance_id] == 1
    }


def row_of(answer: Answer) -> InboxRow:
    """The row that an answer would have in the inbox."""
    end = answer.end
    return InboxRow(NOT_STORED, end.instance_id, ORDINARY, InboxType.TASK, end.body, end.source, end.ended_at)


def note_receipts(tx: Connection, answers: Sequence[Answer]) -> None:
    """Have runners told, after the commit, that their answers are stored."""
    for answer in answers:
        note_bell(tx, name_of(answer.worker), receipt_note(answer.receipt))


def store(database: Database, answers: Sequence[Answer]) -> None:
    """Store answers as their runners would have, for a later step. Those whose claims do not hold any more are left to them."""
    if not answers:
        return

    def note(tx: Connection, done: Set[tuple[TaskId, LeaseToken]]) -> None:
        note_receipts(tx, [answer for answer in answers if answer.end.claim in done])

    store_known(database, [answer.end for answer in answers], note=note)
