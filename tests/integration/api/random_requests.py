"""Requests drawn from the OpenAPI document: mostly of the right shape, here and there with what nobody expects."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

Schema = Mapping[str, Any]

_STRANGE: tuple[Any, ...] = (
    None, True, 0, -1, 2**31, 2**63, 10**30, 1.5, -0.0, 1e308, "", "\u0000", "\ud800", "é" * 50, "x" * 5000,
    "${x}", "${secret.A}", "' OR 1=1 --", "../../etc", "%", "*", "01a2212c-1676-7730-bb6e-86ff1b71c4ba",
    "2026-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "P1D", "NO/ZONE",
    [], {}, [None], {"": 1}, {"a": {"b": [1, {"c": "${event}"}]}}, {"$ref": "#"}, {"__proto__": 1}, ["a"] * 200,
    {"k" * 300: 1}, {"type": "X"},
)  # fmt: skip
_PLAIN = ("a", "asking", "review", "x-1", "2026-01-01T00:00:00Z", "${input.a}", "1h", "0 0 * * *", "UTC")
_NUMBERS = (0, 1, 2, 10, -1, 2**31, 2**53, 2**63 - 1, 2**63)
_DEEPEST = 6


@dataclass(frozen=True)
class RandomRequest:
    """One request; `url` holds its query."""

    method: str
    url: str
    body: bytes | None
    headers: Mapping[str, str]


@dataclass
class RandomRequests:
    """Draws requests for the operations of a document; `known` are ids and names that exist."""

    document: Schema
    seed: int
    known: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._operations = [
            (method, path, operation)
            for path, methods in self.document["paths"].items()
            for method, operation in methods.items()
            if not path.endswith("/stream")  # answers for as long as somebody listens
        ]

    def draw(self, count: int) -> Iterator[RandomRequest]:
        """Draw `count` requests, one after the other, so that `known` may grow between them."""
        for _ in range(count):
            yield self._request(*self._random.choice(self._operations))

    def _request(self, method: str, path: str, operation: Schema) -> RandomRequest:
        draw, query = self._random, []
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "path":
                value = (
                    draw.choice(self.known)
                    if self.known and draw.random() < 0.8
                    else str(draw.choice(_STRANGE))
                )
                path = path.replace(f"{{{parameter['name']}}}", quote(_raw(value), safe=""))
            elif parameter["in"] == "query" and draw.random() < 0.3:
                value = self._value(parameter["schema"])
                query.append(
                    (parameter["name"], _raw(value if isinstance(value, str) else json.dumps(value)))
                )
        body = None
        if "requestBody" in operation:
            schema = next(iter(operation["requestBody"]["content"].values()))["schema"]
            body = json.dumps(self._value(schema)).encode()
            body = body[: len(body) // 2] if draw.random() < 0.03 else body
        headers = {"Content-Type": "application/json", "Prefer": "wait=0"}
        if draw.random() < 0.2:
            headers["Idempotency-Key"] = draw.choice(("a", "b", "x" * 300, "é"))
        return RandomRequest(method.upper(), f"{path}?{urlencode(query)}" if query else path, body, headers)

    def _value(self, schema: Schema, depth: int = 0) -> Any:
        draw = self._random
        if draw.random() < 0.12 or depth > _DEEPEST:
            return draw.choice(_STRANGE)
        if "$ref" in schema:
            return self._value(
                self.document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], depth + 1
            )
        for several in ("anyOf", "oneOf"):
            if several in schema:
                return self._value(draw.choice(schema[several]), depth + 1)
        if "enum" in schema or "const" in schema:
            return draw.choice(schema.get("enum") or [schema["const"]])
        match schema.get("type"):
            case "object":
                return self._object(schema, depth)
            case "array":
                return [self._value(schema.get("items", {}), depth + 1) for _ in range(draw.randint(0, 3))]
            case "integer" | "number":
                return draw.choice(_NUMBERS)
            case "boolean":
                return draw.random() < 0.5
            case "string":
                return draw.choice(_PLAIN)
            case _:
                return draw.choice(_STRANGE)

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        draw, required = self._random, schema.get("required", ())
        members = {
            name: self._value(part, depth + 1)
            for name, part in schema.get("properties", {}).items()
            if draw.random() < (0.95 if name in required else 0.4)
        }
        if draw.random() < 0.05:
            members[draw.choice(("x", "type", "id", ""))] = draw.choice(_STRANGE)
        more = schema.get("additionalProperties")
        if isinstance(more, Mapping) and draw.random() < 0.6:
            members[draw.choice(("a", "b c", "${x}"))] = self._value(more, depth + 1)
        return members


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
