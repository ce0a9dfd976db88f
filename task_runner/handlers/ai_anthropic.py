"""The provider kind `anthropic`: messages, by Anthropic's library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from common.canonical import clean, dumps, read
from common.errors import SignalboxError
from task_runner.handlers.ai_port import Answer, Request, ToolCall, counted
from task_runner.handlers.ai_sdk import Connection, asked
from task_runner.handlers.ai_wire import WireNames

Json = Any


class Anthropic:
    """Asks by messages."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def complete(self, request: Request) -> Answer:
        names = WireNames(tool.name for tool in request.tools)
        wanted: dict[str, Json] = {
            "model": request.model,
            "system": request.system,
            "messages": _messages(request.messages, names),
            "max_tokens": request.max_tokens,
        }
        if request.temperature is not None:
            # Newer versions of the library do not name it any more; the models that know it still take it.
            wanted["extra_body"] = {"temperature": request.temperature}
        if request.tools:
            wanted["tools"] = [
                {
                    "name": names.theirs(tool.name),
                    "description": tool.description,
                    "input_schema": {"type": "object", **tool.schema},
                }
                for tool in request.tools
            ]

        def ask(library: Any, transport_client: Any) -> Answer:
            client = library.Anthropic(
                api_key="unused",  # the transport shows the key
                base_url=self._connection.url,
                http_client=transport_client,
                max_retries=0,
                timeout=self._connection.seconds,
            )
            return _answer(client.messages.create(**wanted), request, names)

        return asked(self._connection, "anthropic", ask)

    @staticmethod
    def credentials(key: str | None) -> dict[str, str]:
        """The headers that prove who asks."""
        return {} if key is None else {"x-api-key": key}


def _messages(messages: Sequence[Mapping[str, Json]], names: WireNames) -> list[dict[str, Json]]:
    """Messages in turns: what comes from one side in a row is one message, with tool results among the user's."""
    said: list[dict[str, Json]] = []
    for message in messages:
        role = "assistant" if message["role"] == "assistant" else "user"
        if not said or said[-1]["role"] != role:
            said.append({"role": role, "content": []})
        said[-1]["content"] += _blocks(message, names)
    return [one for one in said if one["content"]]


def _blocks(message: Mapping[str, Json], names: WireNames) -> list[dict[str, Json]]:
    if message["role"] == "tool":
        return [{"type": "tool_result", "tool_use_id": message["toolCallId"], "content": message["content"]}]
    text = message["content"]
    blocks: list[dict[str, Json]] = [{"type": "text", "text": text}] if text else []
    for call in message.get("toolCalls", ()):
        blocks.append(
            {
                "type": "tool_use",
                "id": call["id"],
                "name": names.theirs(call["name"]),
                "input": _arguments(call["arguments"]),
            }
        )
    return blocks


def _arguments(text: str) -> Json:
    """What a model has written before as arguments, given back to it; an object, as the protocol wants it."""
    try:
        value = read(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _answer(said: Any, request: Request, names: WireNames) -> Answer:
    """What the library has read, which is not checked by it: whatever is missing raises here."""
    text = "".join(block.text for block in said.content if block.type == "text")
    calls = tuple(
        ToolCall(str(block.id), names.ours(block.name), _written(block.input))
        for block in said.content
        if block.type == "tool_use"
    )
    cached = (said.usage.cache_read_input_tokens or 0) + (said.usage.cache_creation_input_tokens or 0)
    usage = counted(int(said.usage.input_tokens) + int(cached), said.usage.output_tokens)
    return Answer(text, calls, usage, str(said.model or request.model), str(said.stop_reason))


def _written(input: Json) -> str:
    try:
        return dumps(clean(input))
    except SignalboxError:
        return "(not JSON that can be stored)"
