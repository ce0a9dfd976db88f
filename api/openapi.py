"""The OpenAPI 3.1 document, made from the table of operations and the Pydantic models behind it.

Built once at start. Problems are the default answer of every operation; schemas are components, named as their models.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.auth import roles_with
from api.operations import JSON, Operation, Shape
from api.problems import MEDIA_TYPE as PROBLEM
from api.schemas.answers import Problem
from common.commands.limits import MAX_LIMIT_KEY
from common.commands.secrets import NAME
from common.links import MAX_TOKEN

Schema = dict[str, Any]
_IN = "validation"
_OUT = "serialization"

_PATH_PARAMETERS: dict[str, Schema] = {
    "key": {"schema": {"type": "string"}, "description": "the definition's key", "example": "hello-workflow"},
    "version": {
        "schema": {"type": "integer", "minimum": 1},
        "description": "the version's number",
        "example": 1,
    },
    "token": {
        "schema": {"type": "string", "maxLength": MAX_TOKEN},
        "description": "what comes behind /links/ in a signed link",
        "example": "eyJlIjox…",
    },
    "limitKey": {
        "schema": {"type": "string", "maxLength": MAX_LIMIT_KEY},
        "description": "`type:` and a task type, or `key:` and what a definition's `limit.key` came to",
        "example": "type:HTTP",
    },
    "secretName": {
        "schema": {"type": "string", "pattern": f"^{NAME}$"},
        "description": "the name that stands in `${secret.NAME}`",
        "example": "CARRIER_KEY",
    },
}
_ID: Schema = {
    "schema": {"type": "string", "format": "uuid"},
    "example": "0199a3c5-7f1e-7c42-9b63-2f4d8e6a1b90",
}
_IDEMPOTENCY_KEY: Schema = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "the request takes effect once, however often it is sent in 24 hours; repeats get the first answer",
}
_PREFER: Schema = {
    "name": "Prefer",
    "in": "header",
    "schema": {"type": "string", "pattern": r"wait=\d+"},
    "example": "wait=5",
    "description": "answer once the instance has settled, or after that many seconds (at most 60) with the state so far",
}
_ABOUT = """\
Durable statecharts on Celery. Everything that happens to an instance is an event in its inbox; whatever was acknowledged
here is in the database. Times are RFC 3339 in UTC, ids are UUIDs, members are in camelCase, JSON is strict.

Every POST honours `Idempotency-Key`. Refusals are problems (RFC 9457) with a stable `code`.
"""


class Schemas:
    """Every model of the document, and the references that stand for them."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        wanted: dict[tuple[type[BaseModel], str], None] = {(Problem, _OUT): None}
        for operation in operations:
            for model in (operation.body, operation.query):
                if model is not None:
                    wanted[model, _IN] = None
            for shape in operation.answers.values():
                if shape.model is not None:
                    wanted[shape.model, _OUT] = None
        inputs: Any = list(wanted)
        references, definitions = models_json_schema(inputs, ref_template="#/components/schemas/{model}")
        self._references: dict[Any, Schema] = dict(references)
        self.components: dict[str, Schema] = definitions.get("$defs", {})

    def body(self, model: type[BaseModel]) -> Schema:
        """The reference that stands for a request's model."""
        return self._references[model, _IN]

    def answer(self, model: type[BaseModel]) -> Schema:
        """The reference that stands for an answer's model."""
        return self._references[model, _OUT]

    def parameters(self, model: type[BaseModel]) -> list[Schema]:
        """A model of query parameters, one by one."""
        schema = self.resolve(self.body(model))
        required = schema.get("required", ())
        return [
            {
                "name": name,
                "in": "query",
                "required": name in required,
                **({"description": part["description"]} if "description" in part else {}),
                "schema": _without_null(part),
            }
            for name, part in schema.get("properties", {}).items()
        ]

    def resolve(self, reference: Schema) -> Schema:
        """What a reference stands for."""
        return self.components[reference["$ref"].rpartition("/")[2]]


def build_document(operations: Sequence[Operation], *, version: str) -> Schema:
    """The whole document, as plain JSON."""
    schemas = Schemas(operations)
    paths: dict[str, dict[str, Schema]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas)
    queries = {schemas.body(o.query)["$ref"].rpartition("/")[2] for o in operations if o.query is not None}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Signalbox",
            "version": version,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"key": []}],
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in operations)],
        "paths": paths,
        "components": {
            "schemas": {name: part for name, part in schemas.components.items() if name not in queries},
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "an API key, sb_…, which names its tenant",
                }
            },
            "responses": {
                "Problem": {
                    "description": "a refusal",
                    "content": {PROBLEM: {"schema": schemas.answer(Problem)}},
                }
            },
        },
    }


def _operation(operation: Operation, schemas: Schemas) -> Schema:
    described: Schema = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": _description(operation),
        "tags": [operation.tag],
        "parameters": _parameters(operation, schemas),
        "responses": {
            str(status): _answer(status, shape, schemas) for status, shape in operation.answers.items()
        },
    }
    described["responses"]["default"] = {"$ref": "#/components/responses/Problem"}
    if operation.permission is None:
        described["security"] = []
    if operation.body is not None:
        content: Schema = {"schema": schemas.body(operation.body)}
        if operation.example is not None:
            content["example"] = operation.example
        described["requestBody"] = {"required": not operation.body_is_optional, "content": {JSON: content}}
    return described


def _description(operation: Operation) -> str:
    if operation.permission is None:
        return operation.description
    roles = ", ".join(roles_with(operation.permission))
    return f"{operation.description}\n\nRoles: {roles}.".strip()


def _parameters(operation: Operation, schemas: Schemas) -> list[Schema]:
    parameters = [
        {"name": name, "in": "path", "required": True, **_PATH_PARAMETERS.get(name, _ID)}
        for name in operation.path_parameters
    ]
    if operation.query is not None:
        parameters += schemas.parameters(operation.query)
    if operation.method == "POST" and operation.permission is not None:
        parameters.append(_IDEMPOTENCY_KEY)
    if operation.wait is not None:
        parameters.append(_PREFER)
    return parameters


def _answer(status: int, shape: Shape, schemas: Schemas) -> Schema:
    answer: Schema = {"description": shape.description or HTTPStatus(status).phrase}
    if status == HTTPStatus.NO_CONTENT:
        return answer
    if shape.model is not None:
        schema = schemas.answer(shape.model)
    else:
        schema = {"type": "object" if shape.media_type.endswith("json") else "string"}
    answer["content"] = {shape.media_type: {"schema": schema}} | {
        text: {"schema": {"type": "string"}} for text in shape.texts
    }
    return answer


def _without_null(part: Schema) -> Schema:
    """A query parameter's schema: one that may be left out is null to the model, and cannot be null in an address."""
    schema = {key: value for key, value in part.items() if key not in ("description", "title", "default")}
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:
        del schema["anyOf"]
        schema |= choices[0]
    if part.get("default") not in (None, []):
        schema["default"] = part["default"]
    return schema
