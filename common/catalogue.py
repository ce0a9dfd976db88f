"""Task types and what may be said of them: the engine's own, and a title, a category and examples of those that come along.

The engine's own types are executed by no runner, so nobody publishes them: their schemas stand here. What runners publish
(HTTP, EMAIL, AI, handlers of yours) brings its schemas itself. Pure data, for the door, the API and the docs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from statechart.effects import LOG_LEVELS
from statechart.maps import JOINS, MAX_ITEMS, ON_ERROR
from statechart.polls import LEAST_INTERVAL_MS

Json = Any

CODE = "code"
"""The category of everything that is not in the catalogue: handlers that people wrote."""
_DURATION: dict[str, Json] = {
    "type": ["string", "number"],
    "description": 'Milliseconds, or text such as "30s", "5m", "2h", "7d", "PT5M".',
}
_EVENT: dict[str, Json] = {
    "type": "object",
    "required": ["type"],
    "properties": {"type": {"type": "string"}},
    "description": "The event: `type` and any other members.",
}
_ANYTHING: dict[str, Json] = {}


@dataclass(frozen=True, slots=True)
class Example:
    """A task as a definition writes it: `type`, `input` and options beside it. `says` is what it does."""

    says: str
    task: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class TaskType:
    """A task type in the catalogue. Schemas are None where whoever executes it publishes them."""

    type: str
    title: str
    category: str
    description: str = ""
    input_schema: Mapping[str, Json] | None = None
    output_schema: Mapping[str, Json] | None = None
    examples: Sequence[Example] = field(default=())

    @property
    def is_own(self) -> bool:
        """Executed by the engine itself."""
        return self.input_schema is not None


_WORKFLOW: dict[str, Json] = {
    "type": "object",
    "required": ["definitionKey"],
    "additionalProperties": False,
    "properties": {
        "definitionKey": {"type": ["string", "integer"], "description": "Of the definition to start."},
        "version": {"type": ["integer", "null"], "minimum": 1, "description": "Else the active one."},
        "input": {"description": "What it is started with."},
        "businessKey": {
            "type": ["string", "integer", "null"],
            "description": "At most one live instance has it.",
        },
        "wait": {"type": "boolean", "default": True, "description": "Wait for its end."},
        "cancelWithParent": {
            "type": "boolean",
            "default": True,
            "description": "Let it end with its parent.",
        },
    },
}

OWN: tuple[TaskType, ...] = (
    TaskType(
        "HUMAN", "A person's work", "human",
        "Waits for a person, who is its `assignee` or one of its `candidates`. `form` is a JSON Schema of what they send, `due` when "
        "it should be done. The input is what is shown to them.",
        _ANYTHING, {"description": "What the person sent."},
        (Example("Ask somebody to approve an order", {
            "type": "HUMAN", "name": "approve-order", "assignee": "ada", "input": {"order": 7},
                    "form": {
                        "type": "object",
                        "required": ["approved"],
                        "properties": {"approved": {"type": "boolean"}},
                    },
        }),),
    ),
    TaskType(
        "TIMER", "A pause", "flow",
        "Waits for the `duration` of its input, for its `delay`, or until its `runAt`. It needs no worker and survives every restart.",
        {"type": ["object", "null"], "properties": {"duration": _DURATION}}, {"type": "null"},
        (Example("Wait for five minutes", {"type": "TIMER", "name": "cool-down", "input": {"duration": "5m"}}),),
    ),
    TaskType(
        "WORKFLOW", "A child workflow", "flow",
        "Starts an instance of another definition and, unless `wait` is false, waits for its end.",
        _WORKFLOW,
        {
            "type": "object", "required": ["instanceId", "status", "output"],
            "properties": {"instanceId": {"type": "string"}, "status": {"type": "string"}, "output": {}},
        },
        (Example("Start a shipment and go on without it", {
            "type": "WORKFLOW", "name": "ship", "input": {"definitionKey": "shipment", "input": {"order": 7}, "wait": False},
        }),),
    ),
    TaskType(
        "MAP", "The same for many", "flow",
        "Does a task, or starts a workflow, for each of its items, with `item` and `index` in their expressions, and ends once.",
        {
            "type": "object",
            "required": ["items"],
            "additionalProperties": False,
            "properties": {
                "items": {"type": "array", "maxItems": MAX_ITEMS, "description": "What to go through."},
                "task": {"type": "object", "description": "A task for each item: `type`, `input` and options."},
                "workflow": {**_WORKFLOW, "description": "Or a child workflow for each item."},
                "concurrency": {"type": ["integer", "null"], "minimum": 1, "description": "How many at once; else all."},
                "join": {
                    "default": "all",
                    "description": "How many must succeed.",
                    "anyOf": [
                        {"enum": list(JOINS)},
                        {
                            "type": "object", "required": ["quorum"], "additionalProperties": False,
                            "properties": {"quorum": {"type": "integer", "minimum": 1}},
                        },
                    ],
                },
                "onError": {"enum": list(ON_ERROR), "default": ON_ERROR[0], "description": "Whether the rest is waited for."},
            },
        },
        {
            "type": "object", "required": ["results", "errors"],
            "properties": {"results": {"type": "array"}, "errors": {"type": "array"}},
        },
        (Example("Look up three articles", {
            "type": "MAP", "name": "look-up",
            "input": {"items": ["a", "b", "c"], "task": {"type": "signalbox.noop", "input": {"sku": "${item}"}}},
        }),),
    ),
    TaskType(
        "POLL", "Asking until something is so", "flow",
        "Does its inner task at an interval until an expression over its output is true; the last output is its own.",
        {
            "type": "object",
            "required": ["task", "until", "interval"],
            "additionalProperties": False,
            "properties": {
                "task": {"type": "object", "required": ["type"], "description": "What is asked: `type`, `input`, `retry`, …"},
                "until": {"type": "string", "description": "An expression over `output`."},
                "interval": {**_DURATION, "minimum": LEAST_INTERVAL_MS},
                "timeout": {**_DURATION, "type": ["string", "number", "null"]},
                "maxAttempts": {"type": ["integer", "null"], "minimum": 1, "description": "How many checks at most."},
                "checkFirst": {"type": ["boolean", "null"], "default": False, "description": "Make the first check at once."},
            },
        },
        {"description": "The output of the check that met the condition."},
        (Example("Ask each minute whether an export is done", {
            "type": "POLL", "name": "export-is-done",
            "input": {
                "task": {"type": "signalbox.noop", "input": {"export": 7}},
                "until": "output == {}", "interval": "1m", "timeout": "2h",
            },
        }),),
    ),
    TaskType(
        "SET", "Set data", "data", "Puts each value of its input into the context, by path. Done within the step.",
        {"type": ["object", "null"]}, _ANYTHING,
        (Example("Remember a decision", {"type": "SET", "name": "remember", "input": {"order.approved": True}}),),
    ),
    TaskType(
        "TRANSFORM", "Compute data", "data", "Its input, made of expressions, is its output. Done within the step.",
        _ANYTHING, _ANYTHING,
        (Example("Add up what an order costs", {
            "type": "TRANSFORM", "name": "total", "input": {"total": "${3 * 14}", "currency": "EUR"},
        }),),
    ),
    TaskType(
        "LOG", "Write to the log", "data", "Writes `message` into the history. Done within the step.",
        {
            "type": "object",
            "properties": {
                "message": {"description": "Text; anything else is written as JSON."},
                "level": {"enum": list(LOG_LEVELS), "default": "info"},
            },
        },
        _ANYTHING,
        (Example("Say what happened", {"type": "LOG", "name": "say", "input": {"message": "packed", "level": "info"}}),),
    ),
    TaskType(
        "EMIT", "Publish an event", "message",
        "Publishes `event`, or its input as the event, for triggers and streams. Done within the step.",
        {
            "type": "object",
            "anyOf": [
                {"required": ["event"], "properties": {"event": {"anyOf": [{"type": "string"}, _EVENT]}}},
                _EVENT,
            ],
        },
        {"type": "null"},
        (Example("Tell the world that something was shipped", {
            "type": "EMIT", "name": "tell", "input": {"event": {"type": "SHIPPED", "parcel": "P-7"}},
        }),),
    ),
)  # fmt: skip
"""The engine's own types."""

