"""Tools of a model: registered handlers that the policy lists, called in process with arguments that its schema allows.

Whatever a model asks for beyond that is not called. Either way something goes back to the model as data, and on record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.ai_policy import Policy
from common.canonical import dumps, loads, read
from common.errors import Invalid, SignalboxError
from common.schemas import Schema, compile_schema
from task_runner.attempt import attempt
from task_runner.context import TaskContext
from task_runner.handlers.ai_input import Asked
from task_runner.handlers.ai_port import Tool, ToolCall
from task_runner.registry import AI, Handler, Registry

MAX_CALLS = 20
"""Tools that one turn may call; more are refused."""
MAX_RESULT = 100_000
"""Bytes of what a tool returns; more is its failure."""
MAX_SHOWN = 20_000
"""Characters of a result that go back to the model."""
MAX_ARGUMENTS = 100_000

Json = Any


@dataclass(frozen=True, slots=True)
class Called:
    """What became of a tool call: `outcome` done, failed or refused; `told` is what goes back to the model."""

    name: str
    arguments: Json
    outcome: str
    told: Json

    def to_json(self) -> dict[str, Json]:
        return {
            "name": self.name,
            "arguments": self.arguments,
            "outcome": self.outcome,
            "told": self.told,
        }


@dataclass(frozen=True, slots=True)
class _Usable:
    handler: Handler
    schema: Schema


class Toolbox:
    """The tools that a policy lists, among the handlers of this process."""

    def __init__(self, registry: Registry, policy: Policy) -> None:
        self._usable: dict[str, _Usable] = {}
        self._unusable: dict[str, str] = {}
        for name, written in policy.tools.items():
            usable = _usable(registry, name, written)
            if isinstance(usable, str):
                self._unusable[name] = usable
            else:
                self._usable[name] = usable

    def offered(self, asked: Asked) -> list[Tool]:
        """The tools to tell the model of: those that the input names, of those that can be used."""
        names = self._usable if asked.tools is None else asked.tools
        told = asked.tools or {}
        return [
            Tool(name, told.get(name) or usable.handler.description[:2_000], _object(usable.schema.document))
            for name in names
            if (usable := self._usable.get(name)) is not None
        ]

    def call(self, call: ToolCall, context: TaskContext, *, turn: int, index: int) -> Called:
        """Do what a model wants done, where the policy allows it. Never raises for what comes of it."""
        name = call.name
        if index > MAX_CALLS:
            return _refused(name, None, f"more than {MAX_CALLS} tools in one turn")
        usable = self._usable.get(call.name)
        if usable is None:
            why = self._unusable.get(call.name, f"the policy lists no tool {call.name!a:.100}")
            return _refused(name, _shown(call.arguments), why)
        try:
            arguments = loads(call.arguments, max_bytes=MAX_ARGUMENTS, limit="arguments")
        except SignalboxError as error:
            return _refused(name, _shown(call.arguments), f"the arguments are not JSON: {error}")
        wrong = usable.schema.problem(arguments)
        if wrong is not None:
            return _refused(name, arguments, f"the arguments are not allowed: {wrong}")
        key = f"{context.idempotency_key}:{turn}:{index}"
        part = context.for_tool(usable.handler.name, key)
        result = attempt(usable.handler, dumps(arguments), part, max_output_bytes=MAX_RESULT)
        if result.error is not None:
            failed = {"error": {"code": result.error.code, "message": result.error.message}}
            return Called(name, arguments, "failed", failed)
        if result.output is None:
            failed = {
                "error": {"code": "tool.continues", "message": "the handler goes on in further attempts"}
            }
            return Called(name, arguments, "failed", failed)
        return Called(name, arguments, "done", read(result.output))


def _usable(registry: Registry, name: str, written: Json) -> _Usable | str:
    """The handler and schema of a tool, or why it cannot be one."""
    handler = registry.get(name)
    if handler is None or handler.name == AI:
        return f"no handler {name!a:.100} in this task runner can be a tool"
    if handler.options.isolated:
        return f"the handler {name!a:.100} is isolated, and tools run in the process of their task"
    if handler.input_schema is None and written is None:
        return f"neither the policy nor the handler {name!a:.100} says what its arguments may be"
    try:
        if written is None:
            return _Usable(handler, compile_schema(dict(handler.input_schema or {}), trusted=True))
        return _Usable(handler, compile_schema(written))
    except Invalid as error:
        return f"the schema of the tool {name!a:.100} cannot be used: {error}"


def _object(schema: Json) -> Mapping[str, Json]:
    return {"type": "object"} if isinstance(schema, bool) else schema


def _refused(name: str, arguments: Json, why: str) -> Called:
    return Called(name, arguments, "refused", {"error": {"code": "tool.refused", "message": why[:1_000]}})


def _shown(text: str) -> str:
    return text[:2_000]
