"""The pages at /docs, rendered from the OpenAPI document: operations, members, curl lines, problem codes.

Rendered once at start, on the server, with a style sheet of our own: no script, no font and no request to anybody else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import orjson
from flask.templating import Environment

from api.problems import CATALOGUE

Schema = Mapping[str, Any]
Prose = list[tuple[str, bool]]
"""Text in pieces, each with whether it is code."""
_REF = "#/components/schemas/"


@dataclass(frozen=True, slots=True)
class Documents:
    """Everything that is served about this API, as bytes."""

    openapi: bytes
    reference: bytes
    problems: bytes
    style: bytes


@dataclass(frozen=True, slots=True)
class Member:
    """One line of a table: a parameter, or a member of an object."""

    name: str
    type: str
    links: list[str]  # schemas that the type names
    is_required: bool
    where: str
    description: str


@dataclass(frozen=True, slots=True)
class Reply:
    """One documented answer of an operation."""

    status: str
    description: str
    media_type: str
    schema: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One operation, as the page shows it."""

    id: str
    method: str
    path: str
    summary: str
    paragraphs: list[Prose]
    parameters: list[Member]
    body: str | None
    replies: list[Reply]
    curl: str


def render(document: Schema, pages: Environment) -> Documents:
    """Render every page from the finished OpenAPI document, with the templates of `pages`, which escapes."""
    version = document["info"]["version"]
    reference = pages.get_template("reference.html").render(
        about=_paragraphs(document["info"]["description"]),
        version=version,
        groups=_groups(document),
        schemas=_schemas(document),
    )
    problems = pages.get_template("problems.html").render(version=version, catalogue=CATALOGUE)
    style = files("api").joinpath("static", "docs.css").read_bytes()
    return Documents(orjson.dumps(document), reference.encode(), problems.encode(), style)


def _paragraphs(text: str) -> list[Prose]:
    return [_prose(paragraph) for paragraph in text.split("\n\n") if paragraph.strip()]


def _prose(text: str) -> Prose:
    """Backquotes mark code, as in every docstring."""
    return [(piece, bool(number % 2)) for number, piece in enumerate(" ".join(text.split()).split("`"))]


def _groups(document: Schema) -> dict[str, list[Entry]]:
    groups: dict[str, list[Entry]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            groups.setdefault(operation["tags"][0], []).append(_entry(path, method.upper(), operation))
    return groups


def _entry(path: str, method: str, operation: Schema) -> Entry:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    return Entry(
        id=operation["operationId"],
        method=method,
        path=path,
        summary=operation["summary"],
        paragraphs=_paragraphs(operation["description"]),
        parameters=[_parameter(parameter) for parameter in operation["parameters"]],
        body=_named(body["schema"]) if body else None,
        replies=[
            _reply(status, reply) for status, reply in operation["responses"].items() if status != "default"
        ],
        curl=_curl(path, method, operation, body),
    )


def _parameter(parameter: Schema) -> Member:
    return Member(
        name=parameter["name"],
        type=_type(parameter["schema"]),
        links=[],
        is_required=parameter.get("required", False),
        where=parameter["in"],
        description=parameter.get("description", ""),
    )


def _reply(status: str, reply: Schema) -> Reply:
    if "content" not in reply:
        return Reply(status, reply["description"], "no body", None)
    media_type, content = next(iter(reply["content"].items()))
    return Reply(status, reply["description"], media_type, _named(content["schema"]))


def _curl(path: str, method: str, operation: Schema, body: Schema | None) -> str:
    for parameter in operation["parameters"]:
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", str(parameter["example"]))
    parts = ["curl" if method == "GET" else f"curl -X {method}", f'"$SIGNALBOX_URL{path}"']
    if operation.get("security") != []:
        parts.append('-H "Authorization: Bearer $SIGNALBOX_KEY"')
    if body is not None and "example" in body:
        parts.append("-H 'Content-Type: application/json'")
        parts.append(f"-d '{json.dumps(body['example'])}'")
    return (" " if len(parts) < 4 else " \\\n  ").join(parts)


@dataclass(frozen=True, slots=True)
class Named:
    """One schema of the reference: its members, or in a few words what it is instead of an object."""

    description: Prose
    members: list[Member]
    type: str


def _schemas(document: Schema) -> dict[str, Named]:
    return {
        name: Named(_prose(schema.get("description", "")), list(_members(schema)), _type(schema))
        for name, schema in sorted(document["components"]["schemas"].items())
    }


def _members(schema: Schema) -> Iterator[Member]:
    required = schema.get("required", ())
    for name, part in schema.get("properties", {}).items():
        yield Member(
            name=name,
            type=_type(part),
            links=sorted(set(_links(part))),
            is_required=name in required,
            where="",
            description=part.get("description", ""),
        )


def _named(schema: Schema) -> str | None:
    reference = schema.get("$ref")
    return reference.removeprefix(_REF) if reference else None


def _links(schema: Any) -> Iterator[str]:
    """The schemas that a schema names, at any depth."""
    match schema:
        case {"$ref": str(reference)}:
            yield reference.removeprefix(_REF)
        case dict():
            for part in schema.values():
                yield from _links(part)
        case list():
            for part in schema:
                yield from _links(part)


def _type(schema: Schema) -> str:
    """A schema in a few words: `text`, `Instance or null`, `list of "a" | "b"`."""
    match schema:
        case {"$ref": str(reference)}:
            return reference.removeprefix(_REF)
        case {"anyOf": list(choices)}:
            return " or ".join(dict.fromkeys(_type(choice) for choice in choices))
        case {"enum": list(values)}:
            return " | ".join(json.dumps(value) for value in values)
        case {"const": value}:
            return json.dumps(value)
        case {"type": "array", **rest}:
            return f"list of {_type(rest.get('items', {}))}"
        case {"type": "object", "additionalProperties": dict(values)}:
            return f"object of {_type(values)}"
        case {"type": "string", "format": str(form)}:
            return {"date-time": "instant", "uuid": "UUID"}.get(form, form)
        case {"type": str(name)}:
            return {"string": "text", "integer": "integer"}.get(name, name)
        case _:
            return "any JSON"
