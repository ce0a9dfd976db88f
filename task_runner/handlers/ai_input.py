"""What an AI task asks for: its input, checked member by member."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.canonical import dumps
from common.errors import Invalid
from common.schemas import compile_schema
from task_runner.registry import Permanent

MAX_MESSAGES = 500
MAX_PROMPT = 400_000
"""Characters of all messages together."""
DEFAULT_MAX_TOKENS = 4_096
ROLES = ("system", "user", "assistant")

Json = Any

INPUT_SCHEMA: dict[str, Json] = {
    "type": "object",
    "required": ["provider", "model", "messages"],
    "additionalProperties": False,
    "properties": {
        "provider": {
            "type": "string",
            "minLength": 1,
            "maxLength": 100,
            "description": "`scripted`, `openai`, `anthropic`, or a name that the operator has given to one.",
        },
        "model": {"type": "string", "minLength": 1, "maxLength": 200},
        "messages": {
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_MESSAGES,
            "items": {
                "type": "object",
                "required": ["role", "content"],
                "additionalProperties": False,
                "properties": {
                    "role": {"enum": list(ROLES)},
                    "content": {"description": "Text; any other JSON is given to the model as JSON text."},
                },
            },
        },
        "schema": {
            "type": ["object", "boolean"],
            "description": "JSON Schema of the `result` that the model has to give.",
        },
        "tools": {
            "description": "The tools to tell the model of, and what they are for; without it, all that the policy allows.",
            "anyOf": [
                {"type": "array", "maxItems": 100, "items": {"type": "string"}},
                {
                    "type": "object",
                    "maxProperties": 100,
                    "additionalProperties": {"type": "string", "maxLength": 2_000},
                },
            ],
        },
        "script": {
            "type": "array",
            "maxItems": 100,
            "description": "The answers of the provider `scripted`, one a turn.",
        },
        "maxTokens": {
            "type": "integer",
            "minimum": 1,
            "maximum": 1_000_000,
            "default": DEFAULT_MAX_TOKENS,
            "description": "Of one answer.",
        },
        "temperature": {"type": "number", "minimum": 0, "maximum": 2},
        "baseUrl": {
            "type": "string",
            "maxLength": 2_000,
            "pattern": "^https?://",
            "description": "Where the provider is, instead of where the operator says.",
        },
        "apiKey": {
            "type": "string",
            "minLength": 1,
            "maxLength": 4_000,
            "description": "The key to show there: ${secret.NAME}. The operator's own goes nowhere but to its place.",
        },
    },
}
_SCHEMA = compile_schema(INPUT_SCHEMA, trusted=True)


@dataclass(frozen=True, slots=True)
class Asked:
    """A checked input. `tools` None: whatever the policy allows, with the handlers' own descriptions."""

    provider: str
    model: str
    messages: tuple[Mapping[str, str], ...]
    schema: Json
    tools: Mapping[str, str | None] | None
    script: tuple[Json, ...]
    max_tokens: int
    temperature: float | None
    base_url: str | None
    api_key: str | None


def check_input(input: Json) -> Asked:
    """Check the input of an AI task. Raises `Permanent` (`ai.input`)."""
    wrong = _SCHEMA.problem(input)
    if wrong is not None:
        raise Permanent(f"input: {wrong}", code="ai.input")
    if "schema" in input:
        try:
            compile_schema(input["schema"])
        except Invalid as error:
            raise Permanent(f"input: schema: {error}", code="ai.input") from None
    messages = tuple(
        {"role": message["role"], "content": _text(message["content"])} for message in input["messages"]
    )
    length = sum(len(message["content"]) for message in messages)
    if length > MAX_PROMPT:
        raise Permanent(
            f"input: messages have {length:,} characters, at most {MAX_PROMPT:,} are allowed", code="ai.input"
        )
    tools = input.get("tools")
    return Asked(
        provider=input["provider"],
        model=input["model"],
        messages=messages,
        schema=input.get("schema"),
        tools=dict.fromkeys(tools) if isinstance(tools, list) else tools,
        script=tuple(input.get("script") or ()),
        max_tokens=input.get("maxTokens", DEFAULT_MAX_TOKENS),
        temperature=input.get("temperature"),
        base_url=input.get("baseUrl"),
        api_key=input.get("apiKey"),
    )


def _text(content: Json) -> str:
    return content if isinstance(content, str) else dumps(content)
