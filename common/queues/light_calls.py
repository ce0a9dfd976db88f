"""Light calls: a step has a runner call the light handlers that it asks for, and goes on with what they return before it commits.

A handler that is light waits for nothing and takes less than 10 ms, so a step may wait for it as for its own arithmetic: no lease, no row
that is written twice, no commit between one step and the next. What travels carries inputs and outputs, so it is sealed as answers are
(`answers.py`), and an address names who may open it. A call that was heard once is not heard again: each orchestrator counts its calls,
and a runner takes none whose count it has passed.

Nothing that travels is a truth. What is not answered in time is stored as any new task is, leased to the runner that may have called it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any, Self

from common.ids import InstanceId, LeaseToken, TaskId, TenantId, WorkerId
from common.queues.answers import Envelope
from common.store.claims import TaskClaim

SENDERS_MAX = 1_000
"""Orchestrators of whose calls a runner knows how many it has heard."""


class Called(IntEnum):
    """What became of a light call."""

    NOT_CALLED = 0  # anybody may take the task
    SUCCEEDED = 1
    KEPT = 2  # it was called, and its runner reports the end once the task is leased to it


@dataclass(frozen=True, slots=True)
class LightTask:
    """What a runner needs to know of a task that no row tells of yet; `input`, `retry` and `options` are JSON texts."""

    id: TaskId
    token: LeaseToken
    tenant_id: TenantId
    instance_id: InstanceId
    key: str
    type: str
    name: str
    max_attempts: int
    input: str
    retry: str | None
    options: str | None
    completion_event: str
    failure_event: str
    at: datetime

    def claim(self) -> TaskClaim:
        """The claim that a lease of it would be: its first attempt."""
        return TaskClaim(
            self.id, self.tenant_id, self.instance_id, self.key, self.type, self.name, 1, self.max_attempts, None, self.input,
            self.retry, None, None, self.options, None, self.completion_event, self.failure_event, None, self.at, self.token,
            claimed_at=self.at, is_first=True,
        )  # fmt: skip

    def told(self) -> tuple[Any, ...]:
        return (
            self.id, self.token, self.tenant_id, self.instance_id, self.key, self.type, self.name, self.max_attempts, self.input,
            self.retry, self.options, self.completion_event, self.failure_event, self.at,
        )  # fmt: skip

    @classmethod
    def read(cls, told: Sequence[Any]) -> Self:
        return cls(*(*told[:-1], datetime.fromisoformat(told[-1])))


@dataclass(frozen=True, slots=True)
class LightCall:
    """Tasks whose handlers a runner is to call, the `number`th that `sender` has sent, to be answered at `reply_to`."""

    sender: str
    number: int
    reply_to: str
    tasks: Sequence[LightTask]


@dataclass(frozen=True, slots=True)
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
        self._heard: OrderedDict[str, int] = OrderedDict()

    def open(self, said: bytes) -> LightCall | None:
        """Open what was called; None for what was heard before. Raises `ValueError` for what was not sealed for this runner."""
        sender, number, reply_to, tasks = self._envelope.open_value(self.address, said)
        if number <= self._heard.get(sender, 0):
            return None
        self._heard[sender] = number
        self._heard.move_to_end(sender)
        while len(self._heard) > SENDERS_MAX:
            self._heard.popitem(last=False)
        return LightCall(sender, number, reply_to, [LightTask.read(one) for one in tasks])

    def seal(self, call: LightCall, replies: Sequence[LightReply]) -> bytes:
        """The answer to a call."""
        told = [call.number, [(one.token, one.called.value, one.output) for one in replies]]
        return self._envelope.seal_value(call.reply_to, told)
