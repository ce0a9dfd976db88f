"""What a provider of models is asked, and what it answers: the one thing that the rest of an AI task knows of it.

Conversations are JSON, because they are what a turn hands on to the next: messages {role: "user" | "assistant" | "tool",
content, toolCalls?, toolCallId?, name?}, with tool calls {id, name, arguments}, whose arguments are the model's own text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from common.canonical import storable
from task_runner.redact import NOTHING_HIDDEN, Redaction

MAX_NAME = 200
MOST_TOKENS = 1_000_000_000
"""Of one turn; as many as a policy may allow."""

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

    def storable(self, hidden: Redaction = NOTHING_HIDDEN) -> Answer:
        """The same with nothing in it that no database takes and nothing that is hidden, and no name longer than it is worth.

        Whatever is made of an answer is made of this: it is cut in many places, and half a secret would not be found afterwards.
        """

        def kept(text: str) -> str:
            return hidden.text(storable(text))

        calls = tuple(
            ToolCall(kept(call.id)[:MAX_NAME], kept(call.name)[:MAX_NAME], kept(call.arguments))
            for call in self.tool_calls
        )
        return Answer(
            kept(self.text), calls, self.usage, kept(self.model)[:MAX_NAME], kept(self.stop)[:MAX_NAME]
        )


class Provider(Protocol):
    """A way to a model."""

    def complete(self, request: Request) -> Answer:
        """Ask the model. Raises `HandlerError`: `Retryable` for what may pass, `Permanent` for what will not."""
        ...


def counted(input_tokens: Any, output_tokens: Any) -> Usage:
    """Tokens as a provider has counted them. Raises `ValueError` for what is no count: fewer than none would pay for the turns before."""
    told = int(input_tokens), int(output_tokens)
    if not all(0 <= tokens <= MOST_TOKENS for tokens in told):
        raise ValueError("expected numbers of tokens")
    return Usage(*told)


def estimated(request: Request, text: str) -> Usage:
    """Tokens where nobody counted them: rather too many, because budgets are held against them."""
    said = [request.system, *(str(message.get("content", "")) for message in request.messages)]
    return Usage(_bytes(*said) // 3 + 1, _bytes(text) // 3 + 1, is_estimated=True)


def _bytes(*texts: str) -> int:
    return sum(len(text.encode("utf-8", "replace")) for text in texts)
