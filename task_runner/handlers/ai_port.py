"""What a provider of models is asked, and what it answers: the one thing that the rest of an AI task knows of it.

Conversations are JSON, because they are what a turn hands on to the next: messages {role: "user" | "assistant" | "tool",
content, toolCalls?, toolCallId?, name?}, with tool calls {id, name, arguments}, whose arguments are the model's own text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from common.canonical import storable

MAX_NAME = 200

Json = Any


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as the model is told of it."""

    name: str
    description: str
    schema: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Request:
    """One turn. `system` says what the task is, in words of ours and of the definition; `turn` counts from 1."""

    model: str
    system: str
    messages: Sequence[Mapping[str, Json]]
    tools: Sequence[Tool]
    max_tokens: int
    temperature: float | None
    turn: int
    wants_json: bool


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the model wants called; `arguments` is what it wrote, which may not be JSON."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one turn; `is_estimated` where the provider did not say."""

    input_tokens: int
    output_tokens: int
    is_estimated: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said. `model` is the one that the provider names, which may not be the one that was asked."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    usage: Usage
    model: str
    stop: str

    def storable(self) -> Answer:
        """The same with nothing in it that no database takes, and no name longer than it is worth."""
        calls = tuple(
            ToolCall(storable(call.id)[:MAX_NAME], storable(call.name)[:MAX_NAME], storable(call.arguments))
            for call in self.tool_calls
        )
        return Answer(
            storable(self.text),
            calls,
            self.usage,
            storable(self.model)[:MAX_NAME],
            storable(self.stop)[:MAX_NAME],
        )


class Provider(Protocol):
    """A way to a model."""

    def complete(self, request: Request) -> Answer:
        """Ask the model. Raises `HandlerError`: `Retryable` for what may pass, `Permanent` for what will not."""
        ...


def estimated(request: Request, text: str) -> Usage:
    """Tokens where nobody counted them: rather too many, because budgets are held against them."""
    said = [request.system, *(str(message.get("content", "")) for message in request.messages)]
    return Usage(_bytes(*said) // 3 + 1, _bytes(text) // 3 + 1, is_estimated=True)


def _bytes(*texts: str) -> int:
    return sum(len(text.encode("utf-8", "replace")) for text in texts)
