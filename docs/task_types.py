"""The page of task types, from the catalogue and from what the handlers that come along publish."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from common.catalogue import CATALOGUE, TaskType, members_of
from task_runner import handlers
from task_runner.registry import REGISTRY

GUIDES = {
    "HTTP": "http-tasks.md",
    "EMAIL": "email.md",
    "AI": "ai.md",
    "HUMAN": "people.md",
    "WORKFLOW": "child-workflows.md",
    "MAP": "map.md",
    "POLL": "polling.md",
    "SYSTEM": "handlers.md",
}
"""Where more is said of a type; left out as long as there is no such page."""
ORDER = (
    "HTTP",
    "EMAIL",
    "HUMAN",
    "AI",
    "SYSTEM",
    "WORKFLOW",
    "MAP",
    "POLL",
    "TIMER",
    "SET",
    "TRANSFORM",
    "LOG",
    "EMIT",
)


def page(guides: Sequence[str]) -> str:
    """All types as Markdown; `guides` are the pages that there are."""
    assert handlers.__all__, "importing them registers them"  # noqa: S101
    table = ["| type | is |", "|---|---|"]
    table += [f"| [`{name}`](#{name.lower()}) | {CATALOGUE[name].title} |" for name in ORDER]
    return "\n".join([*table, *(line for name in ORDER for line in _type(CATALOGUE[name], guides))])


def _type(one: TaskType, guides: Sequence[str]) -> Iterator[str]:
    published = next((handler for handler in REGISTRY.all() if handler.name == one.type), None)
    said, given, made = one.description, one.input_schema, one.output_schema
    if published is not None:
        said, given, made = published.description, published.input_schema, published.output_schema
    yield from ("", f"## {one.type}", "", f"**{one.title}.** {_unwrapped(said)}")
    guide = GUIDES.get(one.type)
    if guide in guides:
        yield f"More stands in [its guide]({guide})."
    yield from _members("Input", given)
    yield from _members("Output", made)
    for example in one.examples:
        yield from ("", f"{example.says}:", "", "```json", json.dumps(example.task, indent=2), "```")


def _members(title: str, schema: Mapping[str, Any] | None) -> Iterator[str]:
    members = members_of(schema)
    if not members:
        told = (schema or {}).get("description") or ("null" if (schema or {}).get("type") == "null" else "")
        if told:
            yield from ("", f"{title}: {told[0].lower() + told[1:]}")
        return
    yield from ("", f"| {title.lower()} | type | |", "|---|---|---|")
    for member in members:
        yield f"| `{member['name']}` | {member['type']} | {_about(member)} |"


def _about(member: Mapping[str, Any]) -> str:
    parts = [str(member["description"]).rstrip(".")] if member["description"] else []
    if "enum" in member:
        parts.append("one of " + ", ".join(f"`{json.dumps(option)}`" for option in member["enum"]))
    parts += [
        told for low, high, what in _BOUNDS if (told := _bounds(member.get(low), member.get(high), what))
    ]
    if "default" in member:
        parts.append(f"default `{json.dumps(member['default'])}`")
    elif member["required"]:
        parts.insert(0, "required")
    return "; ".join(parts).replace("|", "\\|")


_BOUNDS = (
    ("min", "max", ""),
    ("minLength", "maxLength", " characters"),
    ("minItems", "maxItems", " elements"),
)


def _bounds(low: float | None, high: float | None, what: str) -> str:
    if low is not None and high is not None:
        return f"{low:,} to {high:,}{what}"
    if low is not None:
        return f"at least {low:,}{what}"
    return "" if high is None else f"at most {high:,}{what}"


def _unwrapped(text: str) -> str:
    """Paragraphs of a docstring, each on a line of its own."""
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    return "\n\n".join(paragraphs)
