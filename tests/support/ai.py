"""AI tasks in tests: the real handler with the provider `scripted`, and definitions that ask it."""

from __future__ import annotations

from typing import Any

from task_runner.handlers.ai import answer
from task_runner.handlers.ai_input import INPUT_SCHEMA
from task_runner.handlers.ai_providers import Ways
from task_runner.registry import make_handler
from tests.support.engine import Engine

Json = Any


def with_ai(engine: Engine, ways: Ways | None = None) -> Engine:
    """Let the engine's runner take AI tasks; their tools are the engine's own handlers."""
    known = ways or Ways()
    handler = make_handler(
        "AI",
        lambda input, context: answer(input, context, known, engine.registry),
        None,
        INPUT_SCHEMA,
        built_in=True,
    )
    engine.registry.add(handler)
    return engine


def asking(script: list[Json], policy: Json = None, *, input: Json = None, **task: Any) -> dict[str, Any]:
    """A definition that asks a model by the script, counts APPROVE and REJECT, and keeps the AI task's output."""
    wanted = {
        "type": "AI",
        "name": "clerk",
        "input": {
            "provider": "scripted",
            "model": "m-1",
            "messages": [{"role": "user", "content": "Approve the order?"}],
            "script": script,
            **(input or {}),
        },
        **({} if policy is None else {"policy": policy}),
        **task,
    }
    taken = {
        name: {
            "actions": [
                {"type": "assign", "path": "taken", "value": "${context.taken + [event]}"},
            ]
        }
        for name in ("APPROVE", "REJECT", "PAY_OUT", "DELETE_EVERYTHING")
    }
    return {
        "id": "asking",
        "initial": "thinking",
        "context": {"taken": [], "output": None},
        "states": {
            "thinking": {
                "entry": [{"type": "createTask", "task": wanted}],
                "on": {
                    "done.task.clerk": {
                        "actions": [{"type": "assign", "path": "output", "value": "${event.output}"}]
                    },
                    **taken,
                    "STOP": "stopped",
                },
            },
            "stopped": {"type": "final"},
        },
    }


def decision(event: Json, payload: Json = None, **more: Json) -> dict[str, Json]:
    """An answer that names an event."""
    return {
        "json": {"event": event, "payload": payload or {}, "reason": "because", "confidence": 0.9, **more}
    }