ALONG: tuple[TaskType, ...] = (
    TaskType(
        "HTTP", "An HTTP request", "api-call",
        examples=(Example("Fetch an order", {
            "type": "HTTP", "name": "fetch-order",
            "input": {"method": "GET", "url": "https://orders.example/7", "expect": ["2xx", "404"]},
        }),),
    ),
    TaskType(
        "EMAIL", "An e-mail", "message",
        examples=(Example("Say welcome", {
            "type": "EMAIL", "name": "welcome",
            "input": {"to": "ada@example.com", "subject": "Welcome", "text": "Good to have you here."},
        }),),
    ),
    TaskType(
        "AI", "A model's decision, under a policy", "ai",
        examples=(Example("Let a scripted model choose between two events", {
            "type": "AI", "name": "decide",
            "input": {
                "provider": "scripted", "model": "test", "messages": [{"role": "user", "content": "Ship order 7?"}],
            },
            "policy": {"allowedEvents": ["SHIP", "WAIT"], "allowedModels": ["test"]},
        }),),
    ),
    TaskType(
        "SYSTEM", "A registered function", CODE,
        "Calls the function of its `name`, which a task runner has registered with `@handler`.",
        examples=(Example("Do nothing", {"type": "SYSTEM", "name": "signalbox.noop", "input": None}),),
    ),
)  # fmt: skip
"""Types that come along and that runners execute."""

