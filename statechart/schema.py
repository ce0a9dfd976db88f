"""The JSON Schema of a definition document, for editors, the published schema and other people's validators.

It describes the documented forms. The kernel also reads the forms that XState exports (document.py), and settles what
a schema cannot say: whether names lead anywhere and expressions compile.
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from statechart.document import Definition
from statechart.env import Json

IDENTIFIER = "urn:signalbox:definition:1"


class _Schema(GenerateJsonSchema):
    """Without the titles that Pydantic makes of every field name: they say nothing that the name does not."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        del schema
        return False


def json_schema() -> dict[str, Json]:
    """JSON Schema 2020-12 of a definition document."""
    schema = Definition.model_json_schema(by_alias=True, schema_generator=_Schema)
    return {"$schema": GenerateJsonSchema.schema_dialect, "$id": IDENTIFIER, **schema, "title": "Definition"}
