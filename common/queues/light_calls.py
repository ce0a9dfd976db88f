"""Light calls: a step has a runner call the light handlers that it asks for, and goes on with what they return before it commits.

A handler that is light waits for nothing and takes less than 10 ms, so a step may wait for it as for its own arithmetic: no lease, no row
that is written twice, no commit between one step and the next. What travels carries inputs and outputs, so it is sealed as answers are
(`answers.py`), and an address names who may open it. A call that was heard once is not heard again: each orchestrator counts its calls,
and a runner takes none whose count it has passed.

Nothing that travels is a truth. What is not answered in time is stored as any new task is, leased to the runner that may have called it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from common.ids import LeaseToken, WorkerId
from common.queues.answers import Envelope
from common.queues.heard import HeardOnce
from common.queues.told_task import ToldTask
from statechart.record import record


class Called(IntEnum):
    """What became of a light call."""

    NOT_CALLED = 0  # anybody may take the task
    SUCCEEDED = 1
    KEPT = 2  # it was called, and its runner reports the end once the task is leased to it


@record
class LightCall:
    """Tasks whose handlers a runner is to call, the `number`th that `sender` has sent, to be answered at `reply_to`."""

    sender: str
    number: int
    reply_to: str
    tasks: Sequence[ToldTask]


@record
class LightReply:
    """What became of one task of a call: `output` is canonical text."""

    token: LeaseToken
    called: Called
    output: str | None = None


def calls_address(envelope: Envelope, worker: WorkerId) -> str:
    """Whom to call with light calls for a runner."""
    return envelope.address_of("light", worker)


class HeardCalls:
    """The light calls of one runner's ear, each once. For one thread."""

    def __init__(self, envelope: Envelope, worker: WorkerId) -> None:
        self._envelope = envelope
        self.address = calls_address(envelope, worker)
        self._heard = HeardOnce()

    def open(self, said: bytes) -> LightCall | None:
        """Open what was called; None for what was heard before. Raises `ValueError` for what was not sealed for this runner."""
        sender, number, reply_to, tasks = self._envelope.open_value(self.address, said)
        if not self._heard.is_new(sender, number):
            return None
        return LightCall(sender, number, reply_to, [ToldTask.read(one) for one in tasks])

    def seal(self, call: LightCall, replies: Sequence[LightReply]) -> bytes:
        """The answer to a call."""
        told = [call.number, [(one.token, one.called.value, one.output) for one in replies]]
        return self._envelope.seal_value(call.reply_to, told)
