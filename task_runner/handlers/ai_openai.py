"""The provider kind `openai`: chat completions by OpenAI's library, there or at any address that speaks the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from task_runner.handlers.ai_port import Answer, Request, ToolCall, counted, estimated
from task_runner.handlers.ai_sdk import Connection, asked
from task_runner.handlers.ai_wire import WireNames

Json = Any
_OFFICIAL = "https://api.openai.com/"


class OpenAi:
    """Asks by chat completions."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def complete(self, request: Request) -> Answer:
        names = WireNames(tool.name for tool in request.tools)
        is_official = self._connection.url.startswith(_OFFICIAL)
        # The newer name is all that OpenAI's newer models take, and what others do not know yet.
        wanted: dict[str, Json] = {
            "model": request.model,
            "messages": _messages(request, names),
            "max_completion_tokens" if is_official else "max_tokens": request.max_tokens,
        }
        if request.temperature is not None:
            wanted["temperature"] = request.temperature
        if request.tools:
            wanted["tools"] = [
                {
                    "type": "function",
                    "function": {
                        "name": names.theirs(tool.name),
                        "description": tool.description,
                        "parameters": dict(tool.schema),
                    },
                }
                for tool in request.tools
            ]
        if request.wants_json and is_official:
            wanted["response_format"] = {"type": "json_object"}

        def ask(library: Any, transport_client: Any) -> Answer:
            client = library.OpenAI(
                api_key="unused",  # the transport shows the key
                base_url=self._connection.url,
                http_client=transport_client,
                max_retries=0,
                timeout=self._connection.seconds,
            )
            return _answer(client.chat.completions.create(**wanted), request, names)

        return asked(self._connection, "openai", ask)

    @staticmethod
    def credentials(key: str | None) -> dict[str, str]:
        """The headers that prove who asks."""
        return {} if key is None else {"authorization": f"Bearer {key}"}


def _messages(request: Request, names: WireNames) -> list[dict[str, Json]]:
    return [
        {"role": "system", "content": request.system},
        *(_message(one, names) for one in request.messages),
    ]


def _message(message: Mapping[str, Json], names: WireNames) -> dict[str, Json]:
    if message["role"] == "tool":
        return {"role": "tool", "tool_call_id": message["toolCallId"], "content": message["content"]}
    said: dict[str, Json] = {"role": message["role"], "content": message["content"]}
    if message.get("toolCalls"):
        said["tool_calls"] = [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": names.theirs(call["name"]), "arguments": call["arguments"]},
            }
            for call in message["toolCalls"]
        ]
    return said


def _answer(said: Any, request: Request, names: WireNames) -> Answer:
    """What the library has read, which is not checked by it: whatever is missing raises here."""
    choice = said.choices[0]
    message = choice.message
    text = message.content or getattr(message, "refusal", None) or ""
    calls = tuple(
        ToolCall(str(call.id), names.ours(call.function.name), call.function.arguments or "{}")
        for call in message.tool_calls or ()
        if call.type == "function"
    )
    if not isinstance(text, str):
        raise TypeError("the content is no text")
    usage = estimated(request, text)
    if said.usage is not None:
        usage = counted(said.usage.prompt_tokens, said.usage.completion_tokens)
    return Answer(text, calls, usage, str(said.model or request.model), str(choice.finish_reason))
