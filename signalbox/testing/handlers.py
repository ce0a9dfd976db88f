"""The test's own `@handler` functions, called in process for tasks that nothing else answers.

They run as a task runner would run them, at no virtual time. Isolation, memory limits and time-outs have no part in it; the
handlers that come with Signalbox, which send mail and the like, are left out: say what they answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from common.ids import LeaseToken
from common.polls import POLL, unwrap
from common.store.claims import TaskClaim
from signalbox.testing.answers import Answer, result_answer
from signalbox.testing.memory import TENANT, Memory, Task
from signalbox.testing.metadata import MemoryMetadata
from task_runner.attempt import Result, attempt
from task_runner.context import TaskContext
from task_runner.executor import in_force
from task_runner.polls import judged
from task_runner.registry import Handler, Registry

_TOKEN = LeaseToken("00000000-0000-7000-9000-000000000002")


@dataclass(frozen=True)
class Handlers:
    """The functions of a registry, as those who are answered by them see them."""

    registry: Registry
    max_output_bytes: int
    memory: Memory

    def find(self, task: Task) -> Handler | None:
        """The function that does a task, unless it is one that Signalbox brings."""
        try:
            handler = self.registry.find(task.type, task.name)
        except KeyError:
            return None
        return None if handler.built_in else handler

    def run(self, task: Task) -> Answer | None:
        """Call the handler of a claimed task. What it says of retries holds where the task says nothing."""
        handler = self.find(task)
        if handler is None:
            return None
        claim = in_force(claim_of(task), handler.options)
        task.retry, task.max_attempts = claim.retry, claim.max_attempts
        context = TaskContext(claim, metadata=MemoryMetadata(self.memory, task.instance_id))
        result = attempt(handler, task.input, context, max_output_bytes=self.max_output_bytes)
        task.progress = context.last_progress or task.progress
        return result_answer(result)


def as_polled(task: Task, answer: Answer) -> Answer:
    """What a claimed task comes to by an answer: that of a POLL is one check, and perhaps not the last."""
    if task.asked_as != POLL or answer.is_silent:
        return answer
    said = Result(answer.text, answer.error, answer.again_ms, answer.state)
    if said.output is None and said.error is None and said.again_ms is None:
        said = Result(answer.output)
    came = judged(claim_of(task), said).result
    return replace(answer, text=came.output, error=came.error, again_ms=came.again_ms, state=came.state)


def claim_of(task: Task) -> TaskClaim:
    """The claim of the attempt that runs, as a task runner would have it."""
    is_poll = task.asked_as == POLL
    return TaskClaim(
        id=task.id, tenant_id=TENANT, instance_id=task.instance_id, key=task.key, type=task.type, name=task.name,
        attempt=task.attempt, max_attempts=task.max_attempts, idempotency_key=task.idempotency_key, input=task.input,
        retry=task.retry, timeout_ms=task.timeout_ms, heartbeat_ms=task.heartbeat_ms, options=task.options,
        progress=task.progress, completion_event=task.completion_event, failure_event=task.failure_event,
        joined_keys=None, run_at=task.run_at, token=_TOKEN, asked_as=task.asked_as,
        state=unwrap(task.state) if is_poll else task.state, polls=task.state if is_poll else None,
        claimed_at=task.attempts[-1].started_at,
    )  # fmt: skip
