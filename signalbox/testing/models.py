"""AI tasks in a test: the handler that Signalbox brings, with a model that says what the test wants. The policy holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from signalbox.testing.answers import Answer, result_answer
from signalbox.testing.handlers import claim_of
from signalbox.testing.memory import Memory, Task
from signalbox.testing.metadata import MemoryMetadata
from statechart.ai import AI
from task_runner.attempt import attempt
from task_runner.context import TaskContext
from task_runner.handlers.ai import answer
from task_runner.handlers.ai_providers import SCRIPTED, Ways
from task_runner.registry import REGISTRY, Registry, make_handler

Json = Any


def think(
    task: Task, said: Answer, memory: Memory, *, registry: Registry = REGISTRY, max_output_bytes: int
) -> Answer:
    """Take the next turn of a claimed AI task whose model says `said.turns`; takes as long as `said` does."""

    def ask(input: Json, context: TaskContext) -> Json:
        here = {name: value for name, value in input.items() if name not in ("apiKey", "baseUrl")}
        return answer(
            {**here, "provider": SCRIPTED, "script": list(said.turns or ())}, context, Ways(), registry
        )

    context = TaskContext(claim_of(task), metadata=MemoryMetadata(memory, task.instance_id))
    handler = make_handler(AI, ask, built_in=True)
    result = attempt(handler, task.input, context, max_output_bytes=max_output_bytes)
    task.progress = context.last_progress or task.progress
    return replace(result_answer(result), after_ms=said.after_ms)
