"""The provider `scripted`: the answers stand in the input, one a turn. For tests, demos and rehearsals of a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from common.canonical import dumps
from common.schemas import compile_schema
from task_runner.handlers.ai_port import Answer, Request, ToolCall, Usage, estimated
from task_runner.registry import Permanent, Retryable

Json = Any

_ANSWER = compile_schema(
    {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "text": {"type": "string"},
            "json": True,
            "model": {"type": "string"},
            "stop": {"type": "string"},
            "toolCalls": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "additionalProperties": False,
                    "properties": {"id": {"type": "string"}, "name": {"type": "string"}, "arguments": True},
                },
            },
            "usage": {
                "type": "object",
                "required": ["inputTokens", "outputTokens"],
                "additionalProperties": False,
                "properties": {
                    "inputTokens": {"type": "integer", "minimum": 0},
                    "outputTokens": {"type": "integer", "minimum": 0},
                },
            },
            "error": {
                "type": "object",
                "required": ["code", "retryable"],
                "properties": {"code": {"type": "string"}, "retryable": {"type": "boolean"}},
            },
        },
    }
)


class Scripted:
    """Answers by turns: a text, or {text | json, toolCalls?, usage?, model?, stop?}, or {error: {code, retryable}}."""

    def __init__(self, script: Sequence[Json]) -> None:
        self._script = script

    def complete(self, request: Request) -> Answer:
        if request.turn > len(self._script):
            message = f"the script has {len(self._script)} answers, and this is turn {request.turn}"
            raise Permanent(message, code="ai.script")
        said = self._script[request.turn - 1]
        if isinstance(said, str):
            said = {"text": said}
        wrong = _ANSWER.problem(said)
        if wrong is not None:
            raise Permanent(f"script[{request.turn - 1}]: {wrong}", code="ai.script")
        if "error" in said:
            kind = Retryable if said["error"]["retryable"] else Permanent
            raise kind("the script has this turn fail", code=said["error"]["code"])
        text = dumps(said["json"]) if "json" in said else said.get("text", "")
        calls = tuple(_call(call, index) for index, call in enumerate(said.get("toolCalls", ()), 1))
        return Answer(
            text,
            calls,
            _usage(said.get("usage"), request, text),
            said.get("model", request.model),
            said.get("stop", "tools" if calls else "end"),
        )


def _call(call: Mapping[str, Json], index: int) -> ToolCall:
    arguments = call.get("arguments", {})
    text = arguments if isinstance(arguments, str) else dumps(arguments)
    return ToolCall(call.get("id", f"call-{index}"), call["name"], text)


def _usage(said: Mapping[str, int] | None, request: Request, text: str) -> Usage:
    if said is None:
        return estimated(request, text)
    return Usage(said["inputTokens"], said["outputTokens"])
