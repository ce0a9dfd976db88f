"""What is kept of an AI task: the conversation for its next turn, and in the end everything as evidence, without secrets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import re2

from common.ai_policy import Ruling
from common.canonical import dumps, size, storable
from task_runner import redact
from task_runner.handlers.ai_answer import Parsed
from task_runner.handlers.ai_port import Answer, Usage
from task_runner.handlers.ai_tools import Called

MAX_CONVERSATION = 500_000
"""Bytes of a conversation, tools included, that goes on to another turn."""
MAX_RAW = 16_000
MAX_MESSAGE = 8_000
MAX_MESSAGES = 100_000
"""Bytes of all messages that are kept; the last ones are, and the first two."""
MAX_TOOL = 2_000
"""Characters of what a tool was called with, and of what it said."""
MAX_TOOLS = 100_000
"""Bytes of all that is told of tool calls; of the ones before only the outcome is kept."""
MAX_TEXT = 50_000
HIDDEN = "***"

Json = Any

OUTPUT_SCHEMA: dict[str, Json] = {
    "type": "object",
    "required": [
        "decision",
        "verdict",
        "why",
        "message",
        "provider",
        "model",
        "promptHash",
        "policyHash",
        "usage",
        "cost",
    ],
    "properties": {
        "decision": {
            "type": ["object", "null"],
            "description": "{event, payload, reason, confidence}: what the model decided, whatever became of it.",
        },
        "verdict": {"enum": ["emitted", "suggested", "refused", "none"]},
        "why": {"type": "string", "description": "The reason of the verdict, to be compared with."},
        "message": {"type": "string", "description": "The same for people."},
        "text": {
            "type": "string",
            "description": "What the model said in the end, where that is no decision and no result.",
        },
        "result": {"description": "By the `schema` of the input."},
        "provider": {"type": "string"},
        "model": {"type": "string"},
        "promptHash": {"type": ["string", "null"]},
        "policyHash": {"type": "string"},
        "messages": {"type": "array", "description": "The conversation, redacted and bounded."},
        "raw": {"type": "string", "description": "The start of the last answer, redacted."},
        "turns": {"type": "array", "description": "What each turn cost, and the tools that it called."},
        "usage": {"type": "object", "description": "{inputTokens, outputTokens, isEstimated}"},
        "cost": {"type": ["number", "null"], "description": "By the prices of the policy or the operator."},
    },
}


@dataclass
class Conversation:
    """The turns so far. `to_json` is what the next turn goes on from."""

    messages: list[dict[str, Json]] = field(default_factory=list)
    turns: list[dict[str, Json]] = field(default_factory=list)
    input_tokens: int = 0
    output_tokens: int = 0
    is_estimated: bool = False
    cost: float | None = None

    @classmethod
    def begun(cls, messages: Sequence[Mapping[str, Json]]) -> Conversation:
        """A conversation that nobody has answered yet."""
        return cls([dict(message) for message in messages if message["role"] != "system"])

    @classmethod
    def going_on(cls, state: Mapping[str, Json]) -> Conversation:
        """The one that a turn has handed on."""
        return cls(**state)

    def to_json(self) -> dict[str, Json]:
        return {
            "messages": self.messages,
            "turns": self.turns,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "is_estimated": self.is_estimated,
            "cost": self.cost,
        }

    @property
    def turn(self) -> int:
        """How many turns were taken."""
        return len(self.turns)

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def is_too_large(self) -> bool:
        return size(dumps(self.messages)) > MAX_CONVERSATION

    def charge(self, usage: Usage, cost: float | None) -> None:
        """Count what a turn has cost."""
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        self.is_estimated |= usage.is_estimated
        if cost is not None:
            self.cost = round((self.cost or 0.0) + cost, 9)

    def note(self, answer: Answer, called: Sequence[Called]) -> None:
        """Put a turn on record."""
        self.turns.append(
            {
                "turn": self.turn + 1,
                "model": answer.model,
                "stop": answer.stop,
                "inputTokens": answer.usage.input_tokens,
                "outputTokens": answer.usage.output_tokens,
                "toolCalls": [_short(one.to_json()) for one in called],
            }
        )

    def hear(self, answer: Answer, calls: Sequence[Mapping[str, Json]] = ()) -> None:
        """Add what the model said."""
        said: dict[str, Json] = {"role": "assistant", "content": answer.text}
        self.messages.append(said | {"toolCalls": list(calls)} if calls else said)


def _short(call: dict[str, Json]) -> dict[str, Json]:
    """A tool call for the record: what is long is given as the start of its text."""
    return {name: _start(value) if name in ("arguments", "told") else value for name, value in call.items()}


def _start(value: Json) -> Json:
    text = dumps(value)
    return value if len(text) <= MAX_TOOL else f"{text[:MAX_TOOL]}… ({len(text):,} characters)"


class Redaction:
    """Replaces what a policy's patterns find in whatever is kept of a conversation, and before that what is hidden.

    What was kept is cut, and half a secret would not be found any more; neither would one that a pattern finds a part of.
    """

    def __init__(self, patterns: Sequence[str], hidden: redact.Redaction = redact.NOTHING_HIDDEN) -> None:
        self._patterns = [re2.compile(pattern) for pattern in patterns]
        self._hidden = hidden

    def text(self, text: str) -> str:
        text = self._hidden.text(text)
        for pattern in self._patterns:
            text = pattern.sub(HIDDEN, text)
        return text

    def json(self, value: Json) -> Json:
        """The same in every text of a JSON value, names of members excepted."""
        match value:
            case str():
                return self.text(value)
            case Mapping():
                return {name: self.json(item) for name, item in value.items()}
            case list():
                return [self.json(item) for item in value]
            case _:
                return value


@dataclass(frozen=True, slots=True)
class About:
    """What stands in every record of one task."""

    provider: str
    model: str
    prompt_hash: str | None
    policy_hash: str
    system: str
    redaction: Redaction


def record(
    about: About,
    ruling: Ruling,
    conversation: Conversation,
    *,
    parsed: Parsed | None = None,
    answer: Answer | None = None,
) -> dict[str, Json]:
    """The output of the task, whatever became of it."""
    hide = about.redaction
    output: dict[str, Json] = {
        "decision": None if parsed is None else parsed.decision,
        "verdict": ruling.verdict.value,
        "why": ruling.why.value,
        "message": storable(hide.text(ruling.message))[:1_000],
        "provider": about.provider,
        "model": about.model if answer is None else answer.model,
        "promptHash": about.prompt_hash,
        "policyHash": about.policy_hash,
        "messages": _shown([{"role": "system", "content": about.system}, *conversation.messages], hide),
        "turns": _bounded(hide.json(conversation.turns)),
        "usage": {
            "inputTokens": conversation.input_tokens,
            "outputTokens": conversation.output_tokens,
            "isEstimated": conversation.is_estimated,
        },
        "cost": conversation.cost,
    }
    if answer is not None:
        text = hide.text(answer.text)
        output["raw"] = text[:MAX_RAW]
        if parsed is None or (parsed.decision is None and parsed.result is None):
            output["text"] = text[:MAX_TEXT]
    if parsed is not None and parsed.why is None and parsed.result is not None:
        output["result"] = parsed.result
    return output


def _bounded(turns: list[dict[str, Json]]) -> list[dict[str, Json]]:
    """The turns, with what their last tools were called with and said, as far as there is room for it."""
    room = MAX_TOOLS
    kept = []
    for turn in reversed(turns):
        room -= size(dumps(turn["toolCalls"]))
        if room < 0:
            short = [{"name": call["name"], "outcome": call["outcome"]} for call in turn["toolCalls"]]
            turn = {**turn, "toolCalls": short}  # noqa: PLW2901
        kept.append(turn)
    return kept[::-1]


def _shown(messages: Sequence[Mapping[str, Json]], hide: Redaction) -> list[Json]:
    """The messages as they are kept: the first two and as many of the last as there is room for."""
    shown = [_cut(hide.json(dict(message))) for message in messages]
    room = MAX_MESSAGES - sum(size(dumps(message)) for message in shown[:2])
    kept: list[Json] = []
    for message in reversed(shown[2:]):
        room -= size(dumps(message))
        if room < 0:
            break
        kept.append(message)
    left_out = len(shown[2:]) - len(kept)
    between = [{"role": "system", "content": f"({left_out} messages are not kept)"}] if left_out else []
    return [*shown[:2], *between, *reversed(kept)]


def _cut(message: dict[str, Json]) -> dict[str, Json]:
    content = str(message["content"])
    if len(content) > MAX_MESSAGE:
        message["content"] = f"{content[:MAX_MESSAGE]}… ({len(content):,} characters)"
    for call in message.get("toolCalls", ()):
        call["arguments"] = str(call["arguments"])[:MAX_TOOL]
    return message