CATALOGUE: Mapping[str, TaskType] = {one.type: one for one in (*OWN, *ALONG)}


# -- the flat view ------------------------------------------------------------------------------------------------

_BOUNDS = {
    "minLength": "minLength", "maxLength": "maxLength", "pattern": "pattern", "enum": "enum", "minimum": "min",
    "maximum": "max", "minItems": "minItems", "maxItems": "maxItems",
}  # fmt: skip
MAX_MEMBERS = 200


def members_of(schema: Json) -> list[dict[str, Json]]:
    """The members of an object's schema as a flat list for forms, required ones first.

    [{name, type, description, required, default?, …bounds}]
    """
    if not isinstance(schema, Mapping) or not isinstance(schema.get("properties"), Mapping):
        return []
    required = schema.get("required")
    wanted = required if isinstance(required, list) else []
    listed = list(schema["properties"].items())[:MAX_MEMBERS]
    members = [_member(name, part, is_required=name in wanted) for name, part in listed]
    # A published schema is stored with its keys sorted, so their order says nothing.
    return sorted(members, key=lambda member: not member["required"])


def _member(name: str, part: Json, *, is_required: bool) -> dict[str, Json]:
    known = part if isinstance(part, Mapping) else {}
    member: dict[str, Json] = {
        "name": name,
        "type": _type(known),
        "description": known.get("description") or "",
        "required": is_required,
    }
    if "default" in known:
        member["default"] = known["default"]
    return member | {flat: known[keyword] for keyword, flat in _BOUNDS.items() if keyword in known}


def _type(part: Mapping[str, Json]) -> str:
    """One word for what a member is: its types with "or" between them, or "any"."""
    written = part.get("type")
    if isinstance(written, str):
        return written
    if isinstance(written, list):
        return " or ".join(str(one) for one in written)
    for choice in ("oneOf", "anyOf"):
        branches = part.get(choice)
        if isinstance(branches, list):
            kinds = dict.fromkeys(_type(one) for one in branches if isinstance(one, Mapping))
            return " or ".join(kinds) if "any" not in kinds else "any"
    options = part.get("enum")
    if isinstance(options, list) and options and all(isinstance(option, str) for option in options):
        return "string"
    return "any"
